//! The error of an operation, as reported to the client; used by sessions and builds.

use std::fmt;
use std::io;

use protocol::frames::status;

/// The content of the protocol's ERROR frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// The message for the user.
    pub message: String,
    /// The kind of failure; see [`protocol::frames::status`].
    pub status: u32,
}

impl RequestError {
    /// Any failure except a failed build.
    pub fn new(message: impl fmt::Display) -> RequestError {
        RequestError {
            message: message.to_string(),
            status: status::FAILURE,
        }
    }
}

impl From<store::Error> for RequestError {
    fn from(error: store::Error) -> RequestError {
        RequestError::new(error)
    }
}

impl From<formats::store_path::Error> for RequestError {
    fn from(error: formats::store_path::Error) -> RequestError {
        RequestError::new(error)
    }
}

impl From<system::quota::Exceeded> for RequestError {
    fn from(error: system::quota::Exceeded) -> RequestError {
        RequestError::new(error)
    }
}

impl From<io::Error> for RequestError {
    fn from(error: io::Error) -> RequestError {
        RequestError::new(system::errno::message(&error))
    }
}
