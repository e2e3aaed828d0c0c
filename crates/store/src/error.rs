//! Errors of the store, with Guix's messages where Guix has one.

use std::io;

use formats::graph::Cycle;
use formats::hash::Hash;
use formats::nar::MAX_DEPTH;
use formats::store_path::StorePath;
use system::{errno, quota};

/// A result whose error is a store [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on the store failed.
///
/// `Display` is the message for the client: what was attempted, on what, and why it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[error("{action}: {}", errno::message(source))]
    Io {
        /// What was attempted, and on what: "opening lock file `…'".
        action: String,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The database reported an error or is damaged.
    #[error("{action}: {source}")]
    Database {
        /// What was attempted.
        action: String,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },
    /// There may be no more of something.
    #[error(transparent)]
    Quota(#[from] quota::Exceeded),
    /// The path isn't valid.
    #[error("path `{0}' is not valid")]
    NotValid(StorePath),
    /// Other valid paths refer to the path.
    #[error("cannot delete path `{path}' because it is in use by {referrers}")]
    InUse {
        /// The path that was to be deleted.
        path: StorePath,
        /// The referrers, quoted and separated by commas.
        referrers: String,
    },
    /// A path named for deletion is reachable from a root.
    #[error("cannot delete path `{0}' since it is still alive")]
    StillAlive(String),
    /// An item's references form a cycle.
    #[error("cycle detected in the references of `{0}'")]
    Cycle(StorePath),
    /// A file doesn't belong to the build user.
    #[error("invalid ownership on file `{0}'")]
    InvalidOwnership(String),
    /// A file is neither regular, directory nor symbolic link.
    #[error("file `{0}' has an unsupported type")]
    UnsupportedType(String),
    /// Its archive could not be read: no reader of nars takes one that is nested so deeply.
    #[error("directories in `{0}' are nested deeper than {MAX_DEPTH}")]
    TooDeep(String),
    /// An item to export doesn't have the contents that were registered.
    #[error("hash of path `{path}' has changed from `{expected}' to `{actual}'!")]
    HashChanged {
        /// The item.
        path: StorePath,
        /// The registered hash, in hexadecimal.
        expected: String,
        /// The actual hash, in hexadecimal.
        actual: String,
    },
    /// An imported item lacks the required signature.
    #[error("imported archive of `{0}' lacks a signature")]
    Unsigned(StorePath),
    /// An archive has an item that was not asked for. Nothing of the archive is registered that
    /// comes with it.
    #[error("it was not asked for `{0}'")]
    Unwanted(StorePath),
    /// An item of an archive does not have the contents that its derivation demands.
    #[error("hash mismatch for store item '{0}'")]
    WrongContents(StorePath),
    /// A received nar is not that of the item.
    #[error("hash mismatch for store item `{path}': expected {expected}, got {actual}")]
    WrongHash {
        /// The item.
        path: StorePath,
        /// What it has to be.
        expected: Box<Hash>,
        /// What it is.
        actual: Box<Hash>,
    },
    /// An archive has a tree whose directories are nested more deeply than is allowed.
    #[error("{0}")]
    DeepArchive(String),
    /// The signature is for another hash than that of the received item.
    #[error(
        "signed hash doesn't match actual contents of imported archive; \
         archive could be corrupt, or someone is trying to import a Trojan horse"
    )]
    SignedHashMismatch,
    /// Received data is malformed.
    #[error("{0}")]
    BadInput(String),
    /// [`Progress`](crate::Progress) requested to stop.
    #[error("interrupted by the user")]
    Interrupted,
    /// The received path is locked by this same thread.
    #[error("deadlock: trying to re-acquire self-held lock")]
    SelfLock,
    /// Any other error, with the full message.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// A failed system call; `action` is what was attempted, and on what.
    pub fn io(action: impl Into<String>, source: impl Into<io::Error>) -> Error {
        Error::Io {
            action: action.into(),
            source: source.into(),
        }
    }

    /// A failed database call; `action` is what was attempted.
    pub fn database(action: impl Into<String>, source: rusqlite::Error) -> Error {
        Error::Database {
            action: action.into(),
            source,
        }
    }

    /// The system call's error number, if this is a failed system call.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

impl From<Cycle<StorePath>> for Error {
    fn from(cycle: Cycle<StorePath>) -> Error {
        Error::Cycle(cycle.0)
    }
}

/// Adds what was attempted to the error of a system call.
pub(crate) trait Context<T> {
    /// Turns the error into [`Error::Io`]; `action` is only called on failure.
    fn context<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, action: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Error::io(action(), error))
    }
}

/// Wraps an [`Error`] for an interface that only knows `io::Error`; [`from_io`] unwraps it.
pub(crate) fn into_io(error: Error) -> io::Error {
    io::Error::other(error)
}

/// The [`Error`] inside `error`, or else `error` with what was attempted.
pub(crate) fn from_io(error: io::Error, action: impl FnOnce() -> String) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) => Error::io(action(), error),
    }
}

/// Converts an error of reading a nar: malformed data, or a failure to unpack it.
pub(crate) fn from_nar(error: formats::nar::Error) -> Error {
    match error {
        formats::nar::Error::Sink(error) => from_io(error, || "unpacking archive".to_owned()),
        formats::nar::Error::TooDeep => Error::DeepArchive(error.to_string()),
        other => Error::BadInput(other.to_string()),
    }
}

/// Converts an error of a walk through a tree in `parent`.
pub(crate) fn from_tree(error: system::tree::Error, parent: &std::path::Path) -> Error {
    let path = parent.join(&error.path);
    from_io(error.source, || {
        format!("cannot {} `{}'", error.action, path.display())
    })
}
