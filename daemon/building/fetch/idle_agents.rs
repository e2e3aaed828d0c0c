//! Agents of Guix's program that wait for the next item.

use store::PrivateDirectory;
use system::sync::Mutex;

use crate::substituter::Agent;

/// An agent that fetches items.
pub(super) struct FetchAgent {
    // The processes end before the directory is deleted.
    pub(super) agent: Agent,
    /// The only place in the store that it writes to.
    pub(super) directory: PrivateDirectory,
}

/// The idle agents of one request that fetch items.
#[derive(Default)]
pub(in super::super) struct IdleAgents(Mutex<Vec<FetchAgent>>);

impl IdleAgents {
    /// Takes one, if there is any.
    pub(super) fn take(&self) -> Option<FetchAgent> {
        self.0.lock().pop()
    }

    /// Adds one.
    pub(super) fn put_back(&self, agent: FetchAgent) {
        self.0.lock().push(agent);
    }

    /// Ends them.
    pub(in super::super) fn end_all(&self) {
        let idle = std::mem::take(&mut *self.0.lock());
        drop(idle);
    }
}
