//! When something happened last, for those who wait for it, and what has come of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use substitutes::Server;
use system::sync::Mutex;

/// When something happened last.
#[derive(Debug)]
pub struct Activity(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Instant,
    received: u64,
    server: Option<Arc<Server>>,
}

impl Default for Activity {
    fn default() -> Activity {
        Activity(Mutex::new(State {
            last: Instant::now(),
            received: 0,
            server: None,
        }))
    }
}

impl Activity {
    /// Something happens.
    pub fn note(&self) {
        self.0.lock().last = Instant::now();
    }

    /// So many bytes of an item arrive.
    pub fn note_received(&self, bytes: u64) {
        let mut state = self.0.lock();
        state.last = Instant::now();
        state.received += bytes;
    }

    /// An item is fetched from this server now.
    pub fn note_server(&self, server: &Arc<Server>) {
        let mut state = self.0.lock();
        if state.server.as_ref() != Some(server) {
            state.server = Some(server.clone());
        }
    }

    /// For how long nothing has happened.
    pub fn silence(&self) -> Duration {
        self.0.lock().last.elapsed()
    }

    /// How many bytes of an item have arrived, from whatever server.
    pub fn received(&self) -> u64 {
        self.0.lock().received
    }

    /// Where an item is fetched from.
    pub fn server(&self) -> Option<Arc<Server>> {
        self.0.lock().server.clone()
    }

    /// Lets time pass.
    #[cfg(test)]
    pub fn pass(&self, time: Duration) {
        self.0.lock().last -= time;
    }
}
