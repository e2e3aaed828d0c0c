//! The phases of becoming a builder, named as in Guix, and errors in them.

use std::io;

/// An error in a phase of becoming the builder, with the message for the client.
#[derive(Debug, thiserror::Error)]
#[error(
    "while setting up the child process: in phase {phase}: {}",
    system::errno::message(error)
)]
pub(super) struct SetUpError {
    pub(super) phase: &'static str,
    pub(super) error: io::Error,
}

/// Adds the phase in which it occurred to an error.
pub(super) fn phase<T>(
    phase: &'static str,
    result: Result<T, impl Into<io::Error>>,
) -> Result<T, SetUpError> {
    result.map_err(|error| SetUpError {
        phase,
        error: error.into(),
    })
}
