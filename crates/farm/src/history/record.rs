//! The rows of the history.

use std::time::Duration;

use formats::printable::is_unprintable;
use serde::{Deserialize, Serialize};

use crate::ItemName;
use crate::estimate::Sample;

/// The machine of a build on this host. Those of others have a port in their names.
pub const LOCAL: &str = "local";
/// The machine of a build by a hook that didn't say which one it is.
pub const UNKNOWN_MACHINE: &str = "";

/// The most characters of a name.
const MOST_OF_NAME: usize = 256;
/// The most characters of a reason.
const MOST_OF_REASON: usize = 500;

/// How an attempt to build something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptResult {
    /// The outputs are in the store.
    Done,
    /// The build failed.
    Failed,
    /// It took too long, or was silent for too long.
    TimedOut,
    /// Nobody wanted it any more.
    Cancelled,
    /// The machine failed, or the connection to it.
    MachineFailed,
    /// This host failed, or the hook.
    HookFailed,
}

impl AttemptResult {
    /// All of them.
    pub const ALL: [AttemptResult; 6] = [
        AttemptResult::Done,
        AttemptResult::Failed,
        AttemptResult::TimedOut,
        AttemptResult::Cancelled,
        AttemptResult::MachineFailed,
        AttemptResult::HookFailed,
    ];

    /// Its name, in the database and for users.
    pub fn name(self) -> &'static str {
        match self {
            AttemptResult::Done => "done",
            AttemptResult::Failed => "failed",
            AttemptResult::TimedOut => "timed-out",
            AttemptResult::Cancelled => "cancelled",
            AttemptResult::MachineFailed => "machine-failed",
            AttemptResult::HookFailed => "hook-failed",
        }
    }

    /// The result with this name.
    pub fn of_name(name: &str) -> Option<AttemptResult> {
        let mut all = AttemptResult::ALL.into_iter();
        all.find(|result| result.name() == name)
    }
}

/// What an attempt was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// To build missing outputs.
    Build,
    /// To build valid outputs again, and compare.
    Check,
    /// To replace outputs that are damaged.
    Repair,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Build, Kind::Check, Kind::Repair];

    /// Its name, in the database and for users.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Build => "build",
            Kind::Check => "check",
            Kind::Repair => "repair",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// How long the parts of an attempt took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Waiting, after it was accepted: for a job of a pool, a build user, or others' transfers.
    pub waited: Duration,
    /// Finding out what the machine lacks, and sending it.
    pub sent: Duration,
    /// Building.
    pub built: Duration,
    /// Retrieving the outputs.
    pub retrieved: Duration,
}

/// An attempt to build a derivation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended, in seconds since the epoch.
    pub time: u64,
    /// The derivation's file name in the store.
    pub derivation: String,
    /// What it makes.
    pub item: ItemName,
    /// The system that it is for.
    pub system: String,
    /// `NAME:PORT`, [`LOCAL`] or [`UNKNOWN_MACHINE`].
    pub machine: String,
    /// The machine's relative speed.
    pub speed: f64,
    /// What it was for.
    pub kind: Kind,
    /// How long it took.
    pub times: Times,
    /// How many bytes were sent to the machine.
    pub bytes_sent: u64,
    /// How many bytes were retrieved.
    pub bytes_retrieved: u64,
    /// How it ended.
    pub result: AttemptResult,
    /// Why; empty if it succeeded.
    pub reason: String,
}

impl Attempt {
    /// What an estimate needs to know of it, if it is a build that was done.
    pub fn sample(&self) -> Option<Sample> {
        let counts = self.kind == Kind::Build && self.result == AttemptResult::Done;
        counts.then(|| Sample {
            item: self.item.clone(),
            system: self.system.clone(),
            built: self.times.built,
            speed: self.speed,
        })
    }
}

/// The state of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It answers.
    Ready,
    /// It has failed, and gets no builds for a while.
    SetAside,
    /// Its scheduler has no room.
    Busy,
    /// Somebody has taken it out: it gets no builds until it is returned.
    Drained,
}

impl State {
    const ALL: [State; 4] = [State::Ready, State::SetAside, State::Busy, State::Drained];

    /// Its name, in the database and for users.
    pub fn name(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::SetAside => "set-aside",
            State::Busy => "busy",
            State::Drained => "drained",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<State> {
        State::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// How a machine was at some time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineState {
    /// When, in seconds since the epoch.
    pub time: u64,
    /// `NAME:PORT`.
    pub machine: String,
    /// The state.
    pub state: State,
    /// Why; empty if it is ready.
    pub reason: String,
    /// The load average; 0 if it is unknown.
    pub load: f64,
    /// Its processors; 0 if they are unknown.
    pub cores: u32,
    /// Free bytes in its store; 0 if that is unknown.
    pub free_bytes: u64,
    /// How many builds it takes at the same time.
    pub slots: u32,
}

/// A name as it is stored: no longer than names are.
pub(super) fn name(text: &str) -> String {
    text.chars().take(MOST_OF_NAME).collect()
}

/// A reason as it is stored: one line, of bounded length. What machines say may contain anything.
pub(super) fn reason(text: &str) -> String {
    let blank = |c: char| if is_unprintable(c) { ' ' } else { c };
    // More than can be left of it need not be looked at.
    let clean: String = text.chars().take(8 * MOST_OF_REASON).map(blank).collect();
    let words: Vec<&str> = clean.split_whitespace().collect();
    words.join(" ").chars().take(MOST_OF_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_what_they_name() {
        for result in AttemptResult::ALL {
            assert_eq!(AttemptResult::of_name(result.name()), Some(result));
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::of_name(kind.name()), Some(kind));
        }
        for state in State::ALL {
            assert_eq!(State::of_name(state.name()), Some(state));
        }
        assert_eq!(AttemptResult::of_name("Done"), None);
    }

    proptest::proptest! {
        #[test]
        fn reasons_are_one_line_of_bounded_length(text in "(?s).{0,2000}") {
            let stored = reason(&text);
            assert!(!stored.contains(is_unprintable));
            assert!(stored.chars().count() <= MOST_OF_REASON);
            assert_eq!(reason(&stored), stored.trim_end());
        }
    }
}
