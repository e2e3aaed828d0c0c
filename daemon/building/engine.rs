//! What all requests share.

use std::sync::Arc;
use std::time::Duration;

use authority::Keys;
use farm::history::{Writer, WriterOptions};
use store::Store;

use super::agents;
use super::attempts::Attempts;
use super::build_users::BuildUsers;
use super::durations::Durations;
use super::last_status::LastStatus;
use super::prefetched::PrefetchedItems;
use super::requests::Requests;
use super::sandbox::ForkServer;
use crate::client_limits::ClientLimits;
use crate::settings::Settings;
use crate::shared_limit::SharedLimit;
use crate::spawner::Spawner;
use crate::substituter::Substituter;

/// How long the daemon waits for other processes that use the history. No build waits with it.
const HISTORY_PATIENCE: Duration = Duration::from_secs(5);

/// The store, the settings, and the starter of processes; shared by the whole daemon.
pub(super) struct Engine {
    pub(super) store: Store,
    pub(super) settings: Arc<Settings>,
    pub(super) spawner: Spawner,
    pub(super) fork_server: Arc<ForkServer>,
    pub(super) substituter: Substituter,
    /// The queue for build users.
    pub(super) build_users: BuildUsers,
    /// The descriptors that attempts may have: see [`ClientLimits`].
    pub(super) descriptors: Arc<SharedLimit>,
    /// The memory that requests may have, in bytes.
    pub(super) request_memory: Arc<SharedLimit>,
    /// Items that were received and wait for their references.
    pub(super) prefetched: PrefetchedItems,
    /// The attempts in progress.
    pub(super) attempts: Attempts,
    /// What writes the history, if there is one.
    pub(super) history: Option<Writer>,
    /// How long builds will take.
    pub(super) durations: Arc<Durations>,
    /// The requests in progress.
    pub(super) requests: Requests,
    /// What was told last of them.
    pub(super) last_status: LastStatus,
}

impl Engine {
    /// For builds in `store`.
    pub(super) fn new(
        store: Store,
        settings: Arc<Settings>,
        keys: Arc<Keys>,
        limits: &ClientLimits,
    ) -> Engine {
        let spawner = Spawner::default();
        let starting = spawner.clone();
        let fork_server = Arc::new(ForkServer::new(move |program| starting.start(program)));
        let start_agent = agents::starter(fork_server.clone(), &settings.directories.configuration);
        let offload = (settings.history.is_some()).then(|| settings.directories.offload());
        Engine {
            substituter: Substituter::new(&settings, keys, &spawner, start_agent),
            store,
            history: history(&settings),
            settings,
            spawner,
            fork_server,
            build_users: BuildUsers::default(),
            descriptors: limits.build_descriptors.clone(),
            request_memory: limits.request_memory.clone(),
            prefetched: PrefetchedItems::default(),
            attempts: Attempts::default(),
            durations: Durations::new(offload),
            requests: Requests::default(),
            last_status: LastStatus::default(),
        }
    }
}

/// What writes the history; nothing if none is wanted.
fn history(settings: &Settings) -> Option<Writer> {
    Some(Writer::new(WriterOptions {
        directory: settings.directories.offload(),
        limits: settings.history?,
        patience: HISTORY_PATIENCE,
        warn: Arc::new(|text| tracing::warn!("warning: {text}")),
    }))
}
