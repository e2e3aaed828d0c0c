//! The status as a table, for terminals.

use std::fmt::Write;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};

use formats::printable::printable_lines;
use system::clock::unix_time;

use super::machine_status::MachineStatus;
use crate::slots::Occupant;

/// A row for each machine, under headings.
pub fn table(machines: &[MachineStatus]) -> String {
    let mut table = Table::new();
    table
        .load_preset(UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = system::terminal::width(&std::io::stdout()) {
        table.set_width(width);
    }
    table.set_header([
        "machine",
        "systems",
        "slots",
        "load",
        "free",
        "round trip",
        "built/failed",
        "faults",
        "state",
    ]);
    for one in machines {
        let dash = || "-".to_owned();
        let mut state = match (&one.error, one.set_aside_s) {
            (Some(error), _) => error.clone(),
            (None, 0) => match &one.unsuitable {
                Some(reason) => format!("gets nothing: {reason}"),
                None => "ready".to_owned(),
            },
            (None, seconds) => format!(
                "set aside for {seconds} s: {}",
                one.last_error.as_deref().unwrap_or("")
            ),
        };
        for occupant in &one.building {
            let _ = match occupant {
                Some(Occupant {
                    derivation, since, ..
                }) => {
                    let item = derivation.rsplit('/').next().unwrap_or(derivation);
                    write!(state, "\n{} s: {item}", unix_time().saturating_sub(*since))
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
        // Errors quote what a machine has said.
        table.add_row(row.map(|cell| printable_lines(&cell).into_owned()));
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::json::json;
    use crate::status::prometheus::prometheus;

    #[test]
    fn what_a_machine_says_controls_no_terminal() {
        let machine = MachineStatus {
            name: "a\"b\\\n".to_owned(),
            port: 22,
            systems: vec!["x\x1b[2J".to_owned()],
            features: Vec::new(),
            slots: 1,
            slots_used: 0,
            up: false,
            reachable: false,
            unsuitable: None,
            error: Some("it said \x1b]0;title\x07\r".to_owned()),
            kernel: Some("\x1b[2J\u{9b}2J".to_owned()),
            architecture: None,
            host_name: Some("\x1b[2J".to_owned()),
            normalized_load: None,
            overload_threshold: None,
            free_bytes: None,
            round_trip_ms: None,
            clock_offset_s: None,
            builds: 0,
            failed_builds: 0,
            failures: 0,
            last_error: None,
            set_aside_s: 0,
            building: Vec::new(),
        };
        let machines = [machine];
        for text in [table(&machines), prometheus(&machines), json(&machines)] {
            let controls = |c: char| c.is_control() && c != '\n';
            assert!(!text.contains(controls), "{text:?}");
        }
        let label = "machine=\"a\\\"b\\\\\\n:22\"";
        assert!(prometheus(&machines).contains(label));
    }
}
