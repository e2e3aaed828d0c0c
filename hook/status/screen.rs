//! The status of all machines on one screen, however many there are: those first that need attention, one
//! line each, and the idle ones together.

use std::collections::BTreeMap;

use formats::printable::printable;
use system::clock::unix_time;

use super::machine_status::MachineStatus;
use super::words::{duration, state};

/// The widest column of names.
const NAME: usize = 28;
/// How many builds of a machine are named.
const BUILDS_SHOWN: usize = 4;

/// What a machine is, as far as that decides where it is shown. Those that need attention come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// It doesn't answer, or is set aside.
    Failing,
    /// It is drained, and still has builds.
    Draining,
    /// It gets nothing now although it works, and has no builds.
    Unsuitable,
    /// It has builds.
    Building,
    /// It is drained, and has no builds.
    Drained,
    /// It could have builds.
    Idle,
}

impl Group {
    fn of(one: &MachineStatus) -> Group {
        let is_building = one.slots_used > 0;
        if one.drained.is_some() {
            return match is_building {
                true => Group::Draining,
                false => Group::Drained,
            };
        }
        if one.error.is_some() || one.set_aside_s > 0 {
            Group::Failing
        } else if is_building {
            Group::Building
        } else if one.unsuitable.is_some() || one.slots == 0 {
            Group::Unsuitable
        } else {
            Group::Idle
        }
    }

    fn word(self) -> &'static str {
        match self {
            Group::Failing => "failing",
            Group::Draining => "draining",
            Group::Unsuitable => "full or overloaded",
            Group::Building => "building",
            Group::Drained => "drained",
            Group::Idle => "idle",
        }
    }
}

/// The lines of the screen: no more than fit, none wider than it. `notices` are shown above everything.
pub fn lines(
    machines: &[MachineStatus],
    notices: &[String],
    columns: usize,
    rows: usize,
) -> Vec<String> {
    let mut grouped: Vec<(Group, &MachineStatus)> =
        machines.iter().map(|one| (Group::of(one), one)).collect();
    // Within a group, what has lasted longest; otherwise the order of the machine files stays.
    grouped.sort_by_key(|(group, one)| (*group, since(one)));
    let taken: usize = machines.iter().map(|one| one.slots_used).sum();
    let slots: u64 = machines.iter().map(|one| u64::from(one.slots)).sum();
    let mut lines = vec![format!(
        "{}; {taken} of {slots} slots taken",
        counts(&grouped, &format!("{} machines", machines.len()))
    )];
    lines.extend(notices.iter().take(rows / 4).cloned());
    let room = rows.saturating_sub(lines.len());
    let name_width = machines.iter().map(|one| name(one).chars().count()).max();
    let name_width = name_width.unwrap_or(0).min(NAME).min(columns / 2);
    let shown = |machines: &[(Group, &MachineStatus)]| -> Vec<String> {
        machines
            .iter()
            .map(|(_, one)| line(one, name_width))
            .collect()
    };
    if grouped.len() <= room {
        lines.extend(shown(&grouped));
    } else {
        let first_idle = grouped.partition_point(|(group, _)| *group < Group::Idle);
        let (busy, idle) = grouped.split_at(first_idle);
        let idle_line = (!idle.is_empty()).then(|| idle_in_words(idle));
        // One line for the rest, if not all fit.
        let room = room.saturating_sub(usize::from(idle_line.is_some()));
        match busy.len() <= room {
            true => lines.extend(shown(busy)),
            false => {
                let (first, rest) = busy.split_at(room.saturating_sub(1));
                lines.extend(shown(first));
                lines.push(counts(rest, &format!("and {} more", rest.len())));
            }
        }
        lines.extend(idle_line);
    }
    lines.truncate(rows);
    let fitted = lines.iter().map(|line| fitted(&printable(line), columns));
    fitted.collect()
}

/// `WHAT: 3 failing, 12 building`.
fn counts(grouped: &[(Group, &MachineStatus)], what: &str) -> String {
    let mut counts = BTreeMap::new();
    for (group, _) in grouped {
        *counts.entry(*group).or_insert(0_usize) += 1;
    }
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(group, count)| format!("{count} {}", group.word()))
        .collect();
    match counts.is_empty() {
        true => what.to_owned(),
        false => format!("{what}: {}", counts.join(", ")),
    }
}

/// `983 idle: 900 x86_64-linux, 83 aarch64-linux`.
fn idle_in_words(idle: &[(Group, &MachineStatus)]) -> String {
    let mut systems = BTreeMap::new();
    for (_, one) in idle {
        let first = one.systems.first().map_or("", String::as_str);
        *systems.entry(first).or_insert(0_usize) += 1;
    }
    let mut systems: Vec<(&str, usize)> = systems.into_iter().collect();
    systems.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let systems: Vec<String> = systems
        .into_iter()
        .map(|(system, count)| format!("{count} {system}"))
        .collect();
    format!("{} idle: {}", idle.len(), systems.join(", "))
}

/// When the oldest build of a machine began.
fn since(one: &MachineStatus) -> u64 {
    let times = one.building.iter().flatten().map(|build| build.since);
    times.min().unwrap_or(u64::MAX)
}

fn name(one: &MachineStatus) -> String {
    match one.port {
        22 => one.name.clone(),
        port => format!("{}:{port}", one.name),
    }
}

/// A machine's line.
fn line(one: &MachineStatus, name_width: usize) -> String {
    let dash = || "-".to_owned();
    let name = fitted(&name(one), name_width);
    let slots = format!("{}/{}", one.slots_used, one.slots);
    let load = one
        .normalized_load
        .map_or_else(dash, |load| format!("{load:.2}"));
    let free = one
        .free_bytes
        .map_or_else(dash, |free| format!("{} GiB", free >> 30));
    let mut text = match (Group::of(one), &one.unsuitable) {
        (Group::Building, None) => String::new(),
        // Its name is beside it.
        _ => state(one).replace(&format!("failed to connect to '{}': ", one.name), ""),
    };
    let mut builds: Vec<String> = one
        .building
        .iter()
        .take(BUILDS_SHOWN)
        .map(|build| match build {
            Some(build) => {
                let time = duration(unix_time().saturating_sub(build.since));
                let name = build.name();
                format!("{} {time}", name.strip_suffix(".drv").unwrap_or(name))
            }
            None => "some other hook's build".to_owned(),
        })
        .collect();
    if let Some(others @ 1..) = one.building.len().checked_sub(BUILDS_SHOWN) {
        builds.push(format!("{others} more"));
    }
    if !builds.is_empty() {
        if !text.is_empty() {
            text += "; ";
        }
        text += &builds.join(", ");
    }
    format!("{name:<name_width$}  {slots:>5}  {load:>5}  {free:>8}  {text}")
}

/// A text that is no wider than so many columns.
fn fitted(text: &str, columns: usize) -> String {
    match text.char_indices().nth(columns) {
        None => text.to_owned(),
        Some(_) => {
            let kept = text.chars().take(columns.saturating_sub(1));
            kept.chain(['…']).take(columns).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drained::Drained;
    use crate::health::Health;
    use crate::slots::Occupant;
    use crate::test_data;

    fn machine(number: usize) -> MachineStatus {
        let machine = test_data::machine(&format!("build-{number:04}"));
        MachineStatus::unasked(&machine, Health::default(), Vec::new())
    }

    fn building(number: usize, names: &[&str], seconds: u64) -> MachineStatus {
        let occupant = |name: &&str| {
            Some(Occupant {
                pid: 1,
                derivation: format!("/gnu/store/{}-{name}.drv", "a".repeat(32)),
                since: unix_time() - seconds,
            })
        };
        MachineStatus {
            slots: 8,
            slots_used: names.len(),
            building: names.iter().map(occupant).collect(),
            ..machine(number)
        }
    }

    /// A thousand machines, of which few are not idle.
    fn thousand() -> Vec<MachineStatus> {
        let mut all: Vec<MachineStatus> = (0..1000).map(machine).collect();
        all[990].error = Some(format!(
            "failed to connect to 'build-0990': {}",
            "no route to host ".repeat(20)
        ));
        all[500] = building(500, &["gcc-14.3.0", "texlive-20250308"], 300);
        all[501] = building(501, &["rust-1.88.0"], 8000);
        all[30].drained = Some(Drained::default());
        all[40] = MachineStatus {
            drained: Some(Drained {
                since: unix_time() - 600,
                reason: Some("new disk".to_owned()),
            }),
            ..building(40, &["llvm-20.1.8"], 100)
        };
        all[50].unsuitable = Some("it is low on disk space (95 MiB free)".to_owned());
        all[60].systems = vec!["aarch64-linux".to_owned()];
        all
    }

    #[test]
    fn what_needs_attention_comes_first_and_the_idle_ones_are_one_line() {
        let lines = lines(&thousand(), &[], 80, 24);
        let expected =
            "1000 machines: 1 failing, 1 draining, 1 full or overloaded, 2 building, 1 dr…";
        assert_eq!(lines[0].chars().count(), 80);
        assert!(
            lines[0].starts_with(expected.trim_end_matches('…')),
            "{lines:#?}"
        );
        for (index, words) in [
            (
                1,
                "build-0990    0/1      -         -  no route to host no route",
            ),
            (
                2,
                "build-0040    1/8      -         -  drained for 10 min: new disk; llvm-20",
            ),
            (
                3,
                "build-0050    0/1      -         -  gets nothing: it is low on disk space",
            ),
            // What has lasted longest, first.
            (4, "build-0501    1/8      -         -  rust-1.88.0 2 h"),
            (
                5,
                "build-0500    2/8      -         -  gcc-14.3.0 5 min, texlive-20250308 5 min",
            ),
            (6, "build-0030    0/1      -         -  drained"),
            (7, "994 idle: 993 x86_64-linux, 1 aarch64-linux"),
        ] {
            assert!(lines[index].starts_with(words), "{index} {lines:#?}");
        }
        assert_eq!(lines.len(), 8);
    }

    #[test]
    fn any_screen_is_filled_and_none_overflows() {
        let mut all = thousand();
        for (index, one) in all.iter_mut().enumerate().skip(100).take(200) {
            *one = building(index, &["x"], index as u64);
        }
        for machines in [&all[..], &all[..5], &[]] {
            for (columns, rows) in [
                (80, 24),
                (200, 60),
                (20, 5),
                (1, 1),
                (3, 2),
                (0, 0),
                (500, 2000),
            ] {
                let notices = vec!["a notice".repeat(20); 9];
                let lines = lines(machines, &notices, columns, rows);
                assert!(lines.len() <= rows, "{columns}x{rows}: {lines:#?}");
                let widest = lines.iter().map(|line| line.chars().count()).max();
                assert!(
                    widest.unwrap_or(0) <= columns,
                    "{columns}x{rows}: {lines:#?}"
                );
            }
        }
        let lines = lines(&all, &[], 80, 24);
        assert_eq!(lines.len(), 24);
        assert!(lines[22].starts_with("and 18"), "{lines:#?}");
        assert!(lines[23].contains(" idle: "), "{lines:#?}");
    }

    #[test]
    fn what_a_machine_says_controls_no_terminal() {
        let mut one = machine(1);
        one.error = Some("\x1b[2J\n\u{9b}2J\r".to_owned());
        one.name = "a\x1b[2J".to_owned();
        let lines = lines(&[one], &["\x1b]0;x\x07".to_owned()], 80, 24);
        let controls = lines.iter().any(|line| line.contains(char::is_control));
        assert!(!controls, "{lines:?}");
    }
}
