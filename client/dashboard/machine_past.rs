//! How machines were over the last 24 hours.
//!
//! The history has a row when a state has changed, and a row for each build when it has ended. Both together
//! make a state for each interval; consecutive ones that are the same are one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use farm::history::{Attempt, MachineState, State};
use formats::printable::printable;
use hook::standing::Condition;
use serde::Serialize;
use serde_json::value::RawValue;

use super::document::raw;
use super::interval::{self, INTERVAL};

/// How many machines are remembered.
const MACHINES: usize = 10_000;
/// How many changes of a machine's state are remembered.
const CHANGES: usize = 500;
/// The most states of a machine that are shown.
const SHOWN: usize = 200;

/// What is known of all machines, by their `NAME:PORT`.
#[derive(Default)]
pub struct MachinesPast(HashMap<String, MachinePast>);

#[derive(Default)]
struct MachinePast {
    /// The intervals in which it has built something.
    busy: BTreeSet<u64>,
    /// From when on it was in a state, and why.
    changes: BTreeMap<u64, (State, String)>,
}

/// A state, until the next one.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Since<'a> {
    time: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

impl MachinesPast {
    /// Adds a row of the history.
    pub fn add_state(&mut self, state: MachineState) {
        let Some(machine) = self.machine(&state.machine) else {
            return;
        };
        let last = machine.changes.last_key_value();
        if last
            .is_some_and(|(_, (before, reason))| *before == state.state && *reason == state.reason)
        {
            return;
        }
        let reason = printable(&state.reason).into_owned();
        machine.changes.insert(state.time, (state.state, reason));
        if machine.changes.len() > CHANGES {
            machine.changes.pop_first();
        }
    }

    /// Adds an attempt to build something.
    pub fn add_attempt(&mut self, attempt: &Attempt, since: u64) {
        let times = attempt.times;
        let took = times.sent + times.built + times.retrieved;
        let began = attempt.time.saturating_sub(took.as_secs()).max(since);
        let Some(machine) = self.machine(&attempt.machine) else {
            return;
        };
        let first = interval::of(began);
        machine
            .busy
            .extend((first..=attempt.time).step_by(INTERVAL as usize));
    }

    fn machine(&mut self, key: &str) -> Option<&mut MachinePast> {
        if !self.0.contains_key(key) && self.0.len() >= MACHINES {
            return None;
        }
        Some(self.0.entry(key.to_owned()).or_default())
    }

    /// Forgets what was before a time, but for the state that a machine had then.
    pub fn forget_before(&mut self, first: u64) {
        self.0.retain(|_, machine| {
            machine.busy = machine.busy.split_off(&first);
            let mut later = machine.changes.split_off(&first);
            if let Some((_, before)) = machine.changes.pop_last() {
                later.entry(first).or_insert(before);
            }
            machine.changes = later;
            !(machine.busy.is_empty() && machine.changes.is_empty())
        });
    }

    /// The states of each machine as JSON, the oldest first.
    pub fn states(&self, first: u64, now: u64) -> BTreeMap<String, Box<RawValue>> {
        let states = self.0.iter().filter_map(|(key, machine)| {
            let states = raw(&machine.states(first, now))?;
            Some((key.clone(), states))
        });
        states.collect()
    }
}

impl MachinePast {
    fn states(&self, first: u64, now: u64) -> Vec<Since<'_>> {
        let mut states: Vec<Since<'_>> = Vec::new();
        let mut current: Option<&(State, String)> = None;
        for time in (first..=now).step_by(INTERVAL as usize) {
            let mut worst = current;
            for (_, change) in self.changes.range(time..time + INTERVAL) {
                current = Some(change);
                if worst.is_none_or(|worst| rank(change.0) > rank(worst.0)) {
                    worst = current;
                }
            }
            let is_busy = self.busy.contains(&time);
            let (condition, reason) = match worst {
                Some((State::SetAside, reason)) => (Condition::Failing, reason.as_str()),
                Some((State::Drained, reason)) => (Condition::Drained, reason.as_str()),
                Some((State::Busy, reason)) => (Condition::Full, reason.as_str()),
                _ if is_busy => (Condition::Busy, ""),
                Some((State::Ready, _)) => (Condition::Ready, ""),
                // Nothing is known of it but that it has built.
                None if !states.is_empty() => (Condition::Ready, ""),
                None => continue,
            };
            let state = condition.name();
            if states
                .last()
                .is_none_or(|last| (last.state, last.reason) != (state, reason))
            {
                states.push(Since {
                    time,
                    state,
                    reason,
                });
            }
        }
        let surplus = states.len().saturating_sub(SHOWN);
        states.split_off(surplus)
    }
}

/// The worst state of an interval is shown.
fn rank(state: State) -> u8 {
    match state {
        State::Ready => 0,
        State::Busy => 1,
        State::Drained => 2,
        State::SetAside => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farm::ItemName;
    use farm::history::{AttemptResult, Kind, Times};
    use std::time::Duration;

    const FIRST: u64 = 600_000;

    fn state(machine: &str, time: u64, state: State, reason: &str) -> MachineState {
        MachineState {
            time,
            machine: machine.to_owned(),
            state,
            reason: reason.to_owned(),
            load: 0.0,
            cores: 0,
            free_bytes: 0,
            slots: 1,
        }
    }

    fn attempt(machine: &str, time: u64, built: u64) -> Attempt {
        Attempt {
            time,
            derivation: "x.drv".to_owned(),
            item: ItemName::of("x"),
            system: String::new(),
            machine: machine.to_owned(),
            speed: 1.0,
            kind: Kind::Build,
            times: Times {
                built: Duration::from_secs(built),
                ..Times::default()
            },
            bytes_sent: 0,
            bytes_retrieved: 0,
            result: AttemptResult::Done,
            reason: String::new(),
        }
    }

    fn shown(past: &MachinesPast, key: &str, now: u64) -> Vec<(u64, &'static str)> {
        let machine = &past.0[key];
        let states = machine.states(FIRST, now);
        states
            .iter()
            .map(|one| ((one.time - FIRST) / INTERVAL, one.state))
            .collect()
    }

    #[test]
    fn the_worst_of_each_interval_is_shown_and_repetitions_are_not() {
        let mut past = MachinesPast::default();
        past.add_state(state("a:22", FIRST - 1000, State::Ready, ""));
        past.add_attempt(&attempt("a:22", FIRST + 1900, 800), FIRST);
        past.add_state(state("a:22", FIRST + 2500, State::SetAside, "gone\n"));
        past.add_state(state("a:22", FIRST + 2600, State::Ready, ""));
        past.forget_before(FIRST);
        let now = FIRST + 10 * INTERVAL;
        let states = [(0, "ready"), (1, "busy"), (4, "failing"), (5, "ready")];
        assert_eq!(shown(&past, "a:22", now), states);
        let json = &past.states(FIRST, now)["a:22"];
        assert!(json.get().contains(r#""reason":"gone\\n""#), "{json}");
        past.forget_before(now + INTERVAL);
        let later = past.states(now + INTERVAL, now + INTERVAL);
        assert!(later["a:22"].get().contains("ready"));
    }

    #[test]
    fn an_attempt_of_years_and_a_machine_of_builds_only() {
        let mut past = MachinesPast::default();
        past.add_attempt(&attempt("b:22", FIRST + 700, u64::MAX / 2000), FIRST);
        let states = [(0, "busy"), (2, "ready")];
        assert_eq!(shown(&past, "b:22", FIRST + 2000), states);
        assert_eq!(past.0["b:22"].busy.len(), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut past = MachinesPast::default();
        for number in 0..5000 {
            let reason = format!("{number}");
            past.add_state(state(
                "a:22",
                FIRST + number * 600,
                State::SetAside,
                &reason,
            ));
        }
        assert_eq!(past.0["a:22"].changes.len(), CHANGES);
        assert_eq!(
            past.0["a:22"].states(FIRST, FIRST + 5000 * 600).len(),
            SHOWN
        );
        for number in 0..2 * MACHINES {
            past.add_state(state(&format!("m{number}:22"), FIRST, State::Ready, ""));
        }
        assert_eq!(past.0.len(), MACHINES);
    }
}
