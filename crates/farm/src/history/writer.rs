//! The thread that writes, so that nobody waits for a disk, or for another process's lock.
//!
//! The queue to it is bounded: rows are lost where it is full, as they are where the database can't be
//! written. The program is told once, and again if it happens after rows could be written.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use system::sync::Mutex;

use super::Error;
use super::database::{Database, Row};
use super::limits::Limits;
use super::record::{Attempt, MachineState};
use super::token::Token;

/// How many rows may wait to be written.
const QUEUE: usize = 1000;
/// How many rows are written in one transaction at most.
const BATCH: usize = 100;
/// How often old rows are looked for.
const PRUNE_INTERVAL: Duration = Duration::from_secs(3600);

/// Where and how a [`Writer`] writes.
#[derive(Clone)]
pub struct WriterOptions {
    /// `<state>/offload`. Created if it is missing.
    pub directory: PathBuf,
    /// How much is kept.
    pub limits: Limits,
    /// How long to wait for other processes that use the database.
    pub patience: Duration,
    /// Tells people that rows are lost, in one line.
    pub warn: Arc<dyn Fn(&str) + Send + Sync>,
}

/// Writes to the history, on a thread that it starts when there is something to write.
pub struct Writer {
    options: WriterOptions,
    running: Mutex<Option<Running>>,
    shared: Arc<Shared>,
}

/// What the thread shares with who uses it.
#[derive(Default)]
struct Shared {
    /// How many rows the queue had no room for.
    lost: AtomicU64,
    /// Whether somebody waits for its end.
    finishing: AtomicBool,
}

struct Running {
    queue: SyncSender<Message>,
    thread: JoinHandle<()>,
}

/// A row to write, or nothing: then the database is only opened.
type Message = Option<Row>;

impl Writer {
    /// A writer that has not opened anything yet.
    pub fn new(options: WriterOptions) -> Writer {
        Writer {
            options,
            running: Mutex::new(None),
            shared: Arc::default(),
        }
    }

    /// Opens the database, and deletes some of the rows that are too old, while there is nothing to write.
    pub fn prepare(&self) {
        self.send(None);
    }

    /// Writes an attempt; with the token that the daemon has given to this hook, if any.
    pub fn attempt(&self, attempt: Attempt, token: Option<Token>) {
        self.send(Some(Row::Attempt(attempt, token)));
    }

    /// Writes how a hook's attempt ended, as the daemon saw it, unless the hook that was given this token
    /// has written it itself. That hook must have ended.
    pub fn attempt_of_hook(&self, attempt: Attempt, token: Token) {
        self.send(Some(Row::OfHook(attempt, token)));
    }

    /// Writes the state of a machine.
    pub fn state(&self, state: MachineState) {
        self.send(Some(Row::State(state)));
    }

    /// Waits until everything is written, or lost: that takes little longer than the writer's patience.
    pub fn finish(&self) {
        let running = self.running.lock().take();
        if let Some(Running { queue, thread }) = running {
            self.shared.finishing.store(true, Ordering::Release);
            drop(queue);
            let _ = thread.join();
            self.shared.finishing.store(false, Ordering::Release);
        }
    }

    fn send(&self, message: Message) {
        let mut running = self.running.lock();
        if running.is_none() {
            *running = self.start();
        }
        let sent = match &*running {
            Some(running) => running.queue.try_send(message),
            None => Err(TrySendError::Disconnected(message)),
        };
        if let Err(TrySendError::Full(Some(_)) | TrySendError::Disconnected(Some(_))) = sent {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn start(&self) -> Option<Running> {
        let (queue, messages) = sync_channel(QUEUE);
        let mut log = Log {
            options: self.options.clone(),
            database: None,
            looked: Instant::now(),
            shared: self.shared.clone(),
            warned: false,
        };
        let thread = std::thread::Builder::new().name("history".to_owned());
        match thread.spawn(move || log.run(&messages)) {
            Ok(thread) => Some(Running { queue, thread }),
            Err(error) => {
                (self.options.warn)(&format!("cannot start a thread for the history: {error}"));
                None
            }
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Writer");
        shown.field("directory", &self.options.directory);
        shown.field("limits", &self.options.limits);
        shown.finish_non_exhaustive()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

/// What the thread has.
struct Log {
    options: WriterOptions,
    database: Option<Database>,
    /// When old rows were last looked for.
    looked: Instant,
    shared: Arc<Shared>,
    /// Whether the last failure was reported.
    warned: bool,
}

impl Log {
    fn run(&mut self, messages: &Receiver<Message>) {
        while let Ok(first) = messages.recv() {
            let more = messages.try_iter().take(BATCH - 1);
            let messages = std::iter::once(first).chain(more);
            let rows: Vec<Row> = messages.flatten().collect();
            match self.write(&rows) {
                // Another process may hold it only now, and nothing is lost yet.
                Err(Error::Busy(_)) if rows.is_empty() => {}
                Err(error) => {
                    // It is opened anew for the next ones.
                    self.database = None;
                    self.warn(&format!("the history cannot be written: {error}"));
                    let is_busy = matches!(error, Error::Busy(_));
                    if is_busy && self.shared.finishing.load(Ordering::Acquire) {
                        return;
                    }
                }
                Ok(()) if rows.is_empty() => {}
                Ok(()) => self.warned = false,
            }
            let lost = self.shared.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let message = format!("the history lacks {lost} rows: there were too many at once");
                (self.options.warn)(&message);
            }
        }
    }

    fn write(&mut self, rows: &[Row]) -> Result<(), Error> {
        match self.try_write(rows) {
            // Somebody has deleted the directory, which is created where the database is opened.
            Err(Error::File { source, .. })
                if self.database.is_some() && source.kind() == io::ErrorKind::NotFound =>
            {
                self.database = None;
                self.try_write(rows)
            }
            written => written,
        }
    }

    fn try_write(&mut self, rows: &[Row]) -> Result<(), Error> {
        let database = match &mut self.database {
            Some(database) => database,
            None => {
                let WriterOptions {
                    directory,
                    limits,
                    patience,
                    ..
                } = &self.options;
                let (mut database, message) = Database::open(directory, *limits, *patience)?;
                if let Some(message) = message {
                    (self.options.warn)(&message);
                }
                if rows.is_empty() {
                    database.prune()?;
                }
                self.database.insert(database)
            }
        };
        if rows.is_empty() {
            return Ok(());
        }
        if let Some(message) = database.write(rows)? {
            (self.options.warn)(&message);
        }
        if self.looked.elapsed() > PRUNE_INTERVAL {
            self.looked = Instant::now();
            database.prune()?;
        }
        Ok(())
    }

    fn warn(&mut self, message: &str) {
        if !self.warned {
            self.warned = true;
            (self.options.warn)(message);
        }
    }
}
