//! The history as JSON, whose fields the manual describes.

use std::time::Duration;

use farm::estimate::Estimate;
use farm::history::{Attempt, MachineState, MachineSummary, SystemSummary, UNKNOWN_MACHINE};
use formats::StoreDir;
use formats::printable::printable_json;
use serde::Serialize;

/// A list with an object for each attempt.
pub fn attempts(attempts: &[Attempt], store: &StoreDir) -> String {
    json(&rows(attempts, store))
}

/// A list with an object for each state.
pub fn states(states: &[MachineState]) -> String {
    let rows = states.iter().map(|state| StateRow {
        time: state.time,
        machine: &state.machine,
        state: state.state.name(),
        reason: &state.reason,
        load: state.load,
        cores: state.cores,
        free_bytes: state.free_bytes,
        slots: state.slots,
    });
    json(&rows.collect::<Vec<_>>())
}

/// An object about one thing.
pub fn of_item(summary: &[SystemSummary], last: &[Attempt], store: &StoreDir) -> String {
    let systems = summary.iter().map(SystemRow::new);
    json(&ItemReport {
        name: last.first().map_or("", |attempt| &attempt.item.name),
        systems: systems.collect(),
        last: rows(last, store),
    })
}

fn json(report: &impl Serialize) -> String {
    // Nothing in it can fail to be written.
    let text = serde_json::to_string_pretty(report).unwrap_or_default();
    printable_json(&text) + "\n"
}

#[derive(Serialize)]
struct AttemptRow<'a> {
    time: u64,
    derivation: String,
    name: &'a str,
    version: &'a str,
    system: &'a str,
    machine: Option<&'a str>,
    speed: f64,
    kind: &'static str,
    waited_ms: u64,
    sent_ms: u64,
    built_ms: u64,
    retrieved_ms: u64,
    bytes_sent: u64,
    bytes_retrieved: u64,
    result: &'static str,
    reason: &'a str,
}

fn rows<'a>(attempts: &'a [Attempt], store: &StoreDir) -> Vec<AttemptRow<'a>> {
    let row = |attempt: &'a Attempt| AttemptRow {
        time: attempt.time,
        derivation: format!("{store}/{}", attempt.derivation),
        name: &attempt.item.name,
        version: &attempt.item.version,
        system: &attempt.system,
        machine: known(&attempt.machine),
        speed: attempt.speed,
        kind: attempt.kind.name(),
        waited_ms: milliseconds(attempt.times.waited),
        sent_ms: milliseconds(attempt.times.sent),
        built_ms: milliseconds(attempt.times.built),
        retrieved_ms: milliseconds(attempt.times.retrieved),
        bytes_sent: attempt.bytes_sent,
        bytes_retrieved: attempt.bytes_retrieved,
        result: attempt.result.name(),
        reason: &attempt.reason,
    };
    attempts.iter().map(row).collect()
}

#[derive(Serialize)]
struct StateRow<'a> {
    time: u64,
    machine: &'a str,
    state: &'static str,
    reason: &'a str,
    load: f64,
    cores: u32,
    free_bytes: u64,
    slots: u32,
}

#[derive(Serialize)]
struct ItemReport<'a> {
    name: &'a str,
    systems: Vec<SystemRow<'a>>,
    last: Vec<AttemptRow<'a>>,
}

#[derive(Serialize)]
struct SystemRow<'a> {
    system: &'a str,
    samples: usize,
    usual_ms: Option<u64>,
    long_ms: Option<u64>,
    machines: Vec<MachineRow<'a>>,
}

#[derive(Serialize)]
struct MachineRow<'a> {
    machine: Option<&'a str>,
    done: usize,
    failed: usize,
    other: usize,
    usual_ms: Option<u64>,
    last: u64,
}

impl<'a> SystemRow<'a> {
    fn new(summary: &'a SystemSummary) -> SystemRow<'a> {
        let Estimate {
            usual,
            long,
            samples,
            ..
        } = summary.estimate;
        let machines = summary
            .machines
            .iter()
            .map(|one: &MachineSummary| MachineRow {
                machine: known(&one.machine),
                done: one.done,
                failed: one.failed,
                other: one.other,
                usual_ms: one.usual.map(milliseconds),
                last: one.last,
            });
        SystemRow {
            system: &summary.system,
            samples,
            usual_ms: (samples > 0).then(|| milliseconds(usual)),
            long_ms: (samples > 0).then(|| milliseconds(long)),
            machines: machines.collect(),
        }
    }
}

fn known(machine: &str) -> Option<&str> {
    (machine != UNKNOWN_MACHINE).then_some(machine)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
