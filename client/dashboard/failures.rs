//! The last failures.

use std::collections::VecDeque;

use farm::history::{Attempt, AttemptResult, UNKNOWN_MACHINE};
use serde::Serialize;
use store::Directories;

use super::document::{shortened, text};
use crate::log::Log;

/// How many are shown.
const SHOWN: usize = 100;
/// How many bytes of a reason are shown.
const REASON: usize = 300;
/// How many bytes of a derivation's file name: with a hash, and the longest name.
const FILE_NAME: usize = 1000;

/// Whether an attempt has failed, be it the build's failure or a machine's.
pub fn is_failure(result: AttemptResult) -> bool {
    !matches!(result, AttemptResult::Done | AttemptResult::Cancelled)
}

/// The last failures, the newest first.
pub struct Failures {
    directories: Directories,
    attempts: VecDeque<Attempt>,
}

/// A failure as it is shown.
#[derive(Serialize)]
pub struct Row {
    time: u64,
    drv: String,
    name: String,
    version: String,
    system: String,
    machine: Option<String>,
    kind: &'static str,
    result: &'static str,
    reason: String,
    waited_s: u64,
    built_s: u64,
    has_log: bool,
}

impl Failures {
    /// None yet.
    pub fn new(directories: &Directories) -> Failures {
        Failures {
            directories: directories.clone(),
            attempts: VecDeque::new(),
        }
    }

    /// Adds an attempt if it has failed.
    pub fn add(&mut self, attempt: Attempt) {
        if is_failure(attempt.result) {
            let reason = shortened(&attempt.reason, REASON);
            self.attempts.push_front(Attempt { reason, ..attempt });
            self.attempts.truncate(SHOWN);
        }
    }

    /// Forgets those that were before a time.
    pub fn forget_before(&mut self, first: u64) {
        self.attempts.retain(|attempt| attempt.time >= first);
    }

    /// Those that are shown.
    pub fn rows(&self) -> Vec<Row> {
        self.attempts
            .iter()
            .map(|attempt| self.row(attempt))
            .collect()
    }

    fn row(&self, attempt: &Attempt) -> Row {
        let machine = attempt.machine.as_str();
        let log = Log::of_name(&self.directories, &attempt.derivation);
        Row {
            time: attempt.time,
            drv: shortened(
                &format!("{}/{}", self.directories.store.as_str(), attempt.derivation),
                FILE_NAME,
            ),
            name: text(&attempt.item.name),
            version: text(&attempt.item.version),
            system: text(&attempt.system),
            machine: (machine != UNKNOWN_MACHINE).then(|| text(machine)),
            kind: attempt.kind.name(),
            result: attempt.result.name(),
            reason: attempt.reason.clone(),
            waited_s: attempt.times.waited.as_secs(),
            built_s: attempt.times.built.as_secs(),
            has_log: matches!(log, Ok(Some(_))),
        }
    }
}
