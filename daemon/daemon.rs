//! The state that all sessions share: the settings, the keys, the store and its scheduler.

use std::sync::{Arc, OnceLock};

use authority::Keys;
use store::{Store, StoreOptions};
use system::sync::Mutex;

use crate::building::Scheduler;
use crate::client_limits::ClientLimits;
use crate::hangup::HangupWatcher;
use crate::settings::Settings;

/// The daemon, as its sessions see it.
pub struct Daemon {
    /// The administrator's settings.
    pub settings: Arc<Settings>,
    /// Keys and ACL.
    pub keys: Arc<Keys>,
    /// What clients may take.
    pub limits: ClientLimits,
    /// Detects clients that disconnect.
    pub hangup_watcher: HangupWatcher,
    open: Mutex<Option<Store>>,
    scheduler: OnceLock<Scheduler>,
}

impl Daemon {
    /// A daemon with these settings; opens nothing yet.
    pub fn new(settings: Settings, limits: ClientLimits, hangup_watcher: HangupWatcher) -> Daemon {
        Daemon {
            keys: Arc::new(Keys::new(&settings.directories.configuration)),
            settings: Arc::new(settings),
            limits,
            hangup_watcher,
            open: Mutex::default(),
            scheduler: OnceLock::new(),
        }
    }

    /// The store, which the first session opens. If opening fails, the next session tries again.
    /// The store may have become read-only meanwhile, which only root would not notice.
    pub fn store(&self, progress: &dyn store::Progress) -> store::Result<Store> {
        store::writable::check(&self.settings.directories)?;
        let mut open = self.open.lock();
        if let Some(store) = &*open {
            return Ok(store.clone());
        }
        let session = &self.settings.session;
        let group = session.build_users_group.to_string();
        let options = StoreOptions {
            sync_metadata: session.fsync_metadata,
            write_ahead_log: session.use_sqlite_wal,
            sync_before_registering: session.sync_before_registering,
            deduplicate: session.auto_optimise_store,
            reserved_space: session.gc_reserved_space,
            build_users_group: (!group.is_empty()).then_some(group),
            ..StoreOptions::default()
        };
        let store = Store::open(self.settings.directories.clone(), options, progress)?;
        *open = Some(store.clone());
        Ok(store)
    }

    /// Leaves a database that is whole without its log, once all sessions have ended.
    pub fn close_store(&self) {
        let store = self.open.lock().clone();
        if let Some(store) = store {
            if let Err(error) = store.checkpoint() {
                tracing::warn!("warning: {error}");
            }
        }
    }

    /// Waits until everything that has ended is in the history.
    pub fn finish_history(&self) {
        if let Some(scheduler) = self.scheduler.get() {
            scheduler.finish_history();
        }
    }

    /// The scheduler of all builds in `store`.
    pub fn scheduler(&self, store: &Store) -> &Scheduler {
        self.scheduler.get_or_init(|| {
            let (settings, keys) = (self.settings.clone(), self.keys.clone());
            Scheduler::new(store.clone(), settings, keys, &self.limits)
        })
    }
}
