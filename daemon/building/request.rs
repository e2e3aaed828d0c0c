//! What a session asks of the scheduler, and what it is told while it waits.
//!
//! Everything here is shared between a client's session and the builds that run for it; nothing
//! here knows how a build is run. All calls on a [`LogSink`] for one request are made by the
//! thread that called [`super::Scheduler::build`], one at a time, in order.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use formats::store_path::StorePath;
pub use store::Level;
use store::TempRoots;

use crate::cancel::CancellationToken;
use crate::settings::SessionSettings;

/// How the outputs of a request are to be brought about (`doc/spec/worker-protocol.md`, section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Build or substitute what is not valid.
    Normal,
    /// Check the contents of what is valid, and replace what is bad.
    Repair,
    /// Build again what is valid, and compare.
    Check,
}

/// One thing asked for: a derivation with some or all of its outputs, or a plain store item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The `.drv`, or the item to be substituted.
    pub path: StorePath,
    /// The names of the wanted outputs of a derivation; `None` for all of them.
    pub outputs: Option<BTreeSet<String>>,
}

/// Who asks: decides to whom a kept build directory is given, and what may be kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientIdentity {
    /// The user on the other side of a Unix socket.
    pub uid: Option<u32>,
    /// That user's group.
    pub gid: Option<u32>,
    /// The client is root.
    pub trusted: bool,
    /// The client came over TCP.
    pub remote: bool,
}

/// Where the words about a request's builds go.
pub trait LogSink: Send + Sync {
    /// A message of the daemon, without the final newline.
    fn message(&self, level: Level, text: &str);
    /// A piece of a build's log, as read from the process `pid`: for the client that wants it, in
    /// the framing that the client chose.
    fn build_output(&self, pid: u32, data: &[u8]);
    /// Something that a hook or a substituter said. `pid` is given once it works on a build (its
    /// chatter is then framed like build output, but shown at any verbosity).
    fn chatter(&self, pid: Option<u32>, data: &[u8]);
    /// A [`protocol::trace::Trace`] as text: for clients that asked for traces.
    fn trace(&self, line: &str);
}

/// Why a request failed, in the words and with the status that the client gets.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// The text of the protocol's error frame.
    pub message: String,
    /// The exit status: 101 timed out, 100 a build failed for good, 1 anything else.
    pub status: u32,
}

impl BuildError {
    /// A general error: status 1.
    pub fn general(message: impl fmt::Display) -> Self {
        BuildError {
            message: message.to_string(),
            status: 1,
        }
    }
}

impl From<store::Error> for BuildError {
    fn from(error: store::Error) -> Self {
        BuildError::general(error)
    }
}

/// What a session wants done.
#[derive(Clone)]
pub struct BuildRequest {
    /// What is wanted.
    pub targets: Vec<Target>,
    /// How.
    pub mode: Mode,
    /// The client's settings.
    pub settings: Arc<SessionSettings>,
    /// The client.
    pub client: ClientIdentity,
    /// The temporary roots of the session: they protect everything the request touches.
    pub temp_roots: Arc<TempRoots>,
    /// Where the client's messages go.
    pub log: Arc<dyn LogSink>,
    /// Ends the request, because the client has gone.
    pub cancel: CancellationToken,
}
