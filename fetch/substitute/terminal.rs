//! Who waits: the daemon, which passes on what is said on standard error, and kills this process when
//! it has waited long enough.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use substitutes::{Stop, Waiter};

/// The daemon at the other end of standard error.
pub(super) struct Terminal {
    /// Never readable, as its other end is never written to.
    silence: OwnedFd,
    _other_end: OwnedFd,
}

impl Terminal {
    pub(super) fn new() -> io::Result<Terminal> {
        let (silence, other_end) = system::pipe::pipe()?;
        Ok(Terminal {
            silence,
            _other_end: other_end,
        })
    }
}

impl Waiter for Terminal {
    fn time_left(&self) -> Result<Option<Duration>, Stop> {
        Ok(None)
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.silence.as_fd()
    }

    fn note_activity(&mut self) {}

    fn say(&mut self, text: &str) {
        // If nobody listens, there is nobody to tell.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}
