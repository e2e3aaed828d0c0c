//! Questions to the history.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};
use system::lock::LockFile;

use super::Error;
use super::files::Files;
use super::record::{Attempt, AttemptResult, Kind, MachineState, State, Times};
use crate::ItemName;
use crate::estimate::{Estimates, Sample};

/// The columns of an attempt.
const ATTEMPT: &str = "time, derivation, name, version, system, machine, speed, kind, waited, sent,
    built, retrieved, bytes_sent, bytes_retrieved, result, reason";
/// The columns of a machine's state.
const STATE: &str = "time, machine, state, reason, load, cores, free_bytes, slots";

/// Which rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// What was built, by its name without version; `*`, `?` and `[…]` match as in a shell, unless the name
    /// has gone through [`literal`].
    pub name: Option<String>,
    /// And this version of it.
    pub version: Option<String>,
    /// On this machine: `NAME` or `NAME:PORT`.
    pub machine: Option<String>,
    /// For this system.
    pub system: Option<String>,
    /// With this result.
    pub result: Option<AttemptResult>,
    /// Not before this time, in seconds since the epoch.
    pub since: Option<u64>,
    /// Only so many, the newest ones.
    pub limit: Option<u32>,
}

/// A pattern for [`Filter::name`] that matches this text only.
///
/// ```
/// assert_eq!(farm::history::literal("what?"), "what[?]");
/// ```
pub fn literal(text: &str) -> String {
    let special = |c: char| match c {
        '*' | '?' | '[' => format!("[{c}]"),
        c => c.to_string(),
    };
    text.chars().map(special).collect()
}

/// The history, open for reading. Not to be kept: a database that is damaged can't be replaced meanwhile.
pub struct Reader {
    connection: Connection,
    files: Files,
    _lock: Option<LockFile>,
}

impl Reader {
    /// Opens the history in `<state>/offload`; nothing if there is none yet. Waits no longer than
    /// `patience` for processes that write.
    pub fn open(directory: &Path, patience: Duration) -> Result<Option<Reader>, Error> {
        if !directory.try_exists().map_err(|source| Error::File {
            file: directory.to_owned(),
            source,
        })? {
            return Ok(None);
        }
        let files = Files::existing(directory, patience)?;
        let lock = files.lock_to_read()?;
        let connection = files.open_to_read()?;
        Ok(connection.map(|connection| Reader {
            connection,
            files,
            _lock: lock,
        }))
    }

    /// Attempts, the newest first.
    pub fn attempts(&self, filter: &Filter) -> Result<Vec<Attempt>, Error> {
        let mut conditions = Conditions::default();
        if let Some(name) = &filter.name {
            conditions.add("name glob ?", name.clone());
        }
        if let Some(version) = &filter.version {
            conditions.add("version = ?", version.clone());
        }
        if let Some(system) = &filter.system {
            conditions.add("system = ?", system.clone());
        }
        if let Some(result) = filter.result {
            conditions.add("result = ?", result.name().to_owned());
        }
        conditions.add_common(filter);
        self.select(ATTEMPT, "attempts", conditions, attempt)
    }

    /// States of machines, the newest first. Of the filter, `machine`, `since` and `limit` count.
    pub fn states(&self, filter: &Filter) -> Result<Vec<MachineState>, Error> {
        let mut conditions = Conditions::default();
        conditions.add_common(filter);
        self.select(STATE, "states", conditions, machine_state)
    }

    /// Tells of the attempts behind the row with this number (0: all) that ended at `since` or later, the oldest
    /// row first. Returns the number of the last row; less than `after` if the history has been begun anew.
    pub fn attempts_after(
        &self,
        after: i64,
        since: u64,
        tell: impl FnMut(Attempt),
    ) -> Result<i64, Error> {
        self.rows_after(ATTEMPT, "attempts", (after, since), attempt, tell)
    }

    /// The same for states of machines.
    pub fn states_after(
        &self,
        after: i64,
        since: u64,
        tell: impl FnMut(MachineState),
    ) -> Result<i64, Error> {
        self.rows_after(STATE, "states", (after, since), machine_state, tell)
    }

    fn rows_after<T>(
        &self,
        columns: &str,
        table: &str,
        (after, since): (i64, u64),
        parse: fn(&Row<'_>) -> rusqlite::Result<Option<T>>,
        mut tell: impl FnMut(T),
    ) -> Result<i64, Error> {
        let mut ask = || {
            let newest = format!("select coalesce(max(id), 0) from {table}");
            let last: i64 = self.connection.query_row(&newest, [], |row| row.get(0))?;
            let mut select = self.connection.prepare(&format!(
                "select {columns} from {table} where id > ?1 and id <= ?2 and time >= ?3 order by id"
            ))?;
            let since = i64::try_from(since).unwrap_or(i64::MAX);
            let mut rows = select.query([after, last, since])?;
            while let Some(row) = rows.next()? {
                if let Some(row) = parse(row)? {
                    tell(row);
                }
            }
            Ok(last)
        };
        ask().map_err(|error| self.files.explain(error))
    }

    /// How long all successful builds took.
    pub fn estimates(&self) -> Result<Estimates, Error> {
        let learn = || {
            let mut select = self.connection.prepare(
                "select name, version, system, built, speed from attempts
                     where result = 'done' and kind = 'build' order by id",
            )?;
            let mut estimates = Estimates::default();
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                estimates.add(sample(row)?);
            }
            Ok(estimates)
        };
        learn().map_err(|error| self.files.explain(error))
    }

    fn select<T>(
        &self,
        columns: &str,
        table: &str,
        conditions: Conditions,
        parse: fn(&Row<'_>) -> rusqlite::Result<Option<T>>,
    ) -> Result<Vec<T>, Error> {
        let Conditions { words, values } = conditions;
        let ask = || {
            let query = format!(
                "select {columns} from {table} where true{} order by id desc limit ?",
                words.concat()
            );
            let mut select = self.connection.prepare(&query)?;
            let rows = select.query_map(params_from_iter(values), parse)?;
            // What a newer program has added is left out.
            rows.filter_map(Result::transpose)
                .collect::<rusqlite::Result<Vec<T>>>()
        };
        ask().map_err(|error| self.files.explain(error))
    }
}

/// What rows must fulfil.
#[derive(Default)]
struct Conditions {
    words: Vec<String>,
    values: Vec<Value>,
}

impl Conditions {
    fn add(&mut self, condition: &str, value: impl Into<Value>) {
        self.words.push(format!(" and {condition}"));
        self.values.push(value.into());
    }

    /// The conditions that all tables can fulfil; these come last.
    fn add_common(&mut self, filter: &Filter) {
        if let Some(machine) = &filter.machine {
            self.add("(machine = ?", machine.clone());
            self.words
                .push(" or substr(machine, 1, length(?) + 1) = ? || ':')".to_owned());
            self.values
                .extend([machine.clone().into(), machine.clone().into()]);
        }
        if let Some(since) = filter.since {
            self.add("time >= ?", i64::try_from(since).unwrap_or(i64::MAX));
        }
        // Without a limit, a negative one.
        let limit = filter.limit.map_or(-1, i64::from);
        self.values.push(limit.into());
    }
}

fn attempt(row: &Row<'_>) -> rusqlite::Result<Option<Attempt>> {
    let (kind, result): (String, String) = (row.get(7)?, row.get(14)?);
    let (Some(kind), Some(result)) = (Kind::of_name(&kind), AttemptResult::of_name(&result)) else {
        return Ok(None);
    };
    Ok(Some(Attempt {
        time: unsigned(row, 0)?,
        derivation: row.get(1)?,
        item: ItemName {
            name: row.get(2)?,
            version: row.get(3)?,
        },
        system: row.get(4)?,
        machine: row.get(5)?,
        speed: row.get(6)?,
        kind,
        times: Times {
            waited: duration(row, 8)?,
            sent: duration(row, 9)?,
            built: duration(row, 10)?,
            retrieved: duration(row, 11)?,
        },
        bytes_sent: unsigned(row, 12)?,
        bytes_retrieved: unsigned(row, 13)?,
        result,
        reason: row.get(15)?,
    }))
}

fn machine_state(row: &Row<'_>) -> rusqlite::Result<Option<MachineState>> {
    let state: String = row.get(2)?;
    let Some(state) = State::of_name(&state) else {
        return Ok(None);
    };
    let number = |column| unsigned(row, column);
    Ok(Some(MachineState {
        time: number(0)?,
        machine: row.get(1)?,
        state,
        reason: row.get(3)?,
        load: row.get(4)?,
        cores: u32::try_from(number(5)?).unwrap_or(u32::MAX),
        free_bytes: number(6)?,
        slots: u32::try_from(number(7)?).unwrap_or(u32::MAX),
    }))
}

fn sample(row: &Row<'_>) -> rusqlite::Result<Sample> {
    Ok(Sample {
        item: ItemName {
            name: row.get(0)?,
            version: row.get(1)?,
        },
        system: row.get(2)?,
        built: duration(row, 3)?,
        speed: row.get(4)?,
    })
}

/// A number that isn't negative, whatever the file says.
fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    Ok(u64::try_from(number).unwrap_or(0))
}

fn duration(row: &Row<'_>, column: usize) -> rusqlite::Result<Duration> {
    unsigned(row, column).map(Duration::from_millis)
}
