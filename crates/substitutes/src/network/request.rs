//! What can be asked for.

use std::fmt;
use std::os::fd::OwnedFd;

use crate::compression::Compression;

/// Identifies a request. No two requests of a [`Network`](super::Network) have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

impl RequestId {
    /// The request with this number in the protocol.
    pub const fn from_number(number: u64) -> RequestId {
        RequestId(number)
    }

    /// The number in the protocol.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// On whose behalf something is asked for. Users share what there is, and none of them can take the
/// shares of the others. The numbers are whatever the daemon likes; 0, the default, is root, or
/// whoever is alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct User(pub(super) u64);

impl User {
    /// The user with this number.
    pub const fn from_number(number: u64) -> User {
        User(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Requester {
    /// The user.
    pub user: User,
    /// One of the user's exchanges, which are served in turn.
    pub exchange: u64,
}

/// Where the contents of an item can be had.
#[derive(Debug)]
pub enum Source {
    /// From a server, by `http` or `https`.
    Url {
        /// The address, with user and password if the server needs them.
        url: String,
        /// The compression of what the server sends.
        compression: Compression,
    },
    /// From an open file, which is read from its current position.
    File {
        /// The file. It should be a regular file: the program can't tell the end of anything else.
        file: OwnedFd,
        /// The compression of the file.
        compression: Compression,
    },
}

/// Contents to fetch.
///
/// All sources have the same contents, apart from compression. They are tried in order. If one
/// breaks off in the middle, it is continued from there if the server can do that; otherwise, the
/// contents are decompressed again, or fetched from the next source, and what was written already is
/// left out.
#[derive(Debug)]
pub struct Fetch {
    /// The sources: at least one, at most [`SOURCES_LIMIT`](super::SOURCES_LIMIT), and of these at
    /// most [`FILES_LIMIT`](super::FILES_LIMIT) files.
    pub sources: Vec<Source>,
    /// The size of the contents, decompressed. The program is done when it has written that many
    /// bytes, and never writes more; a source that ends earlier has failed.
    pub size: u64,
}
