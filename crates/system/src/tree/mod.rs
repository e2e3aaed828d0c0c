//! Operations on file trees that never follow links, through directory descriptors.
//!
//! Builders own the trees that the daemon later walks, changes and deletes, and may rename files at
//! the same time. So nothing here resolves a path twice: a [`Dir`] is an open directory, its
//! methods take single names in it and never follow a symbolic link, and the tree operations
//! ([`walk`], [`remove_tree`], [`copy_tree`]) are iterative, keep few descriptors open however deep
//! the tree is, and check that they opened the file that they examined.

mod attributes;
mod chmod;
mod copy;
mod dir;
mod error;
mod held;
mod listing;
mod lookup;
mod remove;
mod root_dir;
mod walk;

pub use attributes::has_attributes;
pub use copy::copy_tree;
pub use dir::{Dir, Entry, Kind, Stat};
pub use error::Error;
pub use held::Held;
pub use lookup::{Located, look_up};
pub use remove::remove_tree;
pub use root_dir::{Found, RootDir, locate};
pub use walk::{Descend, Visit, Visited, walk};

#[cfg(test)]
mod tests;
