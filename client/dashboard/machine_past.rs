//! How machines were over the last 24 hours.
//!
//! The history has a row when a state has changed, and a row for each build when it has ended. Both together
//! make a state for each interval; consecutive ones that are the same are one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use farm::history::{Attempt, MachineState, State};
use hook::standing::Condition;
use serde::Serialize;
use serde_json::value::RawValue;

use super::document::{raw, shortened};
use super::interval::{self, INTERVAL};

/// How many machines are remembered.
const MACHINES: usize = 10_000;
/// How many changes of a machine's state are remembered.
const CHANGES: usize = 500;
/// How many changes of all machines' states are remembered, and how many bytes of their reasons. Where there are
/// more, fewer are remembered of each machine.
const ALL_CHANGES: usize = 150_000;
const ALL_REASONS: usize = 12 << 20;
/// How many bytes of a reason are remembered.
const REASON: usize = 120;
/// How many bytes the longest name of a machine has that is remembered.
const NAME: usize = 300;
/// How many bytes of JSON the states of all machines have that are shown.
const ALL_SHOWN: usize = 2 << 20;
/// The most states of a machine that are shown.
const SHOWN: usize = 200;

/// What is known of all machines.
pub struct MachinesPast {
    /// By their `NAME:PORT`.
    machines: HashMap<String, MachinePast>,
    /// How many changes of a machine are remembered.
    limit: usize,
    /// How many of all machines are, and the bytes of their reasons.
    changes: usize,
    reasons: usize,
}

/// The states of machines, as far as there is room for them.
#[derive(Default)]
pub struct ShownStates {
    /// Those of each machine as JSON, the oldest first, by its `NAME:PORT`.
    pub machines: BTreeMap<String, Box<RawValue>>,
    /// How many states are left out, and of how many more the reason is.
    pub unlisted: u64,
    pub unlisted_reasons: u64,
}

impl ShownStates {
    /// Those of a machine.
    pub fn of(&self, key: &str) -> Option<&RawValue> {
        self.machines.get(key).map(|states| &**states)
    }
}

#[derive(Default)]
struct MachinePast {
    /// The intervals in which it has built something.
    busy: BTreeSet<u64>,
    /// From when on it was in a state, and why.
    changes: BTreeMap<u64, (State, Box<str>)>,
}

/// A state, until the next one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Since<'a> {
    time: u64,
    state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
}

impl MachinesPast {
    /// Adds a row of the history.
    pub fn add_state(&mut self, state: MachineState) {
        let limit = self.limit;
        let Some(machine) = self.machine(&state.machine) else {
            return;
        };
        let change = (state.state, shortened(&state.reason, REASON).into());
        let last = machine.changes.last_key_value();
        if last.is_some_and(|(_, last)| *last == change) {
            return;
        }
        let added = change.1.len();
        let replaced = machine.changes.insert(state.time, change);
        let forgotten = match machine.changes.len() > limit {
            true => machine.changes.pop_first().map(|(_, change)| change),
            false => None,
        };
        self.changes += 1;
        self.reasons += added;
        for (_, reason) in [replaced, forgotten].into_iter().flatten() {
            self.changes -= 1;
            self.reasons -= reason.len();
        }
        while self.limit > 1 && (self.changes > ALL_CHANGES || self.reasons > ALL_REASONS) {
            self.limit /= 2;
            let limit = self.limit;
            for machine in self.machines.values_mut() {
                while machine.changes.len() > limit {
                    machine.changes.pop_first();
                }
            }
            self.count();
        }
    }

    /// Counts what is remembered.
    fn count(&mut self) {
        let changes = self.machines.values().flat_map(|one| one.changes.values());
        (self.changes, self.reasons) = changes.fold((0, 0), |(count, bytes), (_, reason)| {
            (count + 1, bytes + reason.len())
        });
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
        if !self.machines.contains_key(key) && (self.machines.len() >= MACHINES || key.len() > NAME)
        {
            return None;
        }
        Some(self.machines.entry(key.to_owned()).or_default())
    }

    /// Forgets what was before a time, but for the state that a machine had then.
    pub fn forget_before(&mut self, first: u64) {
        self.machines.retain(|_, machine| {
            machine.busy = machine.busy.split_off(&first);
            let mut later = machine.changes.split_off(&first);
            if let Some((_, before)) = machine.changes.pop_last() {
                later.entry(first).or_insert(before);
            }
            machine.changes = later;
            !(machine.busy.is_empty() && machine.changes.is_empty())
        });
        self.count();
        if self.changes < ALL_CHANGES / 4 && self.reasons < ALL_REASONS / 4 {
            self.limit = (2 * self.limit).min(CHANGES);
        }
    }

    /// The states of each machine. If there are too many for all, those who have most have fewer: without their
    /// oldest reasons, and if that isn't enough, without their oldest states.
    pub fn states(&self, first: u64, now: u64) -> ShownStates {
        let mut shown = ShownStates::default();
        let mut sizes = Vec::new();
        let mut size = 0;
        for (key, machine) in &self.machines {
            let Some(states) = raw(&machine.states(first, now)) else {
                continue;
            };
            sizes.push(states.get().len());
            size += states.get().len();
            match size <= ALL_SHOWN {
                true => shown.machines.insert(key.clone(), states),
                false => None,
            };
        }
        if size <= ALL_SHOWN {
            return shown;
        }
        shown.machines.clear();
        let room = level(sizes, ALL_SHOWN);
        for (key, machine) in &self.machines {
            let all = machine.states(first, now);
            let mut states = all.clone();
            if let Some(text) = fit(&mut states, room) {
                let with_reason = |states: &[Since<'_>]| {
                    let given = states.iter().filter(|state| !state.reason.is_empty());
                    given.count() as u64
                };
                let left_out = all.len() - states.len();
                shown.unlisted += left_out as u64;
                shown.unlisted_reasons += with_reason(&all[left_out..]) - with_reason(&states);
                shown.machines.insert(key.clone(), text);
            }
        }
        shown
    }
}

impl Default for MachinesPast {
    fn default() -> MachinesPast {
        MachinesPast {
            machines: HashMap::new(),
            limit: CHANGES,
            changes: 0,
            reasons: 0,
        }
    }
}

/// How much each may have of `room`, so that those who need less have all they need.
fn level(mut sizes: Vec<usize>, mut room: usize) -> usize {
    sizes.sort_unstable();
    let count = sizes.len();
    for (index, size) in sizes.into_iter().enumerate() {
        let share = room / (count - index);
        if size > share {
            return share;
        }
        room -= size;
    }
    usize::MAX
}

/// The states as JSON of so many bytes at most: without the oldest reasons, and then the oldest states. The last
/// state is always there, and its reason if there is any room for it.
fn fit(states: &mut Vec<Since<'_>>, room: usize) -> Option<Box<RawValue>> {
    let size = |state: &Since<'_>| raw(state).map_or(0, |text| text.get().len() + 1);
    let mut surplus = (states.iter().map(size).sum::<usize>() + 2).saturating_sub(room);
    let last = states.len().saturating_sub(1);
    for state in &mut states[..last] {
        if surplus > 0 && !state.reason.is_empty() {
            let before = size(state);
            state.reason = "";
            surplus = surplus.saturating_sub(before - size(state));
        }
    }
    let mut left_out = 0;
    while surplus > 0 && left_out < last {
        surplus = surplus.saturating_sub(size(&states[left_out]));
        left_out += 1;
    }
    states.drain(..left_out);
    if let (true, [last]) = (surplus > 0, states.as_mut_slice()) {
        last.reason = "";
    }
    raw(states)
}

impl MachinePast {
    fn states(&self, first: u64, now: u64) -> Vec<Since<'_>> {
        let mut states: Vec<Since<'_>> = Vec::new();
        let mut current: Option<&(State, Box<str>)> = None;
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
                Some((State::SetAside, reason)) => (Condition::Failing, &**reason),
                Some((State::Drained, reason)) => (Condition::Drained, &**reason),
                Some((State::Busy, reason)) => (Condition::Full, &**reason),
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
#[path = "machine_past_tests.rs"]
mod tests;
