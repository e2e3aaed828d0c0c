//! The status of all machines on one screen, however many there are: those first that need attention, one
//! line each, and the idle ones together.

use std::collections::BTreeMap;

use formats::printable::printable;
use system::clock::unix_time;
use system::terminal::cut;

use super::machine_status::MachineStatus;
use super::words::{duration, state};

/// The widest column of names.
const NAME: usize = 28;
/// How many builds of a machine are named.
const BUILDS_SHOWN: usize = 4;
/// How many machines of which the same is to be said have lines of their own where not all fit, and how many
/// of more are named.
const ALIKE: usize = 3;
const NAMES_SHOWN: usize = 3;
/// How many rows there must be for headings.
const ROOM_FOR_HEADINGS: usize = 8;
/// How many columns there must be for load and free space.
const ROOM_FOR_MEASURES: usize = 70;

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

/// Machines that share a line.
struct Entry<'a> {
    group: Group,
    machines: Vec<&'a MachineStatus>,
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
    let count = machines.len();
    let what = format!("{count} machines, {taken} of {slots} slots taken");
    let mut lines = vec![counts(grouped.iter().map(|(group, _)| *group), &what)];
    lines.extend(notices.iter().take(rows / 4).cloned());
    let widths = Widths::of(machines, columns);
    if rows >= ROOM_FOR_HEADINGS && !machines.is_empty() {
        lines.push(widths.line(["machine", "slots", "load", "free", ""]));
    }
    let room = rows.saturating_sub(lines.len());
    let single = |(group, one): (Group, _)| Entry {
        group,
        machines: vec![one],
    };
    if grouped.len() <= room {
        lines.extend(grouped.into_iter().map(|one| line(&single(one), &widths)));
    } else {
        let first_idle = grouped.partition_point(|(group, _)| *group < Group::Idle);
        let idle = grouped.split_off(first_idle);
        let idle_line = (!idle.is_empty()).then(|| idle_in_words(&idle));
        let room = room.saturating_sub(usize::from(idle_line.is_some()));
        let entries = alike_together(grouped);
        let first = entries.partition_point(|entry| entry.group < Group::Building);
        let (attention, others) = entries.split_at(first);
        // However many fail, what builds is seen as well.
        let room_above = attention
            .len()
            .min((room / 2).max(room.saturating_sub(others.len())));
        lines.extend(shown(attention, room_above, &widths));
        lines.extend(shown(others, room - room_above, &widths));
        lines.extend(idle_line);
    }
    lines.truncate(rows);
    let fitted = lines.iter().map(|line| cut(&printable(line), columns));
    fitted.collect()
}

/// Machines without builds of which the same is to be said are one entry, if they are more than a few.
fn alike_together<'a>(grouped: Vec<(Group, &'a MachineStatus)>) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    let mut alike: BTreeMap<(Group, String), Vec<&'a MachineStatus>> = BTreeMap::new();
    for &(group, one) in &grouped {
        if one.building.is_empty() {
            alike.entry((group, words(one))).or_default().push(one);
        }
    }
    alike.retain(|_, machines| machines.len() > ALIKE);
    for (group, one) in grouped {
        let is_single = one.building.is_empty();
        match is_single
            .then(|| alike.get_mut(&(group, words(one))))
            .flatten()
        {
            None => entries.push(Entry {
                group,
                machines: vec![one],
            }),
            // The first of them stands for all.
            Some(machines) if machines.is_empty() => {}
            Some(machines) => entries.push(Entry {
                group,
                machines: std::mem::take(machines),
            }),
        }
    }
    entries
}

/// The lines of entries, and one for the rest if not all fit.
fn shown(entries: &[Entry<'_>], room: usize, widths: &Widths) -> Vec<String> {
    if room == 0 {
        return Vec::new();
    }
    let fits = match entries.len() <= room {
        true => entries.len(),
        false => room - 1,
    };
    let (first, rest) = entries.split_at(fits);
    let mut lines: Vec<String> = first.iter().map(|entry| line(entry, widths)).collect();
    if !rest.is_empty() {
        let groups = rest
            .iter()
            .flat_map(|entry| entry.machines.iter().map(|_| entry.group));
        let count = groups.clone().count();
        lines.push(counts(groups, &format!("and {count} more")));
    }
    lines
}

/// `WHAT: 3 failing, 12 building`.
fn counts(groups: impl Iterator<Item = Group>, what: &str) -> String {
    let mut counts = BTreeMap::new();
    for group in groups {
        *counts.entry(group).or_insert(0_usize) += 1;
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

/// How wide the columns are. Where there is little room, load and free space are left out.
struct Widths {
    name: usize,
    has_measures: bool,
}

impl Widths {
    fn of(machines: &[MachineStatus], columns: usize) -> Widths {
        let longest = machines.iter().map(|one| name(one).chars().count()).max();
        // As wide as `1000 machines' at least.
        let longest = longest.unwrap_or(0).clamp(13, NAME);
        Widths {
            name: longest.min(columns / 2),
            has_measures: columns >= ROOM_FOR_MEASURES,
        }
    }

    fn line(&self, [name, slots, load, free, text]: [&str; 5]) -> String {
        let name = format!("{:<1$}", cut(name, self.name), self.name);
        match self.has_measures {
            true => format!("{name}  {slots:>7}  {load:>5}  {free:>8}  {text}"),
            false => format!("{name}  {slots:>7}  {text}"),
        }
    }
}

/// What is said of a machine beside its name.
fn words(one: &MachineStatus) -> String {
    match (Group::of(one), &one.unsuitable) {
        (Group::Building, None) => String::new(),
        _ => state(one).replace(&format!("failed to connect to '{}': ", one.name), ""),
    }
}

/// The line of one machine, or of several together.
fn line(entry: &Entry<'_>, widths: &Widths) -> String {
    let used: usize = entry.machines.iter().map(|one| one.slots_used).sum();
    let all: u64 = entry.machines.iter().map(|one| u64::from(one.slots)).sum();
    let slots = format!("{used}/{all}");
    let one = match entry.machines.as_slice() {
        [one] => *one,
        several => {
            let said = several.first().map(|one| words(one)).unwrap_or_default();
            let names: Vec<String> = several
                .iter()
                .take(NAMES_SHOWN)
                .map(|one| name(one))
                .collect();
            let text = format!("{said} ({}, …)", names.join(", "));
            let count = format!("{} machines", several.len());
            return widths.line([&count, &slots, "-", "-", &text]);
        }
    };
    let dash = || "-".to_owned();
    let load = one
        .normalized_load
        .map_or_else(dash, |load| format!("{load:.2}"));
    let free = one
        .free_bytes
        .map_or_else(dash, |free| format!("{} GiB", free >> 30));
    let mut text = words(one);
    let builds = builds(one);
    if !builds.is_empty() {
        if !text.is_empty() {
            text += "; ";
        }
        text += &builds;
    }
    widths.line([&name(one), &slots, &load, &free, &text])
}

/// `gcc-14.3.0 5 min, hello-2.12 12 s`.
fn builds(one: &MachineStatus) -> String {
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
    builds.join(", ")
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
