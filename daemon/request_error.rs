//! Why an operation failed, as the client is told: one type for sessions and builds.

use std::fmt;
use std::io;

use protocol::frames::status;

/// The content of the protocol's ERROR frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RequestError {
    /// For the person at the client.
    pub message: String,
    /// What kind of failure it is; see [`protocol::frames::status`].
    pub status: u32,
}

impl RequestError {
    /// Any failure but that of a build.
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

impl From<io::Error> for RequestError {
    fn from(error: io::Error) -> RequestError {
        RequestError::new(system::errno::message(&error))
    }
}
