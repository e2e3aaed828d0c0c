//! The history as tables, for people.

use std::time::Duration;

use farm::estimate::Estimate;
use farm::history::{Attempt, Kind, MachineState, SystemSummary, UNKNOWN_MACHINE};
use formats::printable::printable;
use indicatif::HumanBytes;

use crate::table;

/// A row for each attempt. As wide as the terminal, if standard output is one.
pub fn attempts(attempts: &[Attempt], now: u64) -> String {
    let headings = [
        "ended",
        "what",
        "system",
        "machine",
        "waited",
        "sent",
        "built",
        "retrieved",
        "result",
    ];
    let rows = attempts.iter().map(|attempt| {
        let times = &attempt.times;
        let transferred = |time, bytes| match bytes {
            0 => span(time),
            bytes => format!("{}, {}", span(time), HumanBytes(bytes)),
        };
        let mut result = attempt.result.name().to_owned();
        if attempt.kind != Kind::Build {
            result = format!("{}: {result}", attempt.kind.name());
        }
        if !attempt.reason.is_empty() {
            result = format!("{result}: {}", attempt.reason);
        }
        [
            ago(attempt.time, now),
            format!("{} {}", attempt.item.name, attempt.item.version),
            attempt.system.clone(),
            machine(&attempt.machine),
            span(times.waited),
            transferred(times.sent, attempt.bytes_sent),
            span(times.built),
            transferred(times.retrieved, attempt.bytes_retrieved),
            result,
        ]
    });
    table(headings, rows)
}

/// A row for each state.
pub fn states(states: &[MachineState], now: u64) -> String {
    let headings = ["when", "machine", "slots", "load", "free", "state"];
    let rows = states.iter().map(|one| {
        let mut state = one.state.name().to_owned();
        if !one.reason.is_empty() {
            state = format!("{state}: {}", one.reason);
        }
        let is_known = one.cores > 0;
        let if_known = |text: String| if is_known { text } else { "-".to_owned() };
        [
            ago(one.time, now),
            one.machine.clone(),
            one.slots.to_string(),
            if_known(format!("{:.2}", one.load / f64::from(one.cores.max(1)))),
            if_known(HumanBytes(one.free_bytes).to_string()),
            state,
        ]
    });
    table(headings, rows)
}

/// What is known of one thing: a line and a table for each system, and its last builds.
pub fn of_item(summary: &[SystemSummary], last: &[Attempt], now: u64) -> String {
    let name = last.first().map_or("", |attempt| &attempt.item.name);
    let mut text = String::new();
    for system in summary {
        let Estimate {
            usual,
            long,
            samples,
            ..
        } = system.estimate;
        let takes = match samples {
            0 => "has never been built".to_owned(),
            _ => format!(
                "takes {}; nine of ten take no more than {} (the last {samples}, on a machine of speed 1)",
                span(usual),
                span(long)
            ),
        };
        let line = format!("{name} for {} {takes}", system.system);
        text += &format!("{}\n", printable(&line));
        let headings = ["machine", "takes", "built", "failed", "otherwise", "last"];
        let rows = system.machines.iter().map(|one| {
            [
                machine(&one.machine),
                one.usual.map_or_else(|| "-".to_owned(), span),
                one.done.to_string(),
                one.failed.to_string(),
                one.other.to_string(),
                ago(one.last, now),
            ]
        });
        text += &table(headings, rows);
        text += "\n";
    }
    text + &attempts(last, now)
}

/// A table that is as wide as the terminal, if standard output is one.
fn table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> String {
    let width = system::terminal::width(&std::io::stdout());
    table::table(headings, rows, width)
}

fn machine(name: &str) -> String {
    match name {
        UNKNOWN_MACHINE => "?".to_owned(),
        name => name.to_owned(),
    }
}

/// How long ago it was. A clock that was set back makes that unknown.
fn ago(time: u64, now: u64) -> String {
    match now.checked_sub(time) {
        None => "in the future".to_owned(),
        Some(seconds) => format!("{} ago", span(Duration::from_secs(seconds))),
    }
}

/// A duration in two units at most.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0 if duration.is_zero() => "-".to_owned(),
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86400 => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units_at_most() {
        for (milliseconds, text) in [
            (0, "-"),
            (5, "5 ms"),
            (1250, "1.2 s"),
            (59_900, "59 s"),
            (61_000, "1 min 1 s"),
            (3_660_000, "1 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(ago(10, 12), "2.0 s ago");
        assert_eq!(ago(12, 10), "in the future");
        assert_eq!(ago(u64::MAX, 0), "in the future");
    }
}
