//! The daemon's half.
//!
//! A [`Connection`] reads requests; what is said to the client goes through its [`Tunnel`], which
//! can be cloned and handed to whoever has something to say while an operation is worked on:
//!
//! ```text
//! accept → begin → (open the store) → finish | fail            the handshake
//! next → [nar] → begin → (work: tunnel, import_source, …) → finish | fail     each operation
//! ```
//!
//! Messages are put together in memory and written at once: a reply costs one system call.

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

/// Why a connection can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading from the client, or writing to it, failed.
    #[error("while talking to the client: {0}")]
    Io(#[from] io::Error),
    /// The client doesn't speak this protocol.
    #[error("protocol mismatch")]
    Mismatch,
    /// What the client asks makes no sense. It is to be told, and the connection to be closed,
    /// since nobody knows where its next request begins.
    #[error(transparent)]
    Request(#[from] codec::Error),
    /// A number that is no operation's. As with [`Error::Request`], the end.
    #[error("invalid operation {0}")]
    Operation(u32),
    /// The client speaks while it should be listening. An error of the operation.
    #[error("EOF expected (protocol error?)")]
    Pipelined,
    /// The client went away.
    #[error("the client closed the connection")]
    Gone,
}

impl Error {
    /// Whether the client can still be told.
    pub fn can_be_told(&self) -> bool {
        match self {
            Error::Request(codec::Error::Wire(formats::wire::Error::Io(_))) => false,
            Error::Request(_) | Error::Operation(_) | Error::Pipelined => true,
            Error::Io(_) | Error::Mismatch | Error::Gone => false,
        }
    }
}
