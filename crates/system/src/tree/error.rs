//! Errors of operations on trees.

use std::io;
use std::path::PathBuf;

/// A failed operation on a tree: what was attempted, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}': {source}", path.display())]
pub struct Error {
    /// What was attempted, as in "open" or "change the mode of".
    pub action: &'static str,
    /// The file, beginning with the tree's name as the caller gave it.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        io::Error::new(error.source.kind(), error)
    }
}
