//! The status in Prometheus's text format.

use std::fmt::Write;

use formats::printable::printable;

use super::machine_status::MachineStatus;

/// Each metric of all machines.
pub fn prometheus(machines: &[MachineStatus]) -> String {
    let mut text = String::new();
    type Value = fn(&MachineStatus) -> Option<f64>;
    let metrics: [(&str, &str, &str, Value); 14] = [
        (
            "up",
            "gauge",
            "Whether the machine could do a build, if it isn't too busy",
            |one| Some(f64::from(u8::from(one.up))),
        ),
        (
            "slots",
            "gauge",
            "Builds that the machine takes at once",
            |one| Some(f64::from(one.slots)),
        ),
        (
            "slots_used",
            "gauge",
            "Builds that the machine has now",
            |one| Some(one.slots_used as f64),
        ),
        (
            "load",
            "gauge",
            "Load, 1 being all processors busy",
            |one| one.normalized_load,
        ),
        ("free_bytes", "gauge", "Free space in the store", |one| {
            one.free_bytes.map(|free| free as f64)
        }),
        (
            "round_trip_seconds",
            "gauge",
            "From a question to its answer",
            |one| one.round_trip_ms.map(|time| time / 1000.0),
        ),
        (
            "set_aside_seconds",
            "gauge",
            "How long the machine gets no builds",
            |one| Some(one.set_aside_s as f64),
        ),
        (
            "drained",
            "gauge",
            "Whether the machine is drained: it gets no builds until it is returned",
            |one| Some(f64::from(u8::from(one.drained.is_some()))),
        ),
        (
            "builds_total",
            "counter",
            "Builds done, including failed ones",
            |one| Some(one.builds as f64),
        ),
        (
            "failed_builds_total",
            "counter",
            "Builds that failed",
            |one| Some(one.failed_builds as f64),
        ),
        (
            "failures_total",
            "counter",
            "Failures of the machine",
            |one| Some(one.failures as f64),
        ),
        ("jobs_running", "gauge", "Jobs of a pool that run", |one| {
            one.jobs.as_ref().map(|jobs| jobs.running as f64)
        }),
        ("jobs_pending", "gauge", "Jobs of a pool that wait", |one| {
            one.jobs.as_ref().map(|jobs| jobs.pending as f64)
        }),
        (
            "jobs_waited_seconds",
            "gauge",
            "How long the one has waited that waits longest",
            |one| one.jobs.as_ref().map(|jobs| jobs.waited_s as f64),
        ),
    ];
    for (name, kind, help, value) in metrics {
        let _ = writeln!(
            text,
            "# HELP guix_offload_{name} {help}\n# TYPE guix_offload_{name} {kind}"
        );
        for one in machines {
            if let Some(value) = value(one) {
                let _ = writeln!(
                    text,
                    "guix_offload_{name}{{machine=\"{}:{}\"}} {value}",
                    label(&one.name),
                    one.port
                );
            }
        }
    }
    text
}

/// A label's value, in which the format gives quotation marks, backslashes and line feeds a meaning.
pub fn label(value: &str) -> String {
    printable(&value.replace('\\', r"\\").replace('"', "\\\"")).into_owned()
}
