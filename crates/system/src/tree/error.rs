//! The error of tree operations.

use std::io;
use std::path::PathBuf;

/// A tree operation that failed: what was attempted, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}': {source}", path.display())]
pub struct Error {
    /// What was attempted, as in "open" or "change the mode of".
    pub action: &'static str,
    /// The file, under the tree's name as the caller gave it.
    pub path: PathBuf,
    /// The reason.
    pub source: io::Error,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(error.source.kind(), error)
    }
}
