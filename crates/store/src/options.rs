//! How a store is opened: the daemon's settings that concern the store.

use std::time::Duration;

/// Settings for [`Store::open`](crate::Store::open), with Guix's defaults.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// `fsync-metadata`: whether SQLite syncs (mode "normal") or not ("off").
    pub sync_metadata: bool,
    /// `use-sqlite-wal`: whether the database has a write-ahead log.
    pub write_ahead_log: bool,
    /// How long nothing is written before the write-ahead log is written back to the database.
    pub checkpoint_after: Duration,
    /// `sync-before-registering`: whether files are synced to disk before an item is registered.
    pub sync_before_registering: bool,
    /// `auto-optimise-store`: whether new items' files are deduplicated.
    pub deduplicate: bool,
    /// `gc-reserved-space`: bytes kept in reserve so that garbage can be collected on a full disk.
    pub reserved_space: u64,
    /// `build-users-group`: the group that the store directory gets when root opens it.
    pub build_users_group: Option<String>,
    /// Create and change nothing; only queries work.
    pub read_only: bool,
    /// `NIX_IGNORE_SYMLINK_STORE=1`: the store or its parents may be symbolic links.
    pub ignore_symlink_store: bool,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            sync_metadata: true,
            write_ahead_log: true,
            checkpoint_after: Duration::from_secs(60),
            sync_before_registering: false,
            deduplicate: true,
            reserved_space: 8 * 1024 * 1024,
            build_users_group: None,
            read_only: false,
            ignore_symlink_store: std::env::var_os("NIX_IGNORE_SYMLINK_STORE")
                .is_some_and(|value| value == "1"),
        }
    }
}
