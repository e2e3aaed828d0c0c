//! One client: the handshake, then one operation after another until the client disconnects.
//!
//! | file | |
//! |---|---|
//! | `handshake` | from a new connection to a [`Session`](session::Session) |
//! | `dispatch` | reads requests, and has each answered by its handler |
//! | `session` | what all handlers use: the connection, the store, the client's settings |
//! | `add`, `build`, `garbage`, … | the handlers, a file for each family of operations |
//! | `client_log`, `transport` | what the client is told, and the socket below the protocol |
//!
//! Documented in Guix's `nix/nix-daemon/nix-daemon.cc`.

mod add;
mod build;
mod client_log;
mod dispatch;
mod farm;
mod garbage;
mod handshake;
mod maintenance;
mod options;
mod queries;
mod roots;
#[expect(clippy::module_inception, reason = "the file is named after its type")]
mod session;

mod substitutes;
mod transfer;
mod transport;

use std::sync::Arc;

use protocol::server::Error;

use crate::cancel::CancellationToken;
use crate::connections::Admission;
use crate::daemon::Daemon;
use crate::stream::{Peer, Stream};

/// Serves a client until it disconnects or `cancel` is cancelled.
pub fn run(
    daemon: &Daemon,
    stream: Arc<Stream>,
    peer: Peer,
    cancel: CancellationToken,
    admission: &Admission,
) {
    let end = match handshake::greet(daemon, &stream, peer, &cancel, admission) {
        Ok(Some(mut session)) => dispatch::serve(&mut session),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match end {
        Ok(()) | Err(Error::Gone) => {}
        Err(error) => tracing::debug!("a session ended: {error}"),
    }
    stream.shut_down();
}
