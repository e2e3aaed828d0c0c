//! What hooks have learnt about a machine, for those that come after them:
//! `<state>/offload/NAME:PORT/health.json`.
//!
//! How it is (load, free space) is believed for a few seconds. A machine that has failed is set
//! aside for a time that doubles with each failure in a row, and is tried again after it.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use system::clock::unix_time;
use system::lock::{LockFile, Mode};

use crate::machines::Machine;
use crate::remote::Vitals;
use crate::say;
use crate::slots::directory;

/// How long vitals are believed, in seconds.
pub const FRESH: u64 = 10;
/// How long a machine is set aside after its first failure, in seconds, and at most.
const ASIDE: (u64, u64) = (10, 3600);

/// What is known of a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// When it was last asked, in seconds since the epoch.
    pub asked: u64,
    /// Load of its last minute.
    pub load: f64,
    /// Its processors.
    pub cores: u32,
    /// Free bytes in its store.
    pub free_bytes: u64,
    /// Milliseconds from a question to its answer.
    pub round_trip: f64,
    /// Builds that it was given since it was asked.
    pub given: u32,
    /// Builds that it has done.
    pub builds: u64,
    /// Failures in a row.
    pub failures: u32,
    /// Failures altogether.
    pub all_failures: u64,
    /// The last one.
    pub last_error: Option<String>,
    /// Until when it gets no builds, in seconds since the epoch.
    pub aside_until: u64,
}

impl Health {
    /// What the file says; nothing, if there is none or it makes no sense.
    pub fn load(home: &Path, machine: &Machine) -> Health {
        let text = fs::read(directory(home, machine).join("health.json"));
        text.ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    fn save(&self, home: &Path, machine: &Machine) -> io::Result<()> {
        let directory = directory(home, machine);
        let new = directory.join("health.json.new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(new, directory.join("health.json"))
    }

    /// Changes what is known. That it could not be kept is no reason to build nothing.
    pub fn update(home: &Path, machine: &Machine, change: impl FnOnce(&mut Health)) -> Health {
        // One at a time, so that nothing that others learn is lost.
        let lock = || {
            let directory = directory(home, machine);
            fs::create_dir_all(&directory)?;
            let lock = LockFile::open(directory.join("health.lock"))?;
            lock.lock(Mode::Exclusive).map(|()| lock)
        };
        let locked = lock();
        let mut health = Health::load(home, machine);
        change(&mut health);
        if let Err(error) = locked.and_then(|_lock| health.save(home, machine)) {
            say!(
                "warning: cannot remember how '{}' is: {error}",
                machine.name
            );
        }
        health
    }

    /// The machine has answered.
    pub fn answered(&mut self, vitals: &Vitals) {
        self.asked = unix_time();
        self.load = vitals.load;
        self.cores = vitals.cores;
        self.free_bytes = vitals.free_bytes;
        self.round_trip = vitals.round_trip.as_secs_f64() * 1000.0;
        self.given = 0;
    }

    /// The machine has failed.
    pub fn failed(&mut self, error: &str) {
        self.all_failures += 1;
        self.last_error = Some(error.chars().take(2000).collect());
        if self.aside_until > unix_time() {
            return; // the same trouble, met by another hook
        }
        let (first, most) = ASIDE;
        let pause = first.saturating_mul(1 << self.failures.min(20)).min(most);
        self.failures = self.failures.saturating_add(1);
        // Not all machines that failed together are to come back together.
        self.aside_until = unix_time() + pause + rand::random_range(0..=pause / 4);
    }

    /// The machine has done its work.
    pub fn succeeded(&mut self) {
        self.builds += 1;
        self.failures = 0;
        self.aside_until = 0;
    }

    /// Whether it was asked a moment ago.
    pub fn is_fresh(&self) -> bool {
        self.cores > 0 && unix_time().saturating_sub(self.asked) < FRESH
    }

    /// Its load, 1 being all processors busy, with what it was given since it was asked.
    pub fn normalized_load(&self) -> f64 {
        (self.load + f64::from(self.given)) / f64::from(self.cores.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_in_a_row_sets_a_machine_aside_for_longer() {
        let mut health = Health::default();
        let mut before = 0;
        for _ in 0..6 {
            health.failed("no route to host");
            let pause = health.aside_until - unix_time();
            assert!(pause > before, "{pause} after {before}");
            before = pause;
            health.failed("met by another hook");
            assert_eq!(health.aside_until - unix_time(), pause);
            health.aside_until = unix_time();
        }
        for _ in 0..100 {
            health.aside_until = unix_time();
            health.failed("again");
        }
        assert!(health.aside_until <= unix_time() + 3600 + 900);
        health.succeeded();
        assert_eq!((health.failures, health.aside_until), (0, 0));
    }
}
