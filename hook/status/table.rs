//! The status as a table, for terminals.

use std::fmt::Write;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width};

use formats::printable::printable_lines;
use system::clock::unix_time;

use super::machine_status::MachineStatus;
use super::words::state;

/// The columns, in the order in which they are shown.
const COLUMNS: [&str; 9] = [
    "machine",
    "systems",
    "slots",
    "load",
    "free",
    "round trip",
    "built/failed",
    "faults",
    "state",
];
/// Those that are left out where there is too little room, the first one first.
const LEFT_OUT: [usize; 5] = [5, 7, 6, 4, 1];
/// The blanks around the contents of a cell; with what divides columns, one more.
const PADDING: usize = 2;
const BESIDE: usize = PADDING + 1;
/// The column of sentences, and how wide it is at least, if they are as long.
const STATE: usize = COLUMNS.len() - 1;
const SENTENCE: usize = 24;
/// A word that is longer than this may be divided.
const LONG_WORD: usize = 30;

/// A row for each machine, under headings. As wide as the terminal, if standard output is one; then
/// only columns for which there is room are shown, and words stay whole.
pub fn table(machines: &[MachineStatus]) -> String {
    table_of_width(machines, system::terminal::width(&std::io::stdout()))
}

fn table_of_width(machines: &[MachineStatus], width: Option<u16>) -> String {
    let rows: Vec<_> = machines.iter().map(row).collect();
    let mut shown: Vec<usize> = (0..COLUMNS.len()).collect();
    let mut widths = Vec::new();
    if let Some(width) = width {
        (shown, widths) = columns_for(&rows, width.into());
    }
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width.unwrap_or(u16::MAX));
    table.set_header(shown.iter().map(|&column| COLUMNS[column]));
    for row in &rows {
        table.add_row(shown.iter().map(|&column| row[column].as_str()));
    }
    for (column, width) in table.column_iter_mut().zip(widths) {
        let width = u16::try_from(width + PADDING).unwrap_or(u16::MAX);
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
    }
    format!("{table}\n")
}

/// The columns for which there is room, and the widths of their contents: that of the longest word
/// at least, and as much more as is useful.
fn columns_for(rows: &[Row], width: usize) -> (Vec<usize>, Vec<usize>) {
    let longest = |column: usize, parts: fn(&str) -> Vec<&str>| {
        let cells = rows.iter().map(|row| row[column].as_str());
        let parts = cells.chain([COLUMNS[column]]).flat_map(parts);
        parts.map(|part| part.chars().count()).max().unwrap_or(0)
    };
    let line = |column| longest(column, |cell| cell.lines().collect());
    let word = |column| longest(column, |cell| cell.split_whitespace().collect()).min(LONG_WORD);
    // Of the column of sentences, which is the last one, this many characters are wanted.
    let sentence = word(STATE).max(line(STATE).min(SENTENCE));
    let mut shown: Vec<usize> = (0..STATE).collect();
    let left = |shown: &[usize]| {
        let others: usize = shown.iter().map(|&column| word(column) + BESIDE).sum();
        width.checked_sub(others + sentence + BESIDE)
    };
    for left_out in LEFT_OUT {
        if left(&shown).is_none() {
            shown.retain(|&column| column != left_out);
        }
    }
    let mut left = left(&shown).unwrap_or(0);
    let mut widths = Vec::new();
    for &column in &shown {
        // Less than what avoids another line is of no use.
        let more = line(column) - word(column).min(line(column));
        let more = if more <= left { more } else { 0 };
        left -= more;
        widths.push(word(column) + more);
    }
    let others: usize = widths.iter().map(|width| width + BESIDE).sum();
    let room = width.saturating_sub(others + BESIDE);
    widths.push(line(STATE).min(room).max(word(STATE)));
    shown.push(STATE);
    (shown, widths)
}

/// A machine's cells.
type Row = [String; COLUMNS.len()];

/// The cells of a machine. Errors quote what it has said.
fn row(one: &MachineStatus) -> Row {
    let dash = || "-".to_owned();
    let mut state = state(one);
    if let Some(jobs) = &one.jobs {
        if jobs.running > 0 {
            let _ = write!(
                state,
                "\n{} running: {}",
                jobs.running,
                jobs.nodes.join(", ")
            );
        }
        if jobs.pending > 0 {
            let reason = jobs.reason.as_deref().unwrap_or("");
            let _ = write!(
                state,
                "\n{} pending, for {} s: {reason}",
                jobs.pending, jobs.waited_s
            );
        }
    }
    for occupant in &one.building {
        let _ = match occupant {
            Some(occupant) => {
                let seconds = unix_time().saturating_sub(occupant.since);
                write!(state, "\n{seconds} s: {}", occupant.name())
            }
            None => write!(state, "\nsome other hook's build"),
        };
    }
    let row = [
        format!("{}:{}", one.name, one.port),
        one.systems.join(" "),
        format!("{}/{}", one.slots_used, one.slots),
        one.normalized_load
            .map_or_else(dash, |load| format!("{load:.2}")),
        one.free_bytes
            .map_or_else(dash, |free| format!("{} MiB", free >> 20)),
        one.round_trip_ms
            .map_or_else(dash, |time| format!("{time:.1} ms")),
        format!(
            "{}/{}",
            one.builds.saturating_sub(one.failed_builds),
            one.failed_builds
        ),
        one.failures.to_string(),
        state,
    ];
    row.map(|cell| printable_lines(&cell).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drained::Drained;
    use crate::health::Health;
    use crate::machines::Machine;
    use crate::slots::Occupant;
    use crate::status::json::json;
    use crate::status::machine_status::Jobs;
    use crate::status::prometheus::prometheus;
    use crate::test_data;

    /// A machine about which nothing is known.
    fn machine(name: &str, system: &str) -> MachineStatus {
        let machine = Machine {
            systems: vec![system.to_owned()],
            ..test_data::machine(name)
        };
        MachineStatus {
            up: false,
            reachable: false,
            ..MachineStatus::unasked(&machine, Health::default(), Vec::new())
        }
    }

    #[test]
    fn the_jobs_of_a_pool_are_shown() {
        let jobs = Jobs {
            running: 2,
            pending: 1,
            waited_s: 75,
            reason: Some("Resources".to_owned()),
            nodes: vec!["n1".to_owned(), "n2".to_owned()],
        };
        let machines = [MachineStatus {
            jobs: Some(jobs),
            ..machine("cluster", "x86_64-linux")
        }];
        let text = table_of_width(&machines, None);
        assert!(text.contains("2 running: n1, n2"), "{text}");
        assert!(text.contains("1 pending, for 75 s: Resources"), "{text}");
        let text = prometheus(&machines);
        assert!(text.contains("guix_offload_jobs_pending{machine=\"cluster:22\"} 1\n"));
        assert!(text.contains("guix_offload_jobs_waited_seconds{machine=\"cluster:22\"} 75\n"));
        assert!(json(&machines).contains("\"reason\": \"Resources\""));
    }

    #[test]
    fn a_drained_machine_is_shown_with_the_reason() {
        let drained = Some(Drained {
            since: unix_time() - 600,
            reason: Some("new disk".to_owned()),
        });
        let machines = [
            MachineStatus {
                drained: drained.clone(),
                ..machine("one", "x86_64-linux")
            },
            MachineStatus {
                drained,
                error: Some("failed to connect to 'two'".to_owned()),
                ..machine("two", "x86_64-linux")
            },
        ];
        let text = table_of_width(&machines, None);
        assert!(text.contains("drained for 10 min: new disk "), "{text}");
        let both = "drained for 10 min: new disk: failed to connect to 'two'";
        assert!(text.contains(both), "{text}");
        let text = prometheus(&machines);
        assert!(text.contains("guix_offload_drained{machine=\"one:22\"} 1\n"));
        assert!(json(&machines).contains("\"reason\": \"new disk\""));
    }

    #[test]
    fn words_stay_whole_in_a_narrow_terminal() {
        let busy = MachineStatus {
            normalized_load: Some(0.53),
            free_bytes: Some(12043 << 20),
            round_trip_ms: Some(0.4),
            building: vec![Some(Occupant {
                pid: 1,
                derivation: format!("/gnu/store/{}-example-1.0.drv", "a".repeat(32)),
                since: 0,
            })],
            ..machine("build-one.example.org", "x86_64-linux")
        };
        let away = MachineStatus {
            set_aside_s: 40,
            last_error: Some("failed to connect to 'build-two': no route to host".to_owned()),
            ..machine("build-two.example.org", "aarch64-linux")
        };
        let all = "machine systems slots load free round trip built/failed faults state \
                   build-one.example.org:22 x86_64-linux 0/1 0.53 12043 MiB 0.4 ms 0/0 ready \
                   example-1.0.drv build-two.example.org:22 aarch64-linux set aside for 40 s: \
                   failed to connect to 'build-two': no route host";
        let machines = [busy, away];
        for width in [60, 80, 100, 200] {
            let text = table_of_width(&machines, Some(width));
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(usize::from(width)), "{text}");
            let is_line = |word: &str| word.starts_with(['─', '═', '╌', '┄']);
            for word in text.split_whitespace().filter(|word| !is_line(word)) {
                let is_number = word.parse::<u64>().is_ok();
                let known = all.split(' ').any(|other| other == word);
                assert!(
                    known || is_number || word == "s:" || word == "-",
                    "{word} in\n{text}"
                );
            }
            for word in [
                "machine",
                "slots",
                "load",
                "build-one.example.org:22",
                "example-1.0.drv",
            ] {
                assert!(text.contains(word), "{word} not in\n{text}");
            }
        }
    }

    #[test]
    fn what_a_machine_says_controls_no_terminal() {
        let machines = [MachineStatus {
            error: Some("it said \x1b]0;title\x07\r".to_owned()),
            kernel: Some("\x1b[2J\u{9b}2J".to_owned()),
            host_name: Some("\x1b[2J".to_owned()),
            ..machine("a\"b\\\n", "x\x1b[2J")
        }];
        for text in [table(&machines), prometheus(&machines), json(&machines)] {
            let controls = |c: char| c.is_control() && c != '\n';
            assert!(!text.contains(controls), "{text:?}");
        }
        let label = "machine=\"a\\\"b\\\\\\n:22\"";
        assert!(prometheus(&machines).contains(label));
    }
}
