//! The client's half: what asks a daemon.
//!
//! [`Address`] says where the daemon is, [`Connection`] asks it. Operations are methods named as
//! in Guix (`calls.rs`); [`Connection::call`] takes any request of
//! [`operations`](crate::operations).

mod address;
mod calls;
mod connection;
mod error;
mod exchange;

pub use address::{Address, DEFAULT_PORT};
pub use connection::{Connection, ONE_PIECE, Options};
pub use error::Error;
pub use exchange::{LogCallback, Streams};
