//! How many transfers run, for each server and in all.

use std::collections::HashMap;

/// Counts of transfers, with limits.
pub struct Load {
    by_server: HashMap<String, usize>,
    total: usize,
    per_server: usize,
    in_all: usize,
}

impl Load {
    pub fn new(per_server: usize, in_all: usize) -> Load {
        Load {
            by_server: HashMap::new(),
            total: 0,
            per_server,
            in_all,
        }
    }

    /// Whether one more may run.
    pub fn has_room(&self, server: &str) -> bool {
        let own = self.by_server.get(server).copied().unwrap_or_default();
        self.total < self.in_all && own < self.per_server
    }

    pub fn add(&mut self, server: &str) {
        *self.by_server.entry(server.to_owned()).or_default() += 1;
        self.total += 1;
    }

    pub fn remove(&mut self, server: &str) {
        if let Some(count) = self.by_server.get_mut(server) {
            *count -= 1;
            self.total -= 1;
            if *count == 0 {
                self.by_server.remove(server);
            }
        }
    }
}
