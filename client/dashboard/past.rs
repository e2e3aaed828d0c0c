//! The last 24 hours, of the history: read once, and then only what has been added.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use farm::history::{Attempt, AttemptResult, Reader};
use serde::Serialize;
use serde_json::value::RawValue;
use store::Directories;

use super::document::raw;
use super::failures::{Failures, is_failure};
use super::interval::{self, INTERVAL};
use super::machine_past::{MachinesPast, ShownStates};

/// How long to wait for those who write.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long after a change another one can have the same time in the file system.
const TICK: Duration = Duration::from_secs(2);
/// How often it is looked whether logs still exist, in seconds.
const LOGS_CHECKED: u64 = 60;

/// What is known of the last 24 hours.
pub struct Past {
    /// The hook's directory.
    directory: PathBuf,
    failures: Failures,
    machines: MachinesPast,
    intervals: BTreeMap<u64, Interval>,
    read: Option<Version>,
    last_attempt: i64,
    last_state: i64,
    error: Option<String>,
    /// What was made of all this, and at which time; `None` if there is news since.
    shown: Shown,
    shown_at: Option<u64>,
}

/// The history as JSON.
#[derive(Default)]
pub struct Shown {
    /// The last failures, the newest first.
    pub failures: Option<Box<RawValue>>,
    /// What was done in each interval.
    pub throughput: Option<Box<RawValue>>,
    /// The states of machines.
    pub states: ShownStates,
}

/// Which file was read, and when it was changed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    changed: SystemTime,
    /// Whether it may have been changed again without a trace.
    is_new: bool,
}

/// What was done in an interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Interval {
    time: u64,
    /// Attempts that succeeded, and ended in it.
    builds: u64,
    /// Attempts that failed in it.
    failed: u64,
    /// The time in it for which machines built, added up, in seconds.
    busy_s: u64,
    bytes_sent: u64,
    bytes_retrieved: u64,
}

impl Past {
    /// Nothing is known yet.
    pub fn new(directories: &Directories) -> Past {
        Past {
            directory: directories.offload(),
            failures: Failures::new(directories),
            machines: MachinesPast::default(),
            intervals: BTreeMap::new(),
            read: None,
            last_attempt: 0,
            last_state: 0,
            error: None,
            shown: Shown::default(),
            shown_at: None,
        }
    }

    /// Reads what has been added, and shows everything as it is at the time `now`. An error is why what is shown
    /// may be old, or nothing.
    pub fn look(&mut self, now: u64) -> (&Shown, Option<&str>) {
        match self.update(now) {
            Ok(()) => self.error = None,
            Err(error) => self.error = Some(error),
        }
        let is_old =
            |at: u64| interval::of(at) != interval::of(now) || now.abs_diff(at) >= LOGS_CHECKED;
        if self.shown_at.is_none_or(is_old) {
            self.show(now);
        }
        (&self.shown, self.error.as_deref())
    }

    fn show(&mut self, now: u64) {
        let first = interval::first(now);
        self.intervals = self.intervals.split_off(&first);
        self.machines.forget_before(first);
        self.failures.forget_before(first);
        let all = (first..=now).step_by(INTERVAL as usize).map(|time| {
            let interval = self.intervals.get(&time).cloned().unwrap_or_default();
            Interval { time, ..interval }
        });
        self.shown = Shown {
            throughput: raw(&all.collect::<Vec<_>>()),
            failures: raw(&self.failures.rows()),
            states: self.machines.states(first, now),
        };
        self.shown_at = Some(now);
    }

    fn update(&mut self, now: u64) -> Result<(), String> {
        let file = self.directory.join("history.sqlite");
        let version = match Version::of(&file) {
            Ok(version) => version,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Nothing was built yet.
                if self.read.is_some() {
                    self.begin_anew(None);
                }
                return Ok(());
            }
            Err(error) => {
                return Err(format!(
                    "cannot read the history: {}: {error}",
                    file.display()
                ));
            }
        };
        if self.read == Some(version) && !version.is_new {
            return Ok(());
        }
        let is_same = |read: Version| (read.device, read.inode) == (version.device, version.inode);
        if !self.read.is_some_and(is_same) {
            self.begin_anew(None);
        }
        let read = self.read_new(interval::first(now));
        read.map_err(|error| format!("cannot read the history: {error}"))?;
        self.read = Some(version);
        Ok(())
    }

    fn read_new(&mut self, since: u64) -> Result<(), farm::history::Error> {
        let Some(reader) = Reader::open(&self.directory, PATIENCE)? else {
            return Ok(());
        };
        let mut attempts = self.attempts(&reader, since)?;
        if attempts < self.last_attempt {
            self.begin_anew(self.read);
            attempts = self.attempts(&reader, since)?;
        }
        let after = self.last_state;
        let states = reader.states_after(after, since, |state| self.machines.add_state(state))?;
        if attempts > self.last_attempt || states > after {
            self.shown_at = None;
        }
        self.last_attempt = attempts;
        self.last_state = states;
        Ok(())
    }

    fn attempts(&mut self, reader: &Reader, since: u64) -> Result<i64, farm::history::Error> {
        reader.attempts_after(self.last_attempt, since, |attempt| {
            self.machines.add_attempt(&attempt, since);
            self.count(&attempt, since);
            self.failures.add(attempt);
        })
    }

    fn begin_anew(&mut self, read: Option<Version>) {
        self.failures.forget_before(u64::MAX);
        self.machines = MachinesPast::default();
        self.intervals.clear();
        self.last_attempt = 0;
        self.last_state = 0;
        self.read = read;
        self.shown_at = None;
    }

    fn count(&mut self, attempt: &Attempt, since: u64) {
        let ended = self
            .intervals
            .entry(interval::of(attempt.time))
            .or_default();
        ended.builds += u64::from(attempt.result == AttemptResult::Done);
        ended.failed += u64::from(is_failure(attempt.result));
        ended.bytes_sent = ended.bytes_sent.saturating_add(attempt.bytes_sent);
        ended.bytes_retrieved = ended
            .bytes_retrieved
            .saturating_add(attempt.bytes_retrieved);
        let began = attempt.time.saturating_sub(attempt.times.built.as_secs());
        let mut time = interval::of(began.max(since));
        while time <= attempt.time {
            let end = (time + INTERVAL).min(attempt.time);
            let busy = end.saturating_sub(time.max(began));
            let one = self.intervals.entry(time).or_default();
            one.busy_s = one.busy_s.saturating_add(busy);
            time += INTERVAL;
        }
    }
}

impl Version {
    fn of(file: &Path) -> std::io::Result<Version> {
        let metadata = fs::symlink_metadata(file)?;
        let changed = metadata.modified()?;
        let age = SystemTime::now().duration_since(changed);
        Ok(Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed,
            is_new: age.is_ok_and(|age| age < TICK),
        })
    }
}
