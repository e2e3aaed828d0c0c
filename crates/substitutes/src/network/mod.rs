//! The conversation with the program that touches the network.
//!
//! That program, `guix-fetch network`, has no privileges and decides nothing. It is asked for small
//! bodies, which it sends back ([`Exchange::get`]), and for the contents of items, which it
//! decompresses and writes to a pipe ([`Exchange::fetch`]). One program serves a whole daemon, so
//! that connections to servers outlive requests and sessions.
//!
//! ```text
//! Exchange ─┐                       requests, pipes
//! Exchange ─┼─ Network ─ thread ════════════════════ guix-fetch network ── servers
//! Exchange ─┘                       replies
//! ```
//!
//! * [`Network`] starts the program when it is first needed, and again after it has died.
//! * An [`Exchange`] makes requests and is told the events of its own. They are made on behalf of a
//!   [`User`]. Users are served in turn, and the exchanges of each, so that one with many requests
//!   doesn't hold up another; what there is, connections and memory, they share ([`Shares`]).
//! * [`message`] is the protocol, for both sides.
//!
//! The program may have been taken over by a server. Whatever it sends, this side neither panics nor
//! waits for it with a lock held, and its memory is bounded: by what was asked for, and by the
//! constants here. The program can withhold and delay, answer wrongly, and write to a pipe that it
//! was given; so whoever uses the bytes has to verify them.

mod connection;
mod dispatch;
mod error;
mod event;
mod exchange;
mod frames;
mod limits;
mod mailbox;
pub mod message;
mod program;
mod request;
mod shares;

pub use error::{ErrorKind, NetworkError, is_busy};
pub use event::Event;
pub use exchange::Exchange;
pub use frames::{FrameError, Frames};
pub use limits::{BODY_LIMIT, FILES_LIMIT, PATIENCE_LIMIT, ROUNDS_LIMIT, SOURCES_LIMIT, URL_LIMIT};
pub use program::{GUIX_FETCH, Network, PROXY_VARIABLES, program};
pub use request::{Fetch, RequestId, Requester, Source, User};
pub use shares::Shares;
