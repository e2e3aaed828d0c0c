//! What the system's databases say of a user and of a group.

use std::path::PathBuf;

/// A user in the system's user database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The login name.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The home directory.
    pub home: PathBuf,
}

/// A group in the system's group database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupEntry {
    /// The group's name.
    pub name: String,
    /// The group id.
    pub gid: u32,
    /// The names of its members, in the order of the database.
    pub members: Vec<String>,
}
