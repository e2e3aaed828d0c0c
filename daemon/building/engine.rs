//! What all requests share.

use std::sync::Arc;

use authority::Keys;
use store::Store;

use super::agents;
use super::attempts::Attempts;
use super::build_users::BuildUsers;
use super::prefetched::PrefetchedItems;
use super::sandbox::ForkServer;
use crate::client_limits::ClientLimits;
use crate::settings::Settings;
use crate::shared_limit::SharedLimit;
use crate::spawner::Spawner;
use crate::substituter::Substituter;

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
        Engine {
            substituter: Substituter::new(&settings, keys, &spawner, start_agent),
            store,
            settings,
            spawner,
            fork_server,
            build_users: BuildUsers::default(),
            descriptors: limits.build_descriptors.clone(),
            request_memory: limits.request_memory.clone(),
            prefetched: PrefetchedItems::default(),
            attempts: Attempts::default(),
        }
    }
}
