//! The connections for reading, and the snapshots of the database that they keep.
//!
//! To begin and to end a transaction, SQLite takes locks of files with a mutex held that all
//! connections of the process share, which costs more than a simple question. So a reader stays in
//! its transaction, and is asked again as long as [nothing has changed](LogIndex).
//!
//! A kept snapshot hinders checkpoints, by us and by others. None is kept longer than
//! [`LIFETIME`], or beyond our own next commit, and none while the log is so long that it should
//! be written back.

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

/// How many connections for reading are kept open when unused.
const SPARE: usize = 32;

/// How often snapshots that are kept are ended.
const LIFETIME: Duration = Duration::from_secs(1);

/// A connection for reading.
struct Reader {
    connection: Connection,
    /// If it is in a transaction: an older header than its snapshot has, and when it began.
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

    /// Makes sure that the next question is answered with all that has been committed by now.
    fn refresh(&mut self, now: Option<Header>, epoch: u64) -> rusqlite::Result<()> {
        if let (Some(now), Some((seen, _))) = (now, self.snapshot)
            && now == seen
        {
            return Ok(());
        }
        self.end()?;
        if let Some(now) = now.filter(|now| now.frames() < CHECKPOINT) {
            // The snapshot itself is taken by the first question, so it is not older.
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
    /// Nothing where there is no write-ahead log: then no snapshots are kept.
    index: Option<LogIndex>,
    idle: Arc<Mutex<Idle>>,
}

/// The readers that nobody uses at the moment.
#[derive(Default)]
struct Idle {
    readers: Vec<Reader>,
    /// Counts the times that snapshots were ended.
    epoch: u64,
    /// Whether a thread is there that will end snapshots.
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

    /// Asks once.
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
        // After an error, a reader whose state is not certain is of no use.
        if answer.is_ok() || reader.end().is_ok() {
            self.put_back(reader);
        }
        answer
    }

    fn put_back(&self, mut reader: Reader) {
        let mut idle = self.idle.lock();
        if let Some((_, epoch)) = reader.snapshot
            && (epoch != idle.epoch || !idle.will_end(&self.idle))
            && reader.end().is_err()
        {
            return;
        }
        if idle.readers.len() < SPARE {
            idle.readers.push(reader);
        }
    }

    /// Ends the snapshots that are kept, of which a commit of ours has made nothing but a
    /// hindrance.
    pub(super) fn end_snapshots(&self) {
        if self.index.is_some() {
            self.idle.lock().end_snapshots();
        }
    }
}

impl Idle {
    /// Ends all snapshots; says whether there were any. Those in use are not put back as
    /// snapshots.
    fn end_snapshots(&mut self) -> bool {
        self.epoch += 1;
        let kept = self.readers.iter().any(|reader| reader.snapshot.is_some());
        self.readers.retain_mut(|reader| reader.end().is_ok());
        kept
    }

    /// Makes sure that somebody ends snapshots after a while. `false` if that can't be.
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

/// Ends snapshots now and then, until there was none.
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
