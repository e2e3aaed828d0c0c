//! What hooks have learnt about a machine, stored for later hooks:
//! `<state>/offload/NAME:PORT/health.json`.
//!
//! Load and free space are valid for a few seconds. After a failure, a machine gets no builds for a
//! while; that time doubles with each consecutive failure (exponential backoff, with jitter). A pool that
//! had no room is not asked again for a few seconds, however many builds wait.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use farm::history::{MachineState, State};
use serde::{Deserialize, Serialize};
use system::clock::unix_time;
use system::lock::Mode;

use crate::directories::HookDirectories;
use crate::drained::Drained;
use crate::machines::Machine;
use crate::remote::{Vitals, on_one_line};
use crate::stderr_line;

/// The most bytes of the file that are read.
const FILE_LIMIT: u64 = 256 << 10;
/// How long load and free space are valid, in seconds.
const FRESH: u64 = 10;
/// How long a machine gets no builds after its first failure, in seconds.
const FIRST_BACKOFF: u64 = 10;
/// How long a pool that had no room is not asked again, in seconds.
const BUSY_PAUSE: u64 = 5;
/// How long the history is told nothing of a machine whose state is the same, in seconds.
const TELL_INTERVAL: u64 = 60;
/// By how much its load, for each processor, must have changed.
const LOAD_CHANGE: f64 = 0.1;
/// And by what part its free space.
const FREE_CHANGE: f64 = 0.05;
/// The maximum of that time, in seconds, without the jitter.
const LONGEST_BACKOFF: u64 = 3600;

/// What is known about a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// When its load and free space were measured, in seconds since the epoch.
    pub asked: u64,
    /// Load average of the last minute.
    pub load: f64,
    /// Its processors.
    pub cores: u32,
    /// Free bytes in its store.
    pub free_bytes: u64,
    /// Milliseconds from a request to its reply.
    pub round_trip: f64,
    /// The number of builds that it has been given since then.
    pub given: u32,
    /// The number of builds that it has finished, including failed ones.
    pub builds: u64,
    /// The number of builds that have failed there for their own reasons.
    pub failed_builds: u64,
    /// The number of consecutive failures.
    pub failures: u32,
    /// The total number of failures.
    pub all_failures: u64,
    /// The message of the last failure.
    pub last_error: Option<String>,
    /// Until when it gets no builds, in seconds since the epoch.
    pub aside_until: u64,
    /// Until when a pool has no room, in seconds since the epoch.
    pub busy_until: u64,
    /// Why, in its scheduler's words.
    pub busy_reason: Option<String>,
    /// What the history was told last.
    pub told: Told,
    /// The rates of the last large transfers to it, in bytes per second, the last one last.
    pub rates_there: Vec<f64>,
    /// The same from it.
    pub rates_back: Vec<f64>,
    /// The same from its substitute servers; 0 if they had less than half of what it was to fetch.
    pub rates_fetched: Vec<f64>,
}

/// Which version of a machine's file was read. Each is a file of its own, which replaces the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    changed: (i64, i64),
    size: u64,
}

impl Stamp {
    /// That of the file that is there now.
    fn now(directories: &HookDirectories, machine: &Machine) -> Stamp {
        let metadata = fs::metadata(path(directories, machine));
        metadata.map_or_else(|_| Stamp::default(), |metadata| Stamp::of(&metadata))
    }

    fn of(metadata: &fs::Metadata) -> Stamp {
        Stamp {
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.len(),
        }
    }
}

fn path(directories: &HookDirectories, machine: &Machine) -> PathBuf {
    directories.of_machine(machine).join("health.json")
}

/// What the history was told of a machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// When, in seconds since the epoch.
    time: u64,
    /// Its state's name.
    state: String,
    load: f64,
    free_bytes: u64,
}

impl Health {
    /// Reads the file; everything is unknown if it doesn't exist or is invalid.
    pub fn load(directories: &HookDirectories, machine: &Machine) -> Health {
        Health::load_stamped(directories, machine).0
    }

    /// The same, with what tells whether the file has changed since.
    pub fn load_stamped(directories: &HookDirectories, machine: &Machine) -> (Health, Stamp) {
        let read = || -> io::Result<(Health, Stamp)> {
            let file = File::options()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path(directories, machine))?;
            let stamp = Stamp::of(&file.metadata()?);
            let mut text = Vec::new();
            file.take(FILE_LIMIT).read_to_end(&mut text)?;
            let health = serde_json::from_slice(&text).unwrap_or_default();
            Ok((health, stamp))
        };
        read().unwrap_or_default()
    }

    /// What is known now, if the file has changed since it was read.
    pub fn changed_since(
        stamp: &Stamp,
        directories: &HookDirectories,
        machine: &Machine,
    ) -> Option<Health> {
        (Stamp::now(directories, machine) != *stamp).then(|| Health::load(directories, machine))
    }

    fn save(&self, directories: &HookDirectories, machine: &Machine) -> io::Result<Stamp> {
        let new = directories.of_machine(machine).join("health.json.new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(new, path(directories, machine))?;
        // Not before: renaming it changes its time.
        Ok(Stamp::now(directories, machine))
    }

    /// Changes what is known, and writes it to the file. If that fails, it only prints a warning.
    pub fn update(
        directories: &HookDirectories,
        machine: &Machine,
        change: impl FnOnce(&mut Health),
    ) -> Health {
        Health::update_stamped(directories, machine, change).0
    }

    /// The same, with what tells whether the file has changed since.
    pub fn update_stamped(
        directories: &HookDirectories,
        machine: &Machine,
        change: impl FnOnce(&mut Health),
    ) -> (Health, Stamp) {
        // Under a lock, so that no other hook's change is lost.
        let lock = || {
            let directory = directories.of_machine(machine);
            HookDirectories::make(&directory)?;
            let lock = HookDirectories::open_lock(&directory.join("health.lock"))?;
            lock.lock(Mode::Exclusive).map(|()| lock)
        };
        let locked = lock();
        let mut health = Health::load(directories, machine);
        change(&mut health);
        if let Some(history) = &directories.history {
            let drained = Drained::load(directories, &machine.key()).unwrap_or_default();
            if let Some(state) = health.news(machine, drained, unix_time()) {
                history.state(state);
            }
        }
        let saved = locked.and_then(|_lock| health.save(directories, machine));
        let stamp = saved.unwrap_or_else(|error| {
            stderr_line!(
                "warning: cannot remember how '{}' is: {error}",
                machine.name
            );
            // What is there now, whoever has written it.
            Stamp::now(directories, machine)
        });
        (health, stamp)
    }

    /// What there is to tell the history of the machine, if anything.
    fn news(
        &mut self,
        machine: &Machine,
        drained: Option<Drained>,
        now: u64,
    ) -> Option<MachineState> {
        let reason = |reason: &Option<String>| reason.clone().unwrap_or_default();
        let (state, reason) = if let Some(drained) = drained {
            (State::Drained, reason(&drained.reason))
        } else if self.aside_until > now {
            (State::SetAside, reason(&self.last_error))
        } else if self.busy_until > now {
            (State::Busy, reason(&self.busy_reason))
        } else {
            (State::Ready, String::new())
        };
        let told = &self.told;
        let load = (self.load - told.load).abs() / f64::from(self.cores.max(1));
        let free = self.free_bytes.abs_diff(told.free_bytes) as f64;
        let has_changed = load >= LOAD_CHANGE || free > told.free_bytes as f64 * FREE_CHANGE;
        let is_time = now.abs_diff(told.time) >= TELL_INTERVAL;
        if told.state == state.name() && !(is_time && has_changed) {
            return None;
        }
        self.told = Told {
            time: now,
            state: state.name().to_owned(),
            load: self.load,
            free_bytes: self.free_bytes,
        };
        Some(MachineState {
            time: now,
            machine: machine.key(),
            state,
            reason,
            load: self.load,
            cores: self.cores,
            free_bytes: self.free_bytes,
            slots: machine.parallel_builds,
        })
    }

    /// Records the reply of a machine.
    pub fn answered(&mut self, vitals: &Vitals) {
        self.asked = unix_time();
        self.load = vitals.load;
        self.cores = vitals.cores;
        self.free_bytes = vitals.free_bytes;
        self.round_trip = vitals.round_trip.as_secs_f64() * 1000.0;
        self.given = 0;
    }

    /// Records a failure of the machine.
    pub fn failed(&mut self, error: &str) {
        self.all_failures += 1;
        self.last_error = Some(shortened(error));
        if self.aside_until > unix_time() {
            return; // another hook has met the same failure
        }
        let backoff = backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
        // The jitter prevents machines that failed together from returning together.
        self.aside_until = unix_time() + backoff + rand::random_range(0..=backoff / 4);
    }

    /// Records that a pool has no room.
    pub fn is_full(&mut self, reason: &str) {
        self.busy_reason = Some(shortened(reason));
        self.busy_until = unix_time() + BUSY_PAUSE + rand::random_range(0..=BUSY_PAUSE / 2);
    }

    /// For how many more seconds a pool has no room.
    pub fn busy_s(&self) -> u64 {
        self.busy_until.saturating_sub(unix_time())
    }

    /// Records a failed build, which isn't the machine's failure.
    pub fn build_failed(&mut self) {
        self.succeeded();
        self.failed_builds += 1;
    }

    /// Records a build.
    pub fn succeeded(&mut self) {
        self.builds += 1;
        self.mended();
    }

    /// Ends the time in which it gets no builds: it has been tested since, and works.
    pub fn mended(&mut self) {
        self.failures = 0;
        self.aside_until = 0;
    }

    /// For how many more seconds it gets no builds.
    pub fn set_aside_s(&self) -> u64 {
        self.aside_until.saturating_sub(unix_time())
    }

    /// Why it gets no builds now, whatever its slots and its load.
    pub fn pause(&self) -> Option<Pause<'_>> {
        let wait = self.set_aside_s();
        if wait > 0 {
            let error = self.last_error.as_deref().unwrap_or("it failed");
            return Some(Pause::SetAside { wait, error });
        }
        let reason = self.busy_reason.as_deref().unwrap_or("it has no room");
        (self.busy_s() > 0).then_some(Pause::Busy(reason))
    }

    /// Whether load and free space are known and still valid.
    pub fn is_fresh(&self) -> bool {
        self.cores > 0 && unix_time().saturating_sub(self.asked) < FRESH
    }

    /// Its load, where 1 means that all processors are busy, plus one process for each build that
    /// it has been given since the load was measured.
    pub fn normalized_load(&self) -> f64 {
        (self.load + f64::from(self.given)) / f64::from(self.cores.max(1))
    }
}

/// Why a machine gets no builds for some time. Displayed, it says so to users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause<'a> {
    /// It has failed.
    SetAside {
        /// For how many more seconds.
        wait: u64,
        /// What was wrong.
        error: &'a str,
    },
    /// It is a pool, and has no room, in its scheduler's words.
    Busy(&'a str),
}

impl fmt::Display for Pause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pause::SetAside { wait, error } => write!(f, "set aside for {wait} s more: {error}"),
            Pause::Busy(reason) => f.write_str(reason),
        }
    }
}

fn shortened(message: &str) -> String {
    on_one_line(message).chars().take(2000).collect()
}

/// How long a machine gets no builds, in seconds, after this many earlier consecutive failures.
fn backoff(failures: u32) -> u64 {
    FIRST_BACKOFF
        .saturating_mul(1 << failures.min(20))
        .min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::test_data::{directories, machine};

    fn vitals() -> Vitals {
        Vitals {
            load: 3.0,
            cores: 4,
            free_bytes: 1 << 30,
            round_trip: Duration::from_micros(1500),
            clock_offset: 0.0,
            kernel: "Linux 6.1".to_owned(),
            architecture: "x86_64".to_owned(),
            host_name: "build1".to_owned(),
        }
    }

    #[test]
    fn the_backoff_doubles_up_to_an_hour() {
        let times: Vec<u64> = (0..11).map(backoff).collect();
        assert_eq!(times[..5], [10, 20, 40, 80, 160]);
        assert_eq!(times[8..], [2560, 3600, 3600]);
        assert_eq!(backoff(u32::MAX), 3600);
    }

    #[test]
    fn vitals_are_valid_for_ten_seconds() {
        let mut health = Health::default();
        assert!(!health.is_fresh());
        health.answered(&vitals());
        assert!(health.is_fresh());
        assert_eq!((health.load, health.round_trip), (3.0, 1.5));
        health.asked -= 10;
        assert!(!health.is_fresh());
    }

    #[test]
    fn the_load_includes_builds_given_since_it_was_measured() {
        let mut health = Health::default();
        assert_eq!(health.normalized_load(), 0.0);
        health.answered(&vitals());
        assert_eq!(health.normalized_load(), 0.75);
        health.given = 2;
        assert_eq!(health.normalized_load(), 1.25);
        health.answered(&vitals());
        assert_eq!((health.given, health.normalized_load()), (0, 0.75));
    }

    #[test]
    fn what_is_learnt_is_kept_in_a_file() {
        let (state, directories) = directories();
        let machine = machine("build1");
        assert_eq!(Health::load(&directories, &machine), Health::default());
        Health::update(&directories, &machine, Health::succeeded);
        let updated = Health::update(&directories, &machine, |health| health.failed("gone"));
        assert_eq!((updated.builds, updated.all_failures), (1, 1));
        assert_eq!(Health::load(&directories, &machine), updated);
        // A damaged file counts as missing.
        let file = state.path().join("build1:22/health.json");
        fs::write(file, "{").unwrap();
        assert_eq!(Health::load(&directories, &machine), Health::default());
    }

    #[test]
    fn a_file_is_read_again_only_if_it_has_changed() {
        let (_state, directories) = directories();
        let machine = machine("build1");
        let (_, never) = Health::load_stamped(&directories, &machine);
        assert_eq!(Health::changed_since(&never, &directories, &machine), None);
        for given in 1..4 {
            let (_, before) = Health::load_stamped(&directories, &machine);
            let change = |health: &mut Health| health.given = given;
            let (_, after) = Health::update_stamped(&directories, &machine, change);
            let now = Health::changed_since(&before, &directories, &machine);
            assert_eq!(now.map(|health| health.given), Some(given));
            assert_eq!(Health::load_stamped(&directories, &machine).1, after);
            assert_eq!(Health::changed_since(&after, &directories, &machine), None);
        }
    }

    #[test]
    fn the_history_is_told_what_has_changed() {
        let machine = machine("build1");
        let mut health = Health::default();
        let mut now = unix_time();
        let mut news = |health: &mut Health, after: u64| {
            now += after;
            let state = health.news(&machine, None, now)?;
            assert_eq!((state.time, state.machine.as_str()), (now, "build1:22"));
            Some((state.state, state.reason, state.load))
        };
        let ready = |load| Some((State::Ready, String::new(), load));
        health.answered(&vitals());
        assert_eq!(news(&mut health, 0), ready(3.0));
        // A little later, a little more.
        health.load = 4.0;
        assert_eq!(news(&mut health, 59), None);
        assert_eq!(news(&mut health, 1), ready(4.0));
        health.load = 4.3;
        assert_eq!(news(&mut health, 600), None);
        health.free_bytes /= 2;
        assert_eq!(news(&mut health, 0), ready(4.3));
        // Another state at once, and only once.
        health.aside_until = u64::MAX;
        health.last_error = Some("gone".to_owned());
        let aside = Some((State::SetAside, "gone".to_owned(), 4.3));
        assert_eq!(news(&mut health, 1), aside);
        assert_eq!(news(&mut health, 1), None);
        health.mended();
        assert_eq!(news(&mut health, 1), ready(4.3));
        // As does a clock that was set back.
        now -= 1000;
        health.load = 0.0;
        assert!(health.news(&machine, None, now).is_some());
        // Being drained comes before everything else.
        health.aside_until = u64::MAX;
        let drained = Drained {
            reason: Some("new disk".to_owned()),
            ..Drained::default()
        };
        let state = health.news(&machine, Some(drained), now).unwrap();
        assert_eq!((state.state, &*state.reason), (State::Drained, "new disk"));
        let state = health.news(&machine, None, now).unwrap();
        assert_eq!(state.state, State::SetAside);
    }

    #[test]
    fn a_pool_without_room_is_not_asked_for_some_seconds() {
        let mut health = Health::default();
        health.is_full("Requested nodes\nare busy");
        assert!((5..=7).contains(&health.busy_s()), "{}", health.busy_s());
        assert_eq!(
            health.busy_reason.as_deref(),
            Some("Requested nodes are busy")
        );
        assert_eq!((health.set_aside_s(), health.all_failures), (0, 0));
    }

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
