//! What a keeper writes down about its job, in `N.job` beside the slot: for the next keeper, which has
//! to end a job whose keeper was killed; for `offload status`; and for hooks that lose their worker.
//!
//! The keeper of slot N holds the lock of the file `N.keeper` as long as it lives.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use system::lock;

use super::failure::Failure;
use super::plan::slot_file;

/// A job, as its keeper has seen it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub job: String,
    /// The command that ends it; may be empty.
    pub cancel: Vec<String>,
    /// The user as whom that runs.
    pub run_as: Option<String>,
    /// The keeper's process.
    pub keeper: u32,
    /// When it was asked for, in seconds since the epoch.
    pub since: u64,
    /// How it is.
    pub state: State,
}

/// How a job is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It waits, or its worker gets ready.
    Pending {
        /// Why, in the scheduler's words, if that is known.
        reason: String,
    },
    /// Its worker answers.
    Running {
        /// The node.
        host: String,
        /// The scheduler's name for the job.
        id: Option<String>,
        /// Since when, in seconds since the epoch.
        since: u64,
        /// The node's load average.
        load: Option<f64>,
        /// The free space of its store, in bytes.
        free: Option<u64>,
    },
    /// It is being ended, because of this; or could not be cancelled.
    Ending {
        /// Why, unless it is in order.
        failure: Option<Failure>,
    },
    /// It has ended, or was never started.
    Ended {
        /// Why, unless it was in order.
        failure: Option<Failure>,
    },
}

impl Record {
    /// The record of a slot, if there is one.
    pub fn load(directory: &Path, slot: u32) -> Option<Record> {
        let text = fs::read(slot_file(directory, slot, "job")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes it, so that a crash of this host leaves this record or the last one. A job that has not
    /// started yet is on the disk before it does.
    pub fn save(&self, directory: &Path, slot: u32) -> io::Result<()> {
        let new = slot_file(directory, slot, "job.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(new, slot_file(directory, slot, "job"))?;
        match self.state {
            State::Pending { .. } => File::open(directory)?.sync_all(),
            _ => Ok(()),
        }
    }

    /// Why the job ends or has ended, if that was not in order.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.state {
            State::Ending { failure } | State::Ended { failure } => failure.as_ref(),
            State::Pending { .. } | State::Running { .. } => None,
        }
    }

    /// Whether nobody has seen the end of the job.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Ended { .. })
    }
}

/// Whether a slot has a living keeper.
pub fn is_kept(directory: &Path, slot: u32) -> bool {
    lock::is_locked(&slot_file(directory, slot, "keeper")).unwrap_or(false)
}

/// In which order slots are taken: first those with a job; then those whose job nobody has seen the end of,
/// so that it is ended.
pub fn rank(directory: &Path, slot: u32) -> u32 {
    let is_open = || Record::load(directory, slot).is_some_and(|record| record.is_open());
    match is_kept(directory, slot) {
        true => 0,
        false if is_open() => 1,
        false => 2,
    }
}

/// The jobs of a pool with so many slots that have a living keeper, with the numbers of their slots.
pub fn records(directory: &Path, slots: u32) -> Vec<(u32, Record)> {
    let kept = (0..slots).filter(|slot| is_kept(directory, *slot));
    let loaded = kept.filter_map(|slot| Some((slot, Record::load(directory, slot)?)));
    loaded.filter(|(_, record)| record.is_open()).collect()
}

#[cfg(test)]
mod tests {
    use system::lock::{LockFile, Mode};

    use super::*;

    #[test]
    fn only_what_has_a_keeper_is_a_job() {
        let directory = tempfile::tempdir().unwrap();
        let record = Record {
            job: "guix-x-0-abc".to_owned(),
            cancel: vec!["scancel".to_owned()],
            run_as: None,
            keeper: 1,
            since: 2,
            state: State::Pending {
                reason: "Resources".to_owned(),
            },
        };
        assert_eq!(Record::load(directory.path(), 0), None);
        record.save(directory.path(), 0).unwrap();
        assert_eq!(Record::load(directory.path(), 0), Some(record.clone()));
        assert!(record.is_open());
        assert_eq!(records(directory.path(), 3), []);
        let ranks = || [0, 1, 2].map(|slot| rank(directory.path(), slot));
        record.save(directory.path(), 1).unwrap();
        let ended = Record {
            state: State::Ended { failure: None },
            ..record.clone()
        };
        ended.save(directory.path(), 2).unwrap();
        assert_eq!(ranks(), [1, 1, 2]);
        let lock = LockFile::open(directory.path().join("0.keeper")).unwrap();
        assert!(lock.try_lock(Mode::Exclusive).unwrap());
        assert_eq!(records(directory.path(), 3), [(0, record)]);
        assert_eq!(ranks(), [0, 1, 2]);
        fs::write(directory.path().join("0.job"), "{").unwrap();
        assert_eq!(records(directory.path(), 3), []);
    }
}
