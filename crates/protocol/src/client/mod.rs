//! The client's half of the protocol.
//!
//! [`Address`] is a daemon's address; [`Connection`] calls its operations, which are methods named
//! as in Guix (`calls.rs`). [`Connection::call`] takes any request in
//! [`operations`](crate::operations).

mod address;
mod calls;
mod connection;
mod deadline;
mod error;
mod exchange;

pub use address::{Address, DEFAULT_PORT};
pub use connection::{Connection, ONE_PIECE, Options};
pub use deadline::Deadline;
pub use error::Error;
pub use exchange::{LogCallback, Streams};
