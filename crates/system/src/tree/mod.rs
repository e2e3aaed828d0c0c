//! No-follow work on file trees through directory descriptors.
//!
//! Builders own the trees that the daemon later walks, changes and deletes, and may rename
//! things under it. So nothing here goes through a path twice: a [`Dir`] is an open directory,
//! its methods take single names in it and never follow a symbolic link, and the tree
//! operations ([`walk`], [`remove_tree`], [`copy_tree`]) are iterative, keep few descriptors
//! open however deep the tree is, and check that what they opened is what they looked at.

mod attributes;
mod copy;
mod dir;
mod remove;
mod root_dir;
mod walk;

pub use copy::copy_tree;
pub use dir::{Dir, Entry, Kind, Stat};
pub use remove::remove_tree;
pub use root_dir::{Found, RootDir, locate};
pub use walk::{Descend, Visit, Visited, walk};

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

#[cfg(test)]
mod tests;
