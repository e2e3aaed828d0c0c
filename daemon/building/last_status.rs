//! What was told last of the state of everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use hook::machines::Machine;
use system::sync::Mutex;

/// The last state. Who gathers a new one holds the lock: the others wait for it.
#[derive(Default)]
pub(super) struct LastStatus(pub(super) Mutex<Last>);

/// What is kept.
#[derive(Default)]
pub(super) struct Last {
    /// The state.
    pub(super) status: Option<Kept>,
    /// The machines, and when they were read.
    pub(super) machines: Option<(Instant, Arc<Listed>)>,
    /// How they were, and until when that is good enough.
    pub(super) looked: Option<(Instant, Arc<Looked>)>,
}

/// How the machines were.
#[derive(Default)]
pub(super) struct Looked {
    /// As they are told of.
    pub(super) machines: Vec<farm::status::Machine>,
    /// Where derivations are built that machines build: `machine NAME`.
    pub(super) places: HashMap<String, String>,
}

/// A state, as JSON.
pub(super) struct Kept {
    /// Until when it is good enough.
    pub(super) until: Instant,
    /// For users of this machine.
    pub(super) local: Arc<String>,
    /// For clients over TCP, once one of them has asked.
    pub(super) remote: Option<Arc<String>>,
}

/// The machines of the machine files.
#[derive(Default)]
pub(super) struct Listed {
    pub(super) machines: Vec<Machine>,
    /// Why they are unknown, or some of them are missing.
    pub(super) error: Option<String>,
}
