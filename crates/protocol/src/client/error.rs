//! Errors of operations of a daemon.

use std::io;

use crate::codec;
use crate::version::Version;

/// Why an operation of a daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Connecting failed.
    #[error("failed to connect to `{address}': {source}")]
    Connect {
        /// The daemon's address.
        address: String,
        /// The reason.
        source: io::Error,
    },
    /// An address of an unknown kind.
    #[error("`{0}': unsupported kind of daemon address")]
    Address(String),
    /// Communication with the daemon failed; the connection can't be used any more.
    #[error("while {doing}: {source}")]
    Io {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The daemon violated the protocol.
    #[error("protocol error while {doing}: {reason}")]
    Protocol {
        /// What was attempted.
        doing: String,
        /// What is wrong.
        reason: String,
    },
    /// The daemon has another major protocol version.
    #[error("build daemon handshake failed: it speaks version {0}, not {ours}", ours = Version::CURRENT)]
    Version(Version),
    /// Data to send could not be read, or received data could not be written.
    #[error("while {doing}: {source}")]
    Local {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The daemon reported an error. The connection can still be used.
    #[error("{message}")]
    Daemon {
        /// The daemon's message.
        message: String,
        /// 1, or one of the numbers in [`status`](crate::frames::status).
        status: u32,
    },
}

impl Error {
    /// The status, if the daemon reported the error.
    pub fn status(&self) -> Option<u32> {
        match self {
            Error::Daemon { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub(super) fn decode(doing: &str, error: codec::Error) -> Error {
        match error {
            codec::Error::Wire(formats::wire::Error::Io(source)) => Error::Io {
                doing: doing.to_owned(),
                source,
            },
            other => Error::Protocol {
                doing: doing.to_owned(),
                reason: other.to_string(),
            },
        }
    }
}
