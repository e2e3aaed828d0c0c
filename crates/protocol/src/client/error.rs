//! Why a daemon could not be asked.

use std::io;

use crate::codec;
use crate::version::Version;

/// Why a daemon could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("failed to connect to `{address}': {source}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// An address of a kind that is not known.
    #[error("`{0}': unsupported kind of daemon address")]
    Address(String),
    /// Talking to the daemon failed; the connection is of no use any more.
    #[error("while {doing}: {source}")]
    Io {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The daemon said something that it should not.
    #[error("protocol error while {doing}: {reason}")]
    Protocol {
        /// What was attempted.
        doing: String,
        /// What is wrong.
        reason: String,
    },
    /// The daemon speaks another protocol.
    #[error("build daemon handshake failed: it speaks version {0}, not {ours}", ours = Version::CURRENT)]
    Version(Version),
    /// Data to send could not be read, or data received not be written.
    #[error("while {doing}: {source}")]
    Local {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The daemon could not do it. The connection is as good as before.
    #[error("{message}")]
    Daemon {
        /// Why.
        message: String,
        /// 1, or what [`status`](crate::frames::status) has.
        status: u32,
    },
}

impl Error {
    /// The daemon's status, if it is the daemon that reports the error.
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
