//! A connection to the database, with Guix's settings (`doc/spec/store-formats.md`, section 8), and
//! recognising errors that mean that the database is busy.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::RngExt;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{Error, Result};
use crate::options::StoreOptions;

/// SQLite's busy timeout: how long it waits for a lock before it reports that the database is busy
/// and we check whether the client has disconnected.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);

/// How long the database has to be busy before we print a warning.
pub(super) const WARN_AFTER: Duration = Duration::from_secs(10);

/// The size of a connection's cache of prepared statements; larger than the number of statements.
const STATEMENTS: usize = 64;

/// The length of the write-ahead log, in pages, at which it is checkpointed.
pub(super) const CHECKPOINT: u32 = 40_000;

/// Opens a connection, with Guix's settings.
pub(super) fn connect(file: &Path, options: &StoreOptions, create: bool) -> Result<Connection> {
    let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if options.read_only {
        flags |= OpenFlags::SQLITE_OPEN_READ_ONLY;
    } else {
        flags |= OpenFlags::SQLITE_OPEN_READ_WRITE;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    }
    let connection = Connection::open_with_flags(file, flags).map_err(|error| {
        Error::database(
            format!("cannot open store database `{}'", file.display()),
            error,
        )
    })?;
    set_up(&connection, options)
        .map_err(|error| Error::database("setting up the store database", error))?;
    Ok(connection)
}

fn set_up(connection: &Connection, options: &StoreOptions) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Not `busy_timeout()`, which needs a newer SQLite than many systems have. This pragma returns
    // a row.
    let timeout = BUSY_TIMEOUT.as_millis() as i64;
    connection.pragma_update_and_check(None, "busy_timeout", timeout, |_| Ok(()))?;
    connection.pragma_update(None, "foreign_keys", 1)?;
    let synchronous = if options.sync_metadata {
        "normal"
    } else {
        "off"
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    if options.read_only {
        return Ok(());
    }
    let mode = if options.write_ahead_log {
        "wal"
    } else {
        "truncate"
    };
    let current: String =
        connection.pragma_query_value(Some("main"), "journal_mode", |row| row.get(0))?;
    if current != mode {
        // Fails as "busy" while other processes use the database; they may be trying to do the
        // same.
        let started = Instant::now();
        loop {
            match connection.pragma_update_and_check(Some("main"), "journal_mode", mode, |_| Ok(()))
            {
                Err(error) if busy_code(&error) && started.elapsed() < WARN_AFTER => pause(),
                result => break result?,
            }
        }
    }
    if options.write_ahead_log {
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
    }
    Ok(())
}

/// Sleeps for a random time (jitter), so that competing processes don't collide again.
pub(super) fn pause() {
    std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..100)));
}

/// Whether a retry may succeed.
pub(super) fn is_busy(error: &Error) -> bool {
    matches!(error, Error::Database { source, .. } if busy_code(source))
}

fn busy_code(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::FileLockingProtocolFailed)
    )
}
