//! What sessions request from the scheduler.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use protocol::operations::{BuildMode, Target};
use store::TempRoots;
use substitutes::Told;

use super::log_sink::LogSink;
use crate::cancel::CancellationToken;
use crate::settings::SessionSettings;
use crate::shared_limit::ClientKey;

/// The client's identity, which determines who owns a kept build directory, and what may be kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientIdentity {
    /// The user id of the peer of a Unix socket.
    pub uid: Option<u32>,
    /// That user's group id.
    pub gid: Option<u32>,
    /// Whether the client is root.
    pub trusted: bool,
    /// Whether the client is connected over TCP.
    pub remote: bool,
    /// From where it came over TCP.
    pub address: Option<IpAddr>,
}

impl ClientIdentity {
    /// Whose builds are counted together.
    pub fn client(&self) -> ClientKey {
        match (self.uid, self.address) {
            (Some(uid), _) => ClientKey::User(uid),
            (None, address) => ClientKey::at(address.unwrap_or(Ipv4Addr::UNSPECIFIED.into())),
        }
    }
}

/// One call of [`super::Scheduler::build`] or [`super::Scheduler::ensure_path`].
#[derive(Clone)]
pub struct BuildRequest {
    /// The derivations to build and the items to substitute.
    pub targets: Vec<Target>,
    /// Whether valid items are left alone, repaired or built again.
    pub mode: BuildMode,
    /// The client's settings.
    pub settings: Arc<SessionSettings>,
    /// The client.
    pub client: ClientIdentity,
    /// What the client has been told of substitute servers in its session.
    pub told: Arc<Told>,
    /// The temporary roots of the session: they protect everything that the request uses.
    pub temp_roots: Arc<TempRoots>,
    /// Receives the client's log. The scheduler calls it only from the thread that made the
    /// request, in the order of the events.
    pub log: Arc<dyn LogSink>,
    /// Cancelled when the client disconnects.
    pub cancel: CancellationToken,
}
