//! The database: connections with Guix's settings (`doc/spec/store-formats.md`, section 8), a [pool
//! of connections for reading](readers) and one for writing, and retries while the database is
//! busy.
//!
//! Readers and the writer are separate connections, so that with the write-ahead log queries never
//! wait for a registration. Each connection prepares its statements once.

mod checkpoint;
mod connection;
mod log_index;
mod private;
mod readers;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use system::sync::Mutex;

use self::checkpoint::Writer;
use self::connection::{WARN_AFTER, connect, is_busy, pause};
use self::log_index::LogIndex;
use self::readers::Readers;

pub(crate) use self::private::make_private;

use crate::error::{Error, Result};
use crate::options::StoreOptions;
use crate::progress::{Level, Progress, check};

/// The tables, as they are created in a new database.
const SCHEMA: &str = include_str!("schema.sql");

/// The writer's page cache, allocated as needed; a negative number is SQLite's notation for KiB.
const WRITER_CACHE_KIB: i64 = -16_384;

/// The open database.
pub(crate) struct Database {
    readers: Readers,
    writer: Arc<Mutex<Writer>>,
}

impl Database {
    /// Opens `db.sqlite` in `directory`; if `create`, creates its tables.
    pub(crate) fn open(directory: &Path, options: &StoreOptions, create: bool) -> Result<Database> {
        let file = directory.join("db.sqlite");
        let connection = connect(&file, options, create)?;
        if !options.read_only {
            // Room for the pages of a large transaction, so that each is written only once.
            connection
                .pragma_update(None, "cache_size", WRITER_CACHE_KIB)
                .map_err(|error| Error::database("setting up the store database", error))?;
        }
        if create {
            connection
                .execute_batch(SCHEMA)
                .map_err(|error| Error::database("initialising database schema", error))?;
        }
        let index = match options.read_only {
            true => None,
            false => log_index(&connection, &file)
                .map_err(|error| Error::database("setting up the store database", error))?,
        };
        let readers = Readers::new(file.clone(), options.clone(), index);
        let writer = Writer::new(connection, options.checkpoint_after, readers.snapshots());
        let database = Database {
            readers,
            writer: Arc::new(Mutex::new(writer)),
        };
        // What another process, or the schema, has left in the log.
        if !options.read_only && checkpoint::has_log(&file) {
            database.writer.lock().will_checkpoint(&database.writer);
        }
        Ok(database)
    }

    /// Writes the log back to `db.sqlite`, which then has everything.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        writer
            .checkpoint()
            .map(drop)
            .map_err(|error| Error::database("writing the log back to the database", error))
    }

    /// Runs a query that sees everything committed before, by any process. `question` may be called
    /// several times.
    pub(crate) fn read<T>(
        &self,
        action: &str,
        mut question: impl FnMut(&Connection) -> Result<T>,
    ) -> Result<T> {
        let mut backoff = Backoff::default();
        loop {
            match self.readers.ask(action, &mut question) {
                Err(error) if is_busy(&error) => backoff.wait(None, action)?,
                answer => return answer,
            }
        }
    }

    /// Makes a change in one transaction, which is committed if `change` succeeds and rolled back
    /// if it fails. `change` may be called several times, until the database isn't busy.
    pub(crate) fn write<T>(
        &self,
        action: &str,
        progress: &dyn Progress,
        mut change: impl FnMut(&Connection) -> Result<T>,
    ) -> Result<T> {
        let mut writer = self.writer.lock();
        let mut backoff = Backoff::default();
        loop {
            match attempt(&mut writer.connection, action, &mut change) {
                Err(error) if is_busy(&error) => backoff.wait(Some(progress), action)?,
                result => {
                    self.readers.end_snapshots();
                    writer.will_checkpoint(&self.writer);
                    return result;
                }
            }
        }
    }
}

/// Starts a transaction, so that several queries see the same state of the database, unless the
/// connection is already in one.
pub(crate) fn together(connection: &Connection) -> rusqlite::Result<Option<Transaction<'_>>> {
    connection
        .is_autocommit()
        .then(|| connection.unchecked_transaction())
        .transpose()
}

/// The index of the write-ahead log, if the database has one: on some file systems, or with another
/// daemon's settings, it doesn't.
fn log_index(connection: &Connection, file: &Path) -> rusqlite::Result<Option<LogIndex>> {
    let mode: String =
        connection.pragma_query_value(Some("main"), "journal_mode", |row| row.get(0))?;
    if mode != "wal" {
        return Ok(None);
    }
    // The index is created when the database is first read.
    connection.query_row("select count(*) from ValidPaths where id = 0", [], |_| {
        Ok(())
    })?;
    let index = LogIndex::open(file);
    Ok(index
        .inspect_err(|error| tracing::debug!(%error, "opening the index of the log"))
        .ok())
}

/// One attempt at a transaction.
fn attempt<T>(
    connection: &mut Connection,
    action: &str,
    change: &mut impl FnMut(&Connection) -> Result<T>,
) -> Result<T> {
    let failed = |error| Error::database(action, error);
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed)?;
    let result = change(&transaction)?;
    transaction.commit().map_err(failed)?;
    Ok(result)
}

/// The pauses between attempts while the database is busy.
#[derive(Default)]
struct Backoff {
    /// The time of the first failure.
    since: Option<Instant>,
}

impl Backoff {
    /// Pauses after a failed attempt; prints one warning if this goes on for long.
    fn wait(&mut self, progress: Option<&dyn Progress>, action: &str) -> Result<()> {
        static WARNED: AtomicBool = AtomicBool::new(false);
        if let Some(progress) = progress {
            check(progress)?;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() > WARN_AFTER && !WARNED.swap(true, Ordering::Relaxed) {
            tracing::warn!(action, "SQLite database is busy");
            if let Some(progress) = progress {
                progress.message(Level::Error, "warning: SQLite database is busy");
            }
        }
        pause();
        Ok(())
    }
}

/// Whether a row could not be deleted because others refer to it.
pub(crate) fn is_constraint(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}
