//! Signals: what is set once at the start of a program, and how exits are worded.

use std::io;

pub use nix::sys::signal::Signal;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, signal, sigprocmask};

/// Ignores `SIGPIPE`, so that writing to a client that has gone is an error and not the end.
/// Rust programs start so; this is for saying it.
pub fn ignore_broken_pipes() -> io::Result<()> {
    // SAFETY: SIG_IGN runs no code.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    Ok(())
}

/// Restores the default action of `SIGPIPE`, before becoming another program.
pub fn restore_broken_pipes() -> io::Result<()> {
    // SAFETY: SIG_DFL runs no code.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    Ok(())
}

/// Ends the program as one that never ignored `SIGPIPE` ends when the reader of its output is gone.
pub fn end_by_broken_pipe() -> ! {
    if restore_broken_pipes().is_ok() {
        let _ = nix::sys::signal::raise(Signal::SIGPIPE);
    }
    // The signal is blocked.
    std::process::exit(1)
}

/// Restores the default action of `SIGCHLD`, for programs that start others: whoever started this
/// one may have had it ignored, and then how children end can't be known.
pub fn expect_children() -> io::Result<()> {
    // SAFETY: SIG_DFL runs no code.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Blocks signals for this thread and those it starts later (which is how a program gets a
/// thread that waits for them with [`wait_for`]).
pub fn block(signals: &[Signal]) -> io::Result<()> {
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set_of(signals)), None)?;
    Ok(())
}

/// Waits for one of the given (blocked) signals and takes it.
pub fn wait_for(signals: &[Signal]) -> io::Result<Signal> {
    Ok(set_of(signals).wait()?)
}

fn set_of(signals: &[Signal]) -> SigSet {
    signals.iter().copied().collect()
}

/// The C library's text for a signal: `Killed`, `Segmentation fault`.
pub fn describe(number: i32) -> String {
    // SAFETY: strsignal returns a string for any number; it is copied at once. Its buffer for
    // unknown numbers belongs to the calling thread.
    let text = unsafe { libc::strsignal(number) };
    if text.is_null() {
        return format!("Unknown signal {number}");
    }
    // SAFETY: not null, NUL-terminated, and nobody changes it meanwhile.
    unsafe { std::ffi::CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// How Guix words the end of a process: `failed with exit code 1`,
/// `failed due to signal 9 (Killed)`, `succeeded`.
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
