//! Writing rows, and deleting old ones.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use system::clock::unix_time;
use system::lock::Mode;

use super::Error;
use super::files::{Files, Identity};
use super::limits::Limits;
use super::record::{Attempt, AttemptResult, MachineState, name, reason};
use super::token::Token;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
/// How many rows one write deletes at most, so that it takes no noticeable time.
const DELETED_AT_ONCE: u32 = 200;

/// The tables of rows that are bounded.
const TABLES: [&str; 2] = ["attempts", "states"];

/// What is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Row {
    /// An attempt. A daemon gives each hook a token, with which both write.
    Attempt(Attempt, Option<Token>),
    /// What the daemon knows of a hook's attempt, unless the hook with this token has written it.
    OfHook(Attempt, Token),
    /// The state of a machine.
    State(MachineState),
}

/// The database, open for writing.
pub(super) struct Database {
    connection: Connection,
    identity: Identity,
    files: Files,
    limits: Limits,
}

impl Database {
    /// Opens it, and creates it if necessary. If it had to be begun anew, there is a message.
    pub(super) fn open(
        directory: &Path,
        limits: Limits,
        patience: Duration,
    ) -> Result<(Database, Option<String>), Error> {
        let files = Files::in_directory(directory, patience)?;
        let (connection, identity, message) = files.open()?;
        let database = Database {
            connection,
            identity,
            files,
            limits,
        };
        Ok((database, message))
    }

    /// Writes rows in one transaction. If the database turns out to be damaged, it is begun anew with
    /// these rows, and there is a message; if somebody has deleted it, it is created again.
    pub(super) fn write(&mut self, rows: &[Row]) -> Result<Option<String>, Error> {
        let message = match self.try_write(rows) {
            Ok(true) => return Ok(None),
            Ok(false) => None,
            Err(Error::Damaged { source, .. }) => {
                self.files.replace_damaged(self.identity, &source)?
            }
            Err(error) => return Err(error),
        };
        let (connection, identity, other) = self.files.open()?;
        self.connection = connection;
        self.identity = identity;
        match self.try_write(rows)? {
            true => Ok(message.or(other)),
            false => Err(Error::Busy(self.files.file().to_owned())),
        }
    }

    /// Returns false if the database's name is no longer that of the open file.
    fn try_write(&mut self, rows: &[Row]) -> Result<bool, Error> {
        self.change(|transaction, limits| {
            for row in rows {
                match row {
                    Row::Attempt(attempt, token) => insert_attempt(transaction, attempt, *token)?,
                    Row::OfHook(attempt, token) => {
                        if !has_written(transaction, attempt, *token)? {
                            insert_attempt(transaction, attempt, Some(*token))?;
                        }
                    }
                    Row::State(state) => insert_state(transaction, state)?,
                }
            }
            for table in TABLES {
                delete_surplus(transaction, table, limits.rows)?;
            }
            Ok(())
        })
    }

    /// Deletes some of the rows that are too old, if it is time for that.
    pub(super) fn prune(&mut self) -> Result<(), Error> {
        self.prune_at(unix_time())
    }

    fn prune_at(&mut self, now: u64) -> Result<(), Error> {
        let changed = self.change(|transaction, limits| {
            let next = match Pruning::load(transaction)?.next(now) {
                Step::Wait => return Ok(()),
                Step::Note(next) => next,
                Step::Delete { noted } => {
                    let oldest = noted.saturating_sub(limits.age.as_secs());
                    for table in TABLES {
                        if !delete_older(transaction, table, oldest)? {
                            return Ok(()); // The next call goes on.
                        }
                    }
                    Pruning {
                        pruned: noted,
                        noted: 0,
                    }
                }
            };
            next.save(transaction)
        });
        changed.map(drop)
    }

    /// Makes a change in one transaction, while nobody replaces the file. Returns false if somebody has.
    fn change(
        &mut self,
        change: impl FnOnce(&Transaction<'_>, Limits) -> rusqlite::Result<()>,
    ) -> Result<bool, Error> {
        let _lock = self.files.lock(Mode::Shared)?;
        if self.files.identity()? != Some(self.identity) {
            return Ok(false);
        }
        let files = &self.files;
        let begun = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(|error| files.explain(error))?;
        change(&transaction, self.limits)
            .and_then(|()| transaction.commit())
            .map_err(|error| files.explain(error))?;
        Ok(true)
    }
}

/// When rows were deleted for their age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pruning {
    /// When that was done last.
    pruned: u64,
    /// When it was seen to be time again; 0 if it wasn't yet.
    noted: u64,
}

/// What to do about old rows.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait,
    Note(Pruning),
    /// Delete what is too old at the time that was noted.
    Delete {
        noted: u64,
    },
}

impl Pruning {
    /// What to do at this time: once a day, it is noted, and an hour later, rows are deleted that were too
    /// old then. A clock that is years ahead for a moment must not cost the whole history.
    fn next(self, now: u64) -> Step {
        let Pruning { pruned, noted } = self;
        if pruned == 0 || pruned > now {
            // A new database, or the clock was ahead.
            return Step::Note(Pruning {
                pruned: now,
                noted: 0,
            });
        }
        if now - pruned < DAY {
            return Step::Wait;
        }
        if noted == 0 || noted > now {
            return Step::Note(Pruning { pruned, noted: now });
        }
        if now - noted < HOUR {
            return Step::Wait;
        }
        Step::Delete { noted }
    }

    fn load(connection: &Connection) -> rusqlite::Result<Pruning> {
        let time = |number: i64| u64::try_from(number).unwrap_or(0);
        connection.query_row("select pruned, noted from pruning", [], |row| {
            Ok(Pruning {
                pruned: time(row.get(0)?),
                noted: time(row.get(1)?),
            })
        })
    }

    fn save(self, connection: &Connection) -> rusqlite::Result<()> {
        let times = [signed(self.pruned), signed(self.noted)];
        connection.execute("update pruning set pruned = ?1, noted = ?2", times)?;
        Ok(())
    }
}

fn insert_attempt(
    connection: &Connection,
    attempt: &Attempt,
    token: Option<Token>,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "insert into attempts (time, derivation, name, version, system, machine, speed, kind,
             waited, sent, built, retrieved, bytes_sent, bytes_retrieved, result, reason, token)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )?;
    let times = attempt.times;
    insert.execute(params![
        signed(attempt.time),
        name(&attempt.derivation),
        name(&attempt.item.name),
        name(&attempt.item.version),
        name(&attempt.system),
        name(&attempt.machine),
        number(attempt.speed, 1.0),
        attempt.kind.name(),
        milliseconds(times.waited),
        milliseconds(times.sent),
        milliseconds(times.built),
        milliseconds(times.retrieved),
        signed(attempt.bytes_sent),
        signed(attempt.bytes_retrieved),
        attempt.result.name(),
        reason(&attempt.reason),
        token.map(|Token(number)| number),
    ])?;
    Ok(())
}

/// Whether the hook with this token has written how the attempt ended. If the hook itself failed, for
/// lack of other machines, what it wrote of the last machine is that.
fn has_written(connection: &Connection, attempt: &Attempt, token: Token) -> rusqlite::Result<bool> {
    let mut written = connection.prepare_cached(
        "select exists (select 1 from attempts
             where name = ?1 and derivation = ?2 and token = ?3
                 and (result <> 'machine-failed' or ?4))",
    )?;
    let any_row = attempt.result == AttemptResult::HookFailed;
    let (item, derivation) = (name(&attempt.item.name), name(&attempt.derivation));
    written.query_row(params![item, derivation, token.0, any_row], |row| {
        row.get(0)
    })
}

fn insert_state(connection: &Connection, state: &MachineState) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "insert into states (time, machine, state, reason, load, cores, free_bytes, slots)
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    insert.execute(params![
        signed(state.time),
        name(&state.machine),
        state.state.name(),
        reason(&state.reason),
        number(state.load, 0.0),
        state.cores,
        signed(state.free_bytes),
        state.slots,
    ])?;
    Ok(())
}

/// Deletes the oldest rows of a table that has more than so many.
fn delete_surplus(connection: &Connection, table: &str, rows: u32) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached(&format!(
        "delete from {table} where id in (select id from {table}
             where id <= (select max(id) from {table}) - ?1 order by id limit ?2)"
    ))?;
    delete.execute([rows, DELETED_AT_ONCE])?;
    Ok(())
}

/// Deletes rows of a table from before a time; returns whether none are left.
fn delete_older(connection: &Connection, table: &str, oldest: u64) -> rusqlite::Result<bool> {
    let mut delete = connection.prepare_cached(&format!(
        "delete from {table} where id in (select id from {table} where time < ?1 limit ?2)"
    ))?;
    let deleted = delete.execute(params![signed(oldest), DELETED_AT_ONCE])?;
    Ok(deleted < DELETED_AT_ONCE as usize)
}

/// As SQLite has integers.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A number; SQLite would store one that isn't a number as null.
fn number(number: f64, otherwise: f64) -> f64 {
    if number.is_finite() {
        number
    } else {
        otherwise
    }
}

#[cfg(test)]
mod tests;
