//! The daemon's half of the protocol.
//!
//! A [`Connection`] reads requests; everything for the client is sent through its [`Tunnel`], which
//! can be cloned and passed to any code that has log messages during an operation:
//!
//! ```text
//! accept → begin → (open the store) → finish | fail            the handshake
//! next → [nar] → begin → (work: tunnel, import_source, …) → finish | fail     each operation
//! ```
//!
//! Messages are composed in memory and written in one piece: a reply costs one system call.

mod connection;
mod refusal;
mod streams;
mod tunnel;

pub use connection::{Activity, Connection, Hello, Watch};
pub use refusal::refusal;
pub use streams::{ExportSink, ImportSource};
pub use tunnel::Tunnel;

use std::io;

use crate::codec;

/// Why a connection has to be closed, or an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading from the client or writing to it failed.
    #[error("while talking to the client: {0}")]
    Io(#[from] io::Error),
    /// The client doesn't speak this protocol.
    #[error("protocol mismatch")]
    Mismatch,
    /// The request is malformed. Report it, then close the connection, since it is unknown where
    /// the next request begins.
    #[error(transparent)]
    Request(#[from] codec::Error),
    /// An unknown operation number; closes the connection, like [`Error::Request`].
    #[error("invalid operation {0}")]
    Operation(u32),
    /// The client sent something while it should wait for the reply. An error of the operation.
    #[error("EOF expected (protocol error?)")]
    Pipelined,
    /// The client has disconnected.
    #[error("the client closed the connection")]
    Gone,
}

impl Error {
    /// Whether the error can still be reported to the client.
    pub fn can_be_told(&self) -> bool {
        match self {
            Error::Request(codec::Error::Wire(formats::wire::Error::Io(_))) => false,
            Error::Request(_) | Error::Operation(_) | Error::Pipelined => true,
            Error::Io(_) | Error::Mismatch | Error::Gone => false,
        }
    }
}
