//! Why the agent did not reply.

use std::io;
use std::path::PathBuf;

use bstr::BString;

use crate::request_error::RequestError;

/// Why the agent did not reply.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("cannot start `{} substitute': {source}", program.display())]
    Start {
        /// The `guix` program.
        program: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It ended instead of replying.
    #[error("`{} substitute' died unexpectedly", .0.display())]
    Died(PathBuf),
    /// The connection to it failed.
    #[error("talking to the substituter: {0}")]
    Io(#[from] io::Error),
    /// A number was expected.
    #[error("integer expected from stream: {0}")]
    Integer(BString),
    /// It replied about a path that it was not asked about.
    #[error("got unexpected path `{0}' from substituter")]
    UnexpectedPath(BString),
    /// Not a store path.
    #[error(transparent)]
    Path(#[from] formats::store_path::Error),
    /// A line or a list was too long.
    #[error("the substituter's answer is too long")]
    TooLong,
    /// The conversation was cancelled.
    #[error("interrupted by the user")]
    Interrupted,
    /// The conversation exceeded its total timeout, in seconds.
    #[error("timed out after {0} seconds")]
    TotalTimeout(u64),
    /// The agent exceeded the silence timeout, in seconds.
    #[error("timed out after {0} seconds of silence")]
    SilenceTimeout(u64),
}

impl From<Error> for RequestError {
    fn from(error: Error) -> RequestError {
        RequestError::new(error)
    }
}
