//! Signals: dispositions set at the start of a program, and descriptions of exit statuses.

use std::io;
use std::time::Duration;

pub use nix::sys::signal::Signal;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, signal, sigprocmask};

/// Ignores `SIGPIPE`, so that writing to a client that has disconnected returns an error instead of
/// ending the process. Rust programs start like that; this makes it explicit.
pub fn ignore_broken_pipes() -> io::Result<()> {
    // SAFETY: SIG_IGN runs no code.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    Ok(())
}

/// Restores the default action of `SIGPIPE`, before executing another program.
pub fn restore_broken_pipes() -> io::Result<()> {
    // SAFETY: SIG_DFL runs no code.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

/// Ends the program by `SIGPIPE`, like a program that doesn't ignore it and whose output is closed.
pub fn end_by_broken_pipe() -> ! {
    if restore_broken_pipes().is_ok() {
        let _ = nix::sys::signal::raise(Signal::SIGPIPE);
    }
    // The signal is blocked.
    std::process::exit(1)
}

/// Restores the default action of `SIGCHLD`, for programs that start others: if it is inherited as
/// ignored, the exit statuses of children are lost.
pub fn expect_children() -> io::Result<()> {
    // SAFETY: SIG_DFL runs no code.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Has this process sent a signal when the thread that started it ends. A change of the user takes that
/// away, so this is to be called after it.
pub fn on_end_of_parent(signal: Signal) -> io::Result<()> {
    Ok(nix::sys::prctl::set_pdeathsig(signal)?)
}

/// Blocks signals in this thread and in those that it starts later, so that one thread can wait for
/// them with [`wait_for`].
pub fn block(signals: &[Signal]) -> io::Result<()> {
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set_of(signals)), None)?;
    Ok(())
}

/// Waits for one of the given (blocked) signals and consumes it.
pub fn wait_for(signals: &[Signal]) -> io::Result<Signal> {
    Ok(set_of(signals).wait()?)
}

/// The same, for at most so long; `None` if none has come.
pub fn wait_for_timeout(signals: &[Signal], timeout: Duration) -> io::Result<Option<Signal>> {
    let timeout = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let set = set_of(signals);
    // SAFETY: both structures live as long as the call, which doesn't change them; nothing is asked for
    // about the signal but its number.
    let number = unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &timeout) };
    if number > 0 {
        return Ok(Some(Signal::try_from(number)?));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // (Another signal has been handled.)
        Some(libc::EAGAIN | libc::EINTR) => Ok(None),
        _ => Err(error),
    }
}

/// Ends the program by a signal, as one would end that does nothing about it. Stops it, if that is what the
/// signal does, and returns when it goes on; the signal is blocked again then.
pub fn act_on(signal: Signal) -> io::Result<()> {
    nix::sys::signal::raise(signal)?;
    let set = set_of(&[signal]);
    sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None)?;
    Ok(sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?)
}

fn set_of(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

/// The C library's description of a signal: `Killed`, `Segmentation fault`.
pub fn describe(number: i32) -> String {
    // SAFETY: strsignal returns a string for any number; it is copied immediately. Its buffer for
    // unknown numbers belongs to the calling thread.
    let text = unsafe { libc::strsignal(number) };
    if text.is_null() {
        return format!("Unknown signal {number}");
    }
    // SAFETY: not null, NUL-terminated, and not changed meanwhile.
    unsafe { std::ffi::CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// Guix's description of the exit status of a process: `failed with exit code 1`, `failed due to
/// signal 9 (Killed)`, `succeeded`.
pub fn describe_exit(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => "succeeded".into(),
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(number)) => {
            format!("failed due to signal {number} ({})", describe(number))
        }
        _ => "died abnormally".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    #[test]
    fn exits_are_worded_as_in_guix() {
        assert_eq!(describe_exit(ExitStatus::from_raw(0)), "succeeded");
        assert_eq!(
            describe_exit(ExitStatus::from_raw(256)),
            "failed with exit code 1"
        );
        assert_eq!(
            describe_exit(ExitStatus::from_raw(9)),
            "failed due to signal 9 (Killed)"
        );
    }
}
