//! When something happened last, for those who wait for it.

use std::time::{Duration, Instant};

use system::sync::Mutex;

/// When something happened last.
#[derive(Debug)]
pub struct Activity(Mutex<Instant>);

impl Default for Activity {
    fn default() -> Activity {
        Activity(Mutex::new(Instant::now()))
    }
}

impl Activity {
    /// Something happens.
    pub fn note(&self) {
        *self.0.lock() = Instant::now();
    }

    /// For how long nothing has happened.
    pub fn silence(&self) -> Duration {
        self.0.lock().elapsed()
    }

    /// Lets time pass.
    #[cfg(test)]
    pub fn pass(&self, time: Duration) {
        *self.0.lock() -= time;
    }
}
