//! What a collection is asked for, and what it did.

use formats::store_path::StorePath;

use crate::temp_roots::TempRoots;

/// What the collector is to do. (The same as in the protocol, which this crate does not know.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcAction {
    /// List what is reachable.
    ReturnLive,
    /// List what is unreachable.
    ReturnDead,
    /// Delete what is unreachable.
    DeleteDead,
    /// Delete certain paths, if they are unreachable.
    DeleteSpecific,
}

/// A request to collect.
pub struct GcRequest<'a> {
    /// What to do.
    pub action: GcAction,
    /// Treat nothing but temporary roots as a root (dangerous).
    pub ignore_liveness: bool,
    /// What to delete, for [`GcAction::DeleteSpecific`].
    pub paths: Vec<StorePath>,
    /// Stop once more than this is freed; `u64::MAX` for no limit.
    pub max_freed: u64,
    /// Outputs of live derivations are live.
    pub keep_outputs: bool,
    /// Derivers of live outputs are live.
    pub keep_derivations: bool,
    /// The temporary roots of the session that asks: they are given up first, as Guix does.
    pub own_roots: Option<&'a TempRoots>,
}

/// What a collection did.
#[derive(Clone, Debug, Default)]
pub struct GcResult {
    /// Live, dead or deleted paths, sorted.
    pub paths: Vec<String>,
    /// Bytes of disk space freed.
    pub bytes_freed: u64,
}
