//! The rows below the log: what runs, where and for how long, and how much is done. As many as fit into half
//! the terminal.

use std::time::Instant;

use farm::status::Running;
use formats::printable::printable;
use indicatif::HumanBytes;
use system::terminal::cut;

use super::activity::{Activity, Task};
use super::styled::{DIM, GREEN, Line, PLAIN, RED, YELLOW};
use super::told::Told;
use super::words::{clock, left, reason};
use crate::status::{self, name};

/// The widest columns of names and of machines.
const NAME: usize = 40;
const PLACE: usize = 24;
/// The widest bar, and the narrowest that shows something.
const BAR: usize = 30;
const SHORT_BAR: usize = 8;
/// How many columns there must be for usual times.
const ROOM_FOR_USUAL: usize = 36;
/// How many rows there must be for those that aren't about what runs.
const ROOM_FOR_MORE: usize = 6;
/// How many failures are named.
const FAILURES_SHOWN: usize = 5;

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// How many columns it has.
    pub columns: usize,
    /// How many rows it has.
    pub rows: usize,
}

/// How many rows there may be: half the terminal.
pub fn most(size: Size) -> usize {
    (size.rows / 2).max(1)
}

/// The rows at this time; `open` is the beginning of a line of the log that has not ended.
pub fn rows(
    activity: &Activity,
    told: Option<&Told>,
    open: &str,
    now: Instant,
    size: Size,
) -> Vec<Line> {
    let height = most(size);
    let columns = size.columns.saturating_sub(1);
    let mut more = Vec::new();
    if height >= ROOM_FOR_MORE {
        more.extend(failures(activity));
        more.extend(waits(told));
        more.extend(fetches(activity, now));
        more.extend(path(told));
        // Those that matter most are first here, and last on the screen.
        more.truncate(height / 3);
        more.reverse();
    }
    more.push(summary(activity, told, now, columns));
    let mut all = Vec::new();
    let mut room = height - more.len();
    if !open.is_empty() && room > 0 {
        all.push(Line::of(PLAIN, open));
        room -= 1;
    }
    all.extend(running(activity, told, now, columns, room));
    all.extend(more);
    all.into_iter().map(|line| line.fitted(columns)).collect()
}

/// What is shown of something that runs.
struct Row {
    name: String,
    place: String,
    time: String,
    rest: String,
    is_late: bool,
}

impl Row {
    fn of(task: &Task, told: Option<&Running>, now: Instant, columns: usize) -> Row {
        let elapsed = now.saturating_duration_since(task.begun).as_secs();
        // The build may be another client's, and older.
        let elapsed = told.map_or(elapsed, |told| elapsed.max(told.elapsed_s));
        let told_place = told.map_or("", |told| told.place.as_str());
        let place = match (&task.machine, told_place.strip_prefix("machine ")) {
            (Some(machine), _) => printable(machine).into_owned(),
            (None, _) if task.is_fetch => "fetch".to_owned(),
            (None, Some(machine)) => printable(machine).into_owned(),
            (None, None) if told_place == "hook" => "sending".to_owned(),
            (None, None) => "here".to_owned(),
        };
        let time = match told.and_then(|told| told.usual_s) {
            Some(usual) if columns >= ROOM_FOR_USUAL => {
                format!("{} of ~{}", clock(elapsed), clock(usual))
            }
            _ => clock(elapsed),
        };
        let rest = match task.download {
            Some(download) => {
                let arrived = HumanBytes(download.arrived);
                match download.size {
                    Some(size) => format!("{arrived} of {}", HumanBytes(size)),
                    None => arrived.to_string(),
                }
            }
            None => String::new(),
        };
        let long = told.and_then(|told| told.long_s);
        Row {
            name: name(&task.path),
            place,
            time,
            rest,
            is_late: long.is_some_and(|long| elapsed > long),
        }
    }
}

/// What runs, in so many rows at most, the oldest first.
fn running(
    activity: &Activity,
    told: Option<&Told>,
    now: Instant,
    columns: usize,
    room: usize,
) -> Vec<Line> {
    let all = &activity.running;
    if all.is_empty() || room == 0 {
        return Vec::new();
    }
    let shown = match all.len() <= room {
        true => all.len(),
        false => room - 1,
    };
    let rows = all[..shown].iter().map(|task| {
        let told = told.and_then(|told| told.running.get(&task.path));
        Row::of(task, told, now, columns)
    });
    let rows: Vec<Row> = rows.collect();
    let widest = |text: fn(&Row) -> &str| {
        let widths = rows.iter().map(|row| text(row).chars().count());
        widths.max().unwrap_or(0)
    };
    let time = widest(|row| &row.time);
    let place = widest(|row| &row.place).min(PLACE).min(columns / 4);
    let rest = widest(|row| &row.rest);
    let beside = place + time + 4 + if rest > 0 { rest + 2 } else { 0 };
    let room_for_names = columns.saturating_sub(beside).max(columns / 3);
    let width = widest(|row| &row.name).min(NAME).min(room_for_names);
    let mut lines: Vec<Line> = rows
        .iter()
        .map(|row| {
            let color = if row.is_late { YELLOW } else { PLAIN };
            let line = Line::of(PLAIN, format!("{:<width$}  ", cut(&row.name, width)))
                .with(DIM, format!("{:<place$}  ", cut(&row.place, place)));
            match row.rest.is_empty() {
                true => line.with(color, &row.time),
                false => line
                    .with(color, format!("{:<time$}", row.time))
                    .with(DIM, format!("  {}", row.rest)),
            }
        })
        .collect();
    if shown < all.len() {
        lines.push(Line::of(DIM, format!("and {} more", all.len() - shown)));
    }
    lines
}

/// `fetching 3 of 10 files, 1.20 GiB of 2.40 GiB, 10 MiB/s`.
fn fetches(activity: &Activity, now: Instant) -> Option<Line> {
    let running = activity.running.iter().filter(|task| task.is_fetch).count();
    let expected = activity.expected.fetches.max(activity.fetched + running);
    if running == 0 || expected < 2 {
        return None;
    }
    let bytes = activity.bytes();
    let all = activity.expected.bytes.max(bytes);
    let seconds = now.saturating_duration_since(activity.begun).as_secs_f64();
    let speed = HumanBytes((bytes as f64 / seconds.max(0.001)) as u64);
    let (done, bytes, all) = (activity.fetched, HumanBytes(bytes), HumanBytes(all));
    let text = format!("{done} of {expected} files fetched, {bytes} of {all}, {speed}/s");
    Some(Line::of(DIM, text))
}

/// What the rest waits for.
fn waits(told: Option<&Told>) -> Option<Line> {
    let request = told?.request.as_ref()?;
    let mut reasons: Vec<(&String, u64)> = request
        .reasons
        .iter()
        .map(|(name, &count)| (name, count))
        .collect();
    reasons.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let reasons: Vec<String> = reasons
        .into_iter()
        .map(|(name, count)| format!("{count} {}", reason(name)))
        .collect();
    let text = format!("waiting: {}", reasons.join(", "));
    (!reasons.is_empty()).then(|| Line::of(DIM, text))
}

/// The longest path of what is left.
fn path(told: Option<&Told>) -> Option<Line> {
    let request = told?.request.as_ref()?;
    let text = format!("longest path: {}", status::path(request));
    (request.critical_path.len() > 1).then(|| Line::of(DIM, text))
}

fn failures(activity: &Activity) -> Option<Line> {
    let shown = activity.failures.iter().take(FAILURES_SHOWN);
    let mut names: Vec<String> = shown.map(|path| name(path)).collect();
    if names.is_empty() {
        return None;
    }
    let more = activity.failed - names.len();
    if more > 0 {
        names.push(format!("{more} more"));
    }
    Some(Line::of(RED, format!("failed: {}", names.join(", "))))
}

/// A bar and how much is done.
fn summary(activity: &Activity, told: Option<&Told>, now: Instant, columns: usize) -> Line {
    let running = activity.running.len();
    let fetching = activity.running.iter().filter(|task| task.is_fetch).count();
    let done = activity.built + activity.fetched;
    let ended = done + activity.failed;
    let request = told.and_then(|told| told.request.as_ref());
    let known = request.map_or(0, |told| {
        let counts = [told.done, told.running, told.waiting, told.failed];
        counts.into_iter().fold(0, u64::saturating_add)
    });
    let expected = activity.expected.builds + activity.expected.fetches;
    let all = expected
        .max(ended + running)
        .max(usize::try_from(known).unwrap_or(0));
    let waiting = all - ended - running;
    let time = clock(now.saturating_duration_since(activity.begun).as_secs());
    let end = request
        .and_then(|request| request.end)
        .map(|end| left(&end));
    let counts = |words: [&str; 4]| {
        let counts = [running - fetching, fetching, waiting, activity.failed];
        let counted = counts.iter().zip(words).filter(|(count, _)| **count > 0);
        let counted: Vec<(usize, String)> = counted
            .map(|(count, word)| (*count, format!(", {count}{word}")))
            .collect();
        counted
            .into_iter()
            .map(|(_, text)| text)
            .collect::<String>()
    };
    let long = counts([" building", " fetching", " waiting", " failed"]);
    let short = counts(["b", "f", "w", " failed"]);
    let with_end = match end {
        Some(end) => format!("{done} of {all} done{long}; {time}, {end}"),
        None => format!("{done} of {all} done{long}; {time}"),
    };
    let texts = [
        with_end,
        format!("{done} of {all} done{long}; {time}"),
        format!("{done}/{all}{short}; {time}"),
        format!("{done}/{all} {time}"),
    ];
    let width = |text: &String| text.chars().count();
    let fits = |text: &&String| width(text) + SHORT_BAR < columns;
    // Numbers are worth more than a bar.
    let chosen = texts[..3].iter().find(fits);
    let chosen = chosen.or_else(|| texts.iter().find(|text| width(text) <= columns));
    let text = chosen.unwrap_or(&texts[3]);
    let bar = columns.saturating_sub(width(text) + 1).min(BAR);
    let color = if activity.failed > 0 { RED } else { GREEN };
    if bar < SHORT_BAR || all == 0 {
        return Line::of(PLAIN, text);
    }
    let full = bar * ended.min(all) / all;
    Line::of(color, "█".repeat(full))
        .with(DIM, "░".repeat(bar - full))
        .with(PLAIN, format!(" {text}"))
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
