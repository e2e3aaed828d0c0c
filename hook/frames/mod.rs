//! What `guix-offload worker` and the host that has started it say to each other, over the standard
//! input and output of the command that runs the worker (`doc/spec/worker-frames.md`).
//!
//! First each side greets by a line ([`FrameWriter::greet`], [`FrameReader::greeting`]), then both
//! write frames ([`Frame`]): a [`WorkerHello`] and a [`KeeperHello`], and the bytes of connections to
//! the worker's daemon, each in a *channel* ([`Link`]).
//!
//! Whatever arrives, the memory that it takes is bounded: a frame has at most [`PAYLOAD_LIMIT`] bytes,
//! decompressed too; a channel holds at most [`WINDOW`] bytes; a link has at most a number of channels.

mod channel;
mod compression;
mod error;
mod frame;
mod greeting;
mod hello;
mod link;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use error::FrameError;
pub use frame::{Frame, Kind};
pub use greeting::Greeting;
pub use hello::{
    Class, Compression, Failure, KeeperHello, Status, StoreIdentity, WorkerHello, decode, encode,
};
pub use link::{Link, Received, Settings};
pub use reader::FrameReader;
pub use writer::FrameWriter;

/// The version of all this.
pub const VERSION: u32 = 2;
/// The longest payload of a frame, in bytes; also when it is decompressed.
pub const PAYLOAD_LIMIT: usize = 64 << 10;
/// How many bytes of a channel are sent in one frame at most: compressed, they are never longer than
/// [`PAYLOAD_LIMIT`].
pub const DATA_LIMIT: usize = 63 << 10;
/// How many bytes a side may send in a channel before the other side has given it credit for more.
pub const WINDOW: u32 = 4 << 20;
