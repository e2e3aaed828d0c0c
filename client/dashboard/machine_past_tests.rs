//! Tests of [`super`].

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
    let machine = &past.machines[key];
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
    let json = &past.states(FIRST, now).machines["a:22"];
    assert!(json.get().contains(r#""reason":"gone\\n""#), "{json}");
    past.forget_before(now + INTERVAL);
    let later = past.states(now + INTERVAL, now + INTERVAL);
    assert!(later.machines["a:22"].get().contains("ready"));
}

#[test]
fn an_attempt_of_years_and_a_machine_of_builds_only() {
    let mut past = MachinesPast::default();
    past.add_attempt(&attempt("b:22", FIRST + 700, u64::MAX / 2000), FIRST);
    let states = [(0, "busy"), (2, "ready")];
    assert_eq!(shown(&past, "b:22", FIRST + 2000), states);
    assert_eq!(past.machines["b:22"].busy.len(), 2);
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
    assert_eq!(past.machines["a:22"].changes.len(), CHANGES);
    assert_eq!(
        past.machines["a:22"]
            .states(FIRST, FIRST + 5000 * 600)
            .len(),
        SHOWN
    );
    for number in 0..2 * MACHINES {
        past.add_state(state(&format!("m{number}:22"), FIRST, State::Ready, ""));
    }
    assert_eq!(past.machines.len(), MACHINES);
}

#[test]
fn all_machines_together_are_bounded() {
    let mut past = MachinesPast::default();
    let reason = "r".repeat(500);
    for number in 0..200_u64 {
        for machine in 0..1500 {
            let reason = format!("{machine} {number} {reason}");
            let name = format!("m{machine}:22");
            past.add_state(state(&name, FIRST + number * 400, State::SetAside, &reason));
        }
    }
    past.add_state(state("few:22", FIRST, State::SetAside, "its own reason"));
    assert!(past.changes <= ALL_CHANGES && past.reasons <= ALL_REASONS);
    let (changes, reasons) = (past.changes, past.reasons);
    past.count();
    assert_eq!((past.changes, past.reasons), (changes, reasons));
    let shown = past.states(FIRST, FIRST + 200 * 400);
    assert_eq!(shown.machines.len(), 1501);
    let size: usize = shown.machines.values().map(|text| text.get().len()).sum();
    assert!(size <= ALL_SHOWN && size > ALL_SHOWN / 2, "{size}");
    assert!(
        shown.unlisted_reasons > 10_000,
        "{}",
        shown.unlisted_reasons
    );
    // One that has few keeps them, and all keep their last state.
    assert!(shown.machines["few:22"].get().contains("its own reason"));
    assert!(shown.machines["m7:22"].get().contains("failing"));
}

#[test]
fn who_has_most_loses_most() {
    assert_eq!(level(vec![10, 1, 10], 100), usize::MAX);
    assert_eq!(level(vec![10, 1, 30, 20], 40), 14);
}
