//! The connections for reading, and the snapshots of the database that they keep.
//!
//! When a transaction begins and ends, SQLite takes file locks while it holds a mutex that all
//! connections of the process share, which costs more than a simple query. So a reader stays in its
//! transaction and is reused as long as [nothing has changed](LogIndex).
//!
//! A snapshot that is kept blocks checkpoints, by us and by other processes. So none is kept longer
//! than [`LIFETIME`] or beyond our own next commit, and none is kept while the log is so long that
//! it should be checkpointed.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use system::sync::Mutex;

use super::connection::{CHECKPOINT, connect};
use super::log_index::{Header, LogIndex};
use crate::error::{Error, Result};
use crate::options::StoreOptions;

/// The maximum number of idle connections for reading.
const SPARE: usize = 32;

/// How often kept snapshots are ended.
const LIFETIME: Duration = Duration::from_secs(1);

/// A connection for reading.
struct Reader {
    connection: Connection,
    /// If it is in a transaction: the header from before its snapshot, and the epoch in which it
    /// began.
    snapshot: Option<(Header, u64)>,
}

impl Reader {
    /// Ends the transaction, if there is one.
    fn end(&mut self) -> rusqlite::Result<()> {
        if self.snapshot.take().is_some() {
            self.connection.prepare_cached("rollback")?.execute([])?;
        }
        Ok(())
    }

    /// Makes sure that the next query sees everything that has been committed by now.
    fn refresh(&mut self, now: Option<Header>, epoch: u64) -> rusqlite::Result<()> {
        if let (Some(now), Some((seen, _))) = (now, self.snapshot) {
            if now == seen {
                return Ok(());
            }
        }
        self.end()?;
        if let Some(now) = now.filter(|now| now.frames() < CHECKPOINT) {
            // The first query takes the snapshot, so the snapshot isn't older than this.
            self.connection.prepare_cached("begin")?.execute([])?;
            self.snapshot = Some((now, epoch));
        }
        Ok(())
    }
}

/// The connections for reading.
pub(super) struct Readers {
    file: PathBuf,
    options: StoreOptions,
    /// `None` without a write-ahead log: then no snapshots are kept.
    index: Option<LogIndex>,
    idle: Arc<Mutex<Idle>>,
}

/// The readers that are not in use.
#[derive(Default)]
struct Idle {
    readers: Vec<Reader>,
    /// Incremented whenever snapshots are ended.
    epoch: u64,
    /// Whether a thread is running that will end snapshots.
    ending: bool,
}

/// The snapshots that idle readers keep.
pub(super) struct Snapshots(Arc<Mutex<Idle>>);

impl Snapshots {
    /// Ends them all.
    pub(super) fn end(&self) {
        self.0.lock().end_snapshots();
    }
}

impl Readers {
    /// The snapshots of these readers.
    pub(super) fn snapshots(&self) -> Snapshots {
        Snapshots(self.idle.clone())
    }

    pub(super) fn new(file: PathBuf, options: StoreOptions, index: Option<LogIndex>) -> Readers {
        Readers {
            file,
            options,
            index,
            idle: Arc::default(),
        }
    }

    /// Runs a query once.
    pub(super) fn ask<T>(
        &self,
        action: &str,
        question: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        let (spare, epoch) = {
            let mut idle = self.idle.lock();
            (idle.readers.pop(), idle.epoch)
        };
        let mut reader = match spare {
            Some(reader) => reader,
            None => Reader {
                connection: connect(&self.file, &self.options, false)?,
                snapshot: None,
            },
        };
        let now = self.index.and_then(LogIndex::header);
        let answer = reader
            .refresh(now, epoch)
            .map_err(|error| Error::database(action, error))
            .and_then(|()| question(&reader.connection));
        // After an error, a reader is only reused if its transaction can be ended.
        if answer.is_ok() || reader.end().is_ok() {
            self.put_back(reader);
        }
        answer
    }

    fn put_back(&self, mut reader: Reader) {
        let mut idle = self.idle.lock();
        if let Some((_, epoch)) = reader.snapshot {
            if (epoch != idle.epoch || !idle.will_end(&self.idle)) && reader.end().is_err() {
                return;
            }
        }
        if idle.readers.len() < SPARE {
            idle.readers.push(reader);
        }
    }

    /// Ends the kept snapshots; after a commit of ours they are outdated and only block
    /// checkpoints.
    pub(super) fn end_snapshots(&self) {
        if self.index.is_some() {
            self.idle.lock().end_snapshots();
        }
    }
}

impl Idle {
    /// Ends all snapshots and returns whether there were any. Those in use are ended when they are
    /// returned.
    fn end_snapshots(&mut self) -> bool {
        self.epoch += 1;
        let kept = self.readers.iter().any(|reader| reader.snapshot.is_some());
        self.readers.retain_mut(|reader| reader.end().is_ok());
        kept
    }

    /// Makes sure that a thread will end the snapshots later. Returns `false` if none can be
    /// started.
    fn will_end(&mut self, this: &Arc<Mutex<Idle>>) -> bool {
        if !self.ending {
            let idle = Arc::downgrade(this);
            self.ending = thread::Builder::new()
                .name("snapshots".into())
                .stack_size(128 * 1024)
                .spawn(move || end_again_and_again(&idle))
                .is_ok();
        }
        self.ending
    }
}

/// Ends snapshots periodically, until there are none.
fn end_again_and_again(idle: &Weak<Mutex<Idle>>) {
    loop {
        thread::sleep(LIFETIME);
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = idle.lock();
        if !idle.end_snapshots() {
            idle.ending = false;
            return;
        }
    }
}
