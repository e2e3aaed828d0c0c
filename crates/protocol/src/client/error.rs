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
    #[error("while {doing}: {}", described(source))]
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

/// End of file in the middle of a reply has a reason that users understand.
fn described(source: &io::Error) -> String {
    if source.kind() == io::ErrorKind::UnexpectedEof {
        "the daemon closed the connection; it may have been stopped or restarted".to_owned()
    } else {
        source.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_ends_is_named_as_the_reason() {
        let end = io::Read::read_exact(&mut io::empty(), &mut [0]).unwrap_err();
        let error = Error::decode("BuildPaths", formats::wire::Error::Io(end).into());
        assert_eq!(
            error.to_string(),
            "while BuildPaths: the daemon closed the connection; it may have been stopped or restarted"
        );
        let reset = io::Error::from_raw_os_error(104);
        let error = Error::decode("BuildPaths", formats::wire::Error::Io(reset).into());
        assert!(error.to_string().contains("reset by peer"), "{error}");
    }
}
