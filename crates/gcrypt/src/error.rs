//! What can go wrong with keys and s-expressions.

use std::io;
use std::path::PathBuf;

/// An error, with a message for the administrator who has to fix it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not an s-expression that libgcrypt can read.
    #[error("invalid s-expression: {reason} (at byte {position})")]
    Syntax {
        /// libgcrypt's message.
        reason: String,
        /// The offset in the text, in bytes.
        position: usize,
    },
    /// The text is longer than any key, signature or ACL could be.
    #[error("s-expression of {0} bytes is too long")]
    TooLong(usize),
    /// The s-expression is well-formed but isn't what was expected.
    #[error("{0}")]
    Shape(&'static str),
    /// The ACL is not a list of `(entry KEY (tag (guix import)))`.
    #[error("invalid access-control list in `{}'", .0.display())]
    Acl(PathBuf),
    /// A file could not be used.
    #[error("{attempt} `{}': {source}", .path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file holds an s-expression that cannot be used.
    #[error("`{}': {source}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// The secret key is readable by other users.
    #[error("file `{}' should be secret (inaccessible to everybody else)!", .0.display())]
    NotSecret(PathBuf),
    /// A key pair exists already.
    #[error("key pair exists under '{}'; remove it first", .0.display())]
    KeyPairExists(PathBuf),
    /// libgcrypt refused to make a key, or to sign.
    #[error("{attempt} failed: {reason}")]
    Crypto {
        /// What was attempted.
        attempt: &'static str,
        /// libgcrypt's message.
        reason: String,
    },
}

impl Error {
    pub(crate) fn file(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File {
            attempt,
            path,
            source,
        }
    }
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
