//! `guix-client history`: what was built where, how long it took, and how it ended
//! (`doc/spec/history.md`).

mod json;
mod table;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use farm::ItemName;
use farm::history::{Attempt, AttemptResult, Filter, Reader, literal};
use store::Directories;
use system::clock::unix_time;

use crate::daemon;
use crate::options::positive;
use crate::{output, whom};

/// How long to wait for those who write.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many rows are shown, unless somebody asks for more.
const ROWS: u32 = 30;
/// How many of the last builds of one thing are shown.
const LAST: u32 = 10;

/// Options of `history`.
#[derive(Args)]
pub struct Arguments {
    /// A package, without or with its version, or a derivation: how long it takes, where, and how often
    /// it fails
    item: Option<String>,
    /// Only what has this name, without version; `*` and `?` match as in a shell
    #[arg(long, value_name = "PATTERN", conflicts_with = "item")]
    name: Option<String>,
    /// Only on this machine; `local` is this one
    #[arg(long, value_name = "MACHINE")]
    machine: Option<String>,
    /// Only for this system
    #[arg(long, value_name = "SYSTEM")]
    system: Option<String>,
    /// Only what ended so
    #[arg(long, value_name = "RESULT", value_parser = result)]
    result: Option<AttemptResult>,
    /// Only what ended within this time: `12h`, `7d` or `2w`
    #[arg(long, value_name = "TIME", value_parser = age)]
    since: Option<u64>,
    /// At most N rows, the newest ones
    #[arg(long, value_name = "N", value_parser = positive)]
    limit: Option<u32>,
    /// Show how machines were, instead of builds
    #[arg(long, conflicts_with_all = ["item", "name", "system", "result"])]
    states: bool,
    /// How to print it
    #[arg(
        short,
        long,
        value_name = "FORMAT",
        value_enum,
        default_value = "table"
    )]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people
    Table,
    /// JSON
    Json,
}

fn result(text: &str) -> Result<AttemptResult, String> {
    AttemptResult::of_name(text).ok_or_else(|| {
        let names = AttemptResult::ALL.map(AttemptResult::name);
        format!("expected one of {}", names.join(", "))
    })
}

/// Parses a number of hours, days or weeks; returns seconds.
fn age(text: &str) -> Result<u64, String> {
    let hour = 3600;
    let unit = match text.chars().next_back() {
        Some('h') => hour,
        Some('d') => 24 * hour,
        Some('w') => 7 * 24 * hour,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1));
    let number = number.and_then(|number| number.parse::<u32>().ok());
    match number {
        Some(number) if unit > 0 => Ok(u64::from(number) * unit),
        _ => Err("expected a number of hours, days or weeks: `12h', `7d' or `2w'".to_owned()),
    }
}

/// Prints it.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let directories = daemon::directories()?;
    whom::become_owner(&directories.state)?;
    let directory = directories.offload();
    let reader = Reader::open(&directory, PATIENCE).context("cannot read the history")?;
    if reader.is_none() {
        let text = format!("there is no history in {} yet", directory.display());
        output::info("history", &text);
    }
    let mut history = History {
        directories,
        reader,
        format: arguments.format,
        filter: Filter {
            name: arguments.name,
            version: None,
            machine: arguments.machine,
            system: arguments.system,
            result: arguments.result,
            since: arguments.since.map(|age| unix_time().saturating_sub(age)),
            limit: arguments.limit,
        },
    };
    let text = match arguments.item {
        Some(item) => history.of_item(&item)?,
        None if arguments.states => history.states()?,
        None => history.attempts()?,
    };
    let mut out = output::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What is asked for, and of whom.
struct History {
    directories: Directories,
    reader: Option<Reader>,
    format: Format,
    filter: Filter,
}

impl History {
    /// The attempts that fulfil a filter, the newest first.
    fn select(&self, filter: &Filter) -> Result<Vec<Attempt>> {
        let attempts = self.reader.as_ref().map(|reader| reader.attempts(filter));
        Ok(attempts
            .transpose()
            .context("cannot read the history")?
            .unwrap_or_default())
    }

    fn attempts(&mut self) -> Result<String> {
        self.filter.limit.get_or_insert(ROWS);
        let attempts = self.select(&self.filter)?;
        Ok(match self.format {
            Format::Json => json::attempts(&attempts, &self.directories.store),
            Format::Table => table::attempts(&attempts, unix_time()),
        })
    }

    fn states(&mut self) -> Result<String> {
        self.filter.limit.get_or_insert(ROWS);
        let states = self
            .reader
            .as_ref()
            .map(|reader| reader.states(&self.filter));
        let states = states
            .transpose()
            .context("cannot read the history")?
            .unwrap_or_default();
        Ok(match self.format {
            Format::Json => json::states(&states),
            Format::Table => table::states(&states, unix_time()),
        })
    }

    /// What is known of one thing: of that version, or of all if there is nothing of that one.
    fn of_item(&mut self, item: &str) -> Result<String> {
        let last = self.filter.limit.take().unwrap_or(LAST);
        let exact = |name: &str, version: Option<String>| Filter {
            name: Some(literal(name)),
            version,
            ..self.filter.clone()
        };
        let ItemName { name, version } = ItemName::of(item);
        let mut attempts = Vec::new();
        for filter in [
            exact(item, None),
            exact(&name, Some(version)),
            exact(&name, None),
        ] {
            if attempts.is_empty() {
                attempts = self.select(&filter)?;
            }
        }
        if attempts.is_empty() {
            bail!("nothing is known of '{item}'");
        }
        let last = &attempts[..attempts.len().min(last as usize)];
        let summary = farm::history::summary(&attempts);
        Ok(match self.format {
            Format::Json => json::of_item(&summary, last, &self.directories.store),
            Format::Table => table::of_item(&summary, last, unix_time()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_hours_days_and_weeks() {
        assert_eq!(age("12h"), Ok(12 * 3600));
        assert_eq!(age("7d"), Ok(7 * 86400));
        assert_eq!(age("2w"), Ok(14 * 86400));
        for bad in ["", "7", "d", "-1d", "1.5d", "7m", "7 d", "é"] {
            assert!(age(bad).is_err(), "{bad}");
        }
    }
}
