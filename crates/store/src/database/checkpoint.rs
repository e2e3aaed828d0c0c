//! Writing the log back to the database while nothing else is written, so that `db.sqlite` alone has
//! everything: people copy that one file.
//!
//! SQLite writes the log back when it is [long](super::connection::CHECKPOINT). Besides that, a thread does
//! some time after the last change; it ends once it has.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use system::sync::Mutex;

use super::readers::Snapshots;

/// The connection that writes.
pub(super) struct Writer {
    pub(super) connection: Connection,
    /// How long nothing is written before the log is written back.
    after: Duration,
    last_change: Instant,
    /// Whether a thread is there that will write the log back.
    waiting: bool,
    /// Snapshots keep the log from being written back.
    snapshots: Snapshots,
}

impl Writer {
    pub(super) fn new(connection: Connection, after: Duration, snapshots: Snapshots) -> Writer {
        Writer {
            connection,
            after,
            last_change: Instant::now(),
            waiting: false,
            snapshots,
        }
    }

    /// Writes the log back and empties it. Says whether `db.sqlite` has everything now; others
    /// that read, or write, may keep it from that.
    pub(super) fn checkpoint(&mut self) -> rusqlite::Result<bool> {
        self.snapshots.end();
        // Without a log, the numbers are -1.
        let (busy, logged, written): (i64, i64, i64) =
            self.connection
                .query_row("pragma wal_checkpoint(truncate)", [], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?;
        Ok(busy == 0 || logged == written)
    }

    /// Something has been written: makes sure that somebody writes the log back after a while.
    /// `this` is the mutex that this writer is in.
    pub(super) fn will_checkpoint(&mut self, this: &Arc<Mutex<Writer>>) {
        self.last_change = Instant::now();
        if !self.waiting {
            let writer = Arc::downgrade(this);
            self.waiting = thread::Builder::new()
                .name("checkpoint".into())
                .stack_size(128 * 1024)
                .spawn(move || checkpoint_when_idle(&writer))
                .is_ok();
        }
    }
}

/// Whether there is something in the log of the database `file`.
pub(super) fn has_log(file: &Path) -> bool {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    fs::metadata(log).is_ok_and(|metadata| metadata.len() > 0)
}

/// Waits until nothing has been written for a while, and writes the log back.
fn checkpoint_when_idle(writer: &Weak<Mutex<Writer>>) {
    loop {
        let wait = {
            let Some(writer) = writer.upgrade() else {
                return;
            };
            let mut writer = writer.lock();
            let left = writer.after.saturating_sub(writer.last_change.elapsed());
            if left.is_zero() {
                match writer.checkpoint() {
                    Ok(true) => {
                        writer.waiting = false;
                        return;
                    }
                    Ok(false) => {}
                    Err(error) => tracing::debug!(%error, "writing the log back"),
                }
                writer.after
            } else {
                left
            }
        };
        thread::sleep(wait);
    }
}
