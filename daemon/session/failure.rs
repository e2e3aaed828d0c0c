//! Why an operation failed, as the client is told.

use std::io;

use crate::building::BuildError;
use crate::substituter;

/// The content of the protocol's error frame.
#[derive(Debug)]
pub struct Failure {
    /// For the person at the client.
    pub message: String,
    /// What kind of failure it is; see [`protocol::frames::status`].
    pub status: u32,
}

impl Failure {
    /// Any failure but that of a build.
    pub fn new(message: impl Into<String>) -> Failure {
        Failure {
            message: message.into(),
            status: protocol::frames::status::FAILURE,
        }
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<formats::store_path::Error> for Failure {
    fn from(error: formats::store_path::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<substituter::Error> for Failure {
    fn from(error: substituter::Error) -> Failure {
        Failure::new(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(system::errno::message(&error))
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Failure {
        Failure {
            message: error.message,
            status: error.status,
        }
    }
}
