//! What the process that becomes a [helper](super::helper) must know. It is sent as JSON.

use serde::{Deserialize, Serialize};

use super::plan::Bytes;

/// The plan of a helper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HelperPlan {
    /// The program's file.
    pub program: Bytes,
    /// Its arguments, without its name.
    pub arguments: Vec<Bytes>,
    /// Variables that are added to the daemon's environment.
    pub environment: Vec<(Bytes, Bytes)>,
    /// The directories that it can write to. What doesn't exist is ignored.
    pub writable: Vec<Bytes>,
    /// The files whose contents it does not see, if it has namespaces of its own.
    pub hidden: Vec<Bytes>,
}
