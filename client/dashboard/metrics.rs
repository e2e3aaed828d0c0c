//! What was gathered, in Prometheus's text format: the machines as `offload status --prometheus` writes them, and
//! sums over requests.

use std::collections::BTreeMap;
use std::fmt::Write;

use hook::status::known::{self, label};
use serde::Deserialize;

use super::farm::Gathered;

/// The most reasons that are told of.
const REASONS: usize = 100;

/// The numbers of a request.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Request {
    running: u64,
    waiting: u64,
    reasons: BTreeMap<String, u64>,
}

/// All metrics.
pub fn metrics(gathered: &Gathered) -> String {
    let mut text = String::new();
    let requests = gathered.requests.as_ref();
    let requests = requests.and_then(|text| serde_json::from_str::<Vec<Request>>(text.get()).ok());
    let is_up = u8::from(requests.is_some());
    gauge(
        &mut text,
        "up",
        "Whether the build daemon answers",
        [("", is_up.into())],
    );
    if let Some(requests) = requests {
        let sum =
            |number: fn(&Request) -> u64| requests.iter().map(number).fold(0, u64::saturating_add);
        let all = requests.len() as u64;
        gauge(
            &mut text,
            "requests",
            "Requests of clients in progress",
            [("", all)],
        );
        let running = sum(|request| request.running);
        gauge(
            &mut text,
            "running",
            "Builds and downloads that run",
            [("", running)],
        );
        let waiting = sum(|request| request.waiting);
        gauge(
            &mut text,
            "waiting",
            "Builds and downloads that wait",
            [("", waiting)],
        );
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for (reason, count) in requests.iter().flat_map(|request| &request.reasons) {
            if reasons.len() < REASONS || reasons.contains_key(reason) {
                let sum = reasons.entry(reason.clone()).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
        let labelled = reasons
            .into_iter()
            .map(|(reason, count)| (format!("{{reason=\"{}\"}}", label(&reason)), count));
        gauge(
            &mut text,
            "waiting_for",
            "Those that wait, by the reason",
            labelled,
        );
    }
    text + &known::metrics(&gathered.known, gathered.time)
}

fn gauge<L: std::fmt::Display>(
    text: &mut String,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) {
    let _ = writeln!(
        text,
        "# HELP guix_farm_{name} {help}\n# TYPE guix_farm_{name} gauge"
    );
    for (labels, value) in values {
        let _ = writeln!(text, "guix_farm_{name}{labels} {value}");
    }
}
