//! The phases of becoming a builder, by Guix's names for them, and errors in them.

use std::io;

/// An error in a phase of becoming the builder, in the words that the client is told.
#[derive(Debug, thiserror::Error)]
#[error(
    "while setting up the child process: in phase {phase}: {}",
    system::errno::message(error)
)]
pub(super) struct SetUpError {
    pub(super) phase: &'static str,
    pub(super) error: io::Error,
}

/// Gives errors the name of the phase they occurred in.
pub(super) fn phase<T>(
    phase: &'static str,
    result: Result<T, impl Into<io::Error>>,
) -> Result<T, SetUpError> {
    result.map_err(|error| SetUpError {
        phase,
        error: error.into(),
    })
}
