//! Agents of Guix's program that wait for the next item.

use system::sync::Mutex;

use crate::substituter::Agent;

/// The idle agents of one request that fetch items.
#[derive(Default)]
pub(in super::super) struct IdleAgents(Mutex<Vec<Agent>>);

impl IdleAgents {
    /// Takes one, if there is any.
    pub(super) fn take(&self) -> Option<Agent> {
        self.0.lock().pop()
    }

    /// Adds one.
    pub(super) fn put_back(&self, agent: Agent) {
        self.0.lock().push(agent);
    }
}
