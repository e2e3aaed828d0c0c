//! The request for a collection, and its result.

use formats::store_path::StorePath;

use crate::roots::Credentials;
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
    /// The action.
    pub action: GcAction,
    /// Treat nothing but temporary roots as roots (dangerous).
    pub ignore_liveness: bool,
    /// For [`GcAction::DeleteSpecific`], the paths to delete.
    pub paths: Vec<StorePath>,
    /// Stop once more than this number of bytes is freed; `u64::MAX` for no limit.
    pub max_freed: u64,
    /// Keep the outputs of live derivations.
    pub keep_outputs: bool,
    /// Keep the derivers of live outputs.
    pub keep_derivations: bool,
    /// The temporary roots of the requesting session, which are dropped first, as Guix does.
    pub own_roots: Option<&'a TempRoots>,
    /// The user who asks: messages don't name roots that this user could not find.
    pub asker: Option<&'a Credentials>,
}

/// The result of a collection.
#[derive(Clone, Debug, Default)]
pub struct GcResult {
    /// Live, dead or deleted paths, sorted.
    pub paths: Vec<String>,
    /// Bytes of disk space freed.
    pub bytes_freed: u64,
}
