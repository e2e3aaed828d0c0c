//! Why there is no answer.

use std::io;
use std::path::PathBuf;

use bstr::BString;

use substitutes::{Stop, item, lookup, servers};

use crate::request_error::RequestError;
use crate::settings;

/// Why there is no answer.
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
    /// The conversation was cancelled, or took too long.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// The client's settings can't be passed on.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// Whom to believe isn't known.
    #[error("{0}")]
    Keys(String),
    /// A server can't be one.
    #[error(transparent)]
    Server(#[from] servers::Error),
    /// The servers can't be asked.
    #[error(transparent)]
    Lookup(lookup::Error),
    /// The item can't be fetched from anybody.
    #[error(transparent)]
    Fetch(item::Error),
}

impl Error {
    /// Whether the client doesn't wait any more.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Error::Stopped(Stop::Interrupted))
    }
}

impl From<lookup::Error> for Error {
    fn from(error: lookup::Error) -> Error {
        match error {
            lookup::Error::Stopped(stop) => Error::Stopped(stop),
            other => Error::Lookup(other),
        }
    }
}

impl From<Error> for RequestError {
    fn from(error: Error) -> RequestError {
        RequestError::new(error)
    }
}
