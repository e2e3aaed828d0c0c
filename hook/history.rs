//! What a hook adds to the farm's history (`doc/spec/history.md`): how its attempts went. How machines
//! are comes from [`crate::health`].

use std::time::Instant;

use farm::ItemName;
use farm::history::{Attempt, AttemptResult, Kind, Times};
use formats::StorePath;
use formats::derivation::Derivation;
use store::Store;
use system::clock::unix_time;

use crate::directories::HookDirectories;
use crate::machines::Machine;
use crate::request::Request;

/// The largest derivation that is read here, in bytes: what hooks want to know of it is no more than useful.
const DERIVATION_LIMIT: u64 = 1 << 20;

/// A derivation, unless it cannot be read or is large.
pub fn read_derivation(store: &Store, path: &StorePath) -> Option<Derivation> {
    let is_small = store.derivation_size(path).ok()? <= DERIVATION_LIMIT;
    is_small.then(|| store.read_derivation(path).ok())?
}

/// What a derivation makes; by the name of its file, if it was not read.
pub fn item(path: &StorePath, derivation: Option<&Derivation>) -> ItemName {
    let by_name = || ItemName::of(path.base_name());
    derivation.map_or_else(by_name, |read| ItemName::of_derivation(path, read))
}

/// A part of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Waiting for a job, or for others' transfers.
    Waiting,
    /// Finding out what the machine lacks, and sending it.
    Sending,
    /// The build itself.
    Building,
    /// Retrieving the outputs.
    Retrieving,
}

/// How an attempt on a machine goes on.
#[derive(Debug)]
pub struct Course {
    part: Part,
    since: Instant,
    times: Times,
    /// Whether the machine was told to build.
    is_begun: bool,
    /// How many bytes were sent.
    pub bytes_sent: u64,
    /// How many bytes were retrieved.
    pub bytes_retrieved: u64,
}

impl Course {
    /// An attempt that begins now, and waits for its machine.
    pub fn begin() -> Course {
        Course {
            part: Part::Waiting,
            since: Instant::now(),
            times: Times::default(),
            is_begun: false,
            bytes_sent: 0,
            bytes_retrieved: 0,
        }
    }

    /// Begins another part.
    pub fn enter(&mut self, part: Part) {
        let now = Instant::now();
        let times = &mut self.times;
        let total = match self.part {
            Part::Waiting => &mut times.waited,
            Part::Sending => &mut times.sent,
            Part::Building => &mut times.built,
            Part::Retrieving => &mut times.retrieved,
        };
        *total += now - self.since;
        self.since = now;
        self.part = part;
        self.is_begun |= part == Part::Building;
    }

    /// Remembers how the attempt has ended, if there is a history. `store` has the derivation. What another
    /// process has built meanwhile is nobody's attempt.
    pub fn end(
        mut self,
        directories: &HookDirectories,
        request: &Request,
        (derivation, store): (&StorePath, &Store),
        machine: &Machine,
        result: AttemptResult,
        reason: &str,
    ) {
        let Some(history) = &directories.history else {
            return;
        };
        if result == AttemptResult::Done && !self.is_begun {
            return;
        }
        self.enter(Part::Waiting);
        let item = || item(derivation, read_derivation(store, derivation).as_ref());
        let attempt = Attempt {
            time: unix_time(),
            derivation: derivation.base_name().to_owned(),
            item: ItemName::default(),
            system: request.system.clone(),
            machine: machine.key(),
            speed: machine.speed,
            kind: Kind::Build,
            times: self.times,
            bytes_sent: self.bytes_sent,
            bytes_retrieved: self.bytes_retrieved,
            result,
            reason: reason.to_owned(),
        };
        history.attempt(attempt, item);
    }
}
