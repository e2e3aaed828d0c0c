//! How long-running operations of the store report to their caller.

use crate::error::{Error, Result};

/// The importance of a message; the numbers are the protocol's verbosity levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Always shown.
    Error = 0,
    /// Shown by default.
    Info = 1,
    /// Shown with one `--verbose`.
    Talkative = 2,
    /// Shown with two `--verbose`.
    Chatty = 3,
    /// For debugging.
    Debug = 4,
    /// For debugging, in great detail.
    Vomit = 5,
}

/// Receives the messages of a long-running operation and can interrupt it.
pub trait Progress: Send + Sync {
    /// A message for the user, without a newline at its end.
    fn message(&self, level: Level, text: &str);

    /// Whether messages of this level are shown at all (formatting them costs time).
    fn shows(&self, level: Level) -> bool {
        let _ = level;
        true
    }

    /// Whether the operation should stop as soon as it can do so cleanly.
    fn interrupted(&self) -> bool {
        false
    }
}

/// A [`Progress`] that prints nothing and never interrupts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn message(&self, _level: Level, _text: &str) {}
    fn shows(&self, _level: Level) -> bool {
        false
    }
}

/// Fails with [`Error::Interrupted`] if `progress` requests to stop.
pub(crate) fn check(progress: &dyn Progress) -> Result<()> {
    if progress.interrupted() {
        Err(Error::Interrupted)
    } else {
        Ok(())
    }
}

/// Sends a message, which is only formatted if it is shown.
pub(crate) fn say(progress: &dyn Progress, level: Level, text: impl FnOnce() -> String) {
    if progress.shows(level) {
        progress.message(level, &text());
    }
}
