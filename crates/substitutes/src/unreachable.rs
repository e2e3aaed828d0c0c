//! Servers that could not be reached a moment ago, and are left alone for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::network::NetworkError;
use crate::servers::Server;

/// How long a server is left alone.
const WHILE: Duration = Duration::from_secs(60);

/// The servers that could not be reached.
#[derive(Debug, Default)]
pub struct Unreachable(HashMap<Arc<Server>, (NetworkError, Instant)>);

impl Unreachable {
    /// Adds a server that could not be reached now.
    pub(crate) fn add(&mut self, server: &Arc<Server>, error: &NetworkError, now: Instant) {
        self.0.insert(server.clone(), (error.clone(), now));
    }

    /// Why a server could not be reached, if that was a moment ago.
    pub(crate) fn reason(&self, server: &Arc<Server>) -> Option<&NetworkError> {
        let (error, since) = self.0.get(server)?;
        (since.elapsed() < WHILE).then_some(error)
    }
}
