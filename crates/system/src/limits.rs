//! Limits of a process that must not do much (`setrlimit(2)`, `prctl(2)`).

use std::io;

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Takes from this process, permanently, what a program that only computes and talks doesn't need:
/// core dumps, files of any size, message queues, locked memory. Writing to a file fails with
/// `EFBIG`; pipes and sockets aren't files in this sense.
pub fn forbid_files() -> io::Result<()> {
    // SAFETY: ignoring a signal runs no code.
    unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
    for resource in [
        Resource::RLIMIT_CORE,
        Resource::RLIMIT_FSIZE,
        Resource::RLIMIT_MSGQUEUE,
        Resource::RLIMIT_MEMLOCK,
    ] {
        setrlimit(resource, 0, 0)?;
    }
    Ok(())
}

/// Limits the memory of this process that is its own and writable, in bytes. Beyond that, allocating
/// fails.
pub fn limit_memory(bytes: u64) -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_DATA, bytes, bytes)?)
}

/// Hides this process from others of its user, which can then neither trace it nor read its memory.
pub fn hide() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Has this process killed when the thread that started it ends. A change of the user takes that
/// away, so this is to be called after it.
pub fn die_with_parent() -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
}
