//! Turns to read logs that may be long: only few at the same time, and none for so long that others have to go.
//!
//! Who has come last has the next turn. Those who have many logs read that take long then hold up one another, and hardly
//! anybody else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use system::sync::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How many logs are read at the same time.
const READERS: usize = 4;
/// How long one waits for a turn.
const WAITING: Duration = Duration::from_secs(10);
/// How long a turn is if nobody waits. Those who wait share this time.
const LONGEST: Duration = Duration::from_secs(10);
/// How long it is at least, however many wait.
const SHORTEST: Duration = Duration::from_millis(250);
/// For how long a log isn't read again whose reading took longer than its turn.
const PAUSE: Duration = Duration::from_secs(60);
/// How many such logs are remembered.
const REMEMBERED: usize = 1024;

/// Why there is no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too many wait.
    Busy,
    /// A turn wasn't long enough for this log a short time ago.
    TooLong,
}

/// All turns.
#[derive(Default)]
pub struct Turns(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// How many wait.
    waiting: AtomicU32,
    /// Logs that were too long, and since when they aren't read.
    too_long: Mutex<HashMap<PathBuf, Instant>>,
}

/// A turn to read a log, until it is dropped.
pub struct Turn {
    log: PathBuf,
    begun: Instant,
    place: Place,
}

/// One of the places of those who read, until it is dropped.
struct Place(Arc<Shared>);

/// Who reads, and who waits.
#[derive(Default)]
struct Queue {
    readers: usize,
    /// The last one has come last.
    waiting: Vec<oneshot::Sender<Place>>,
}

impl Shared {
    /// A place now, or who will bring one.
    fn place(self: &Arc<Shared>) -> Result<Place, oneshot::Receiver<Place>> {
        let mut queue = self.queue.lock();
        if queue.readers < READERS {
            queue.readers += 1;
            return Ok(Place(self.clone()));
        }
        let (sender, receiver) = oneshot::channel();
        queue.waiting.retain(|one| !one.is_closed());
        queue.waiting.push(sender);
        Err(receiver)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        while let Some(next) = queue.waiting.pop() {
            if !next.is_closed() {
                drop(queue);
                // If nobody waits there any more by now, it is dropped again.
                let _ = next.send(Place(self.0.clone()));
                return;
            }
        }
        queue.readers -= 1;
    }
}

/// One who waits, until it is dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Waiting<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    /// Waits for a turn to read a log.
    pub async fn next(&self, log: &Path) -> Result<Turn, Refused> {
        let shared = &self.0;
        shared.check(log)?;
        let place = match shared.place() {
            Ok(place) => place,
            Err(receiver) => {
                let _waiting = Waiting::new(&shared.waiting);
                match timeout(WAITING, receiver).await {
                    Ok(Ok(place)) => place,
                    Ok(Err(_)) | Err(_) => return Err(Refused::Busy),
                }
            }
        };
        // Another one may have tried it meanwhile.
        shared.check(log)?;
        Ok(Turn {
            log: log.to_owned(),
            begun: Instant::now(),
            place,
        })
    }
}

impl Turn {
    /// Whether it is over, and the reading has to end. If nobody had shortened it, the log isn't read again for a while.
    pub fn is_over(&self) -> bool {
        let waiting = self.place.0.waiting.load(Ordering::Relaxed);
        let elapsed = self.begun.elapsed();
        // That it was too long for a turn that others had shortened says nothing of a log.
        if elapsed >= LONGEST {
            self.place.0.remember(&self.log);
        }
        elapsed >= length(waiting)
    }
}

/// How long a turn is while so many wait.
fn length(waiting: u32) -> Duration {
    (LONGEST / waiting.saturating_add(1)).max(SHORTEST)
}

impl Shared {
    fn check(&self, log: &Path) -> Result<(), Refused> {
        match self.too_long.lock().get(log) {
            Some(since) if since.elapsed() < PAUSE => Err(Refused::TooLong),
            _ => Ok(()),
        }
    }

    fn remember(&self, log: &Path) {
        let mut all = self.too_long.lock();
        all.retain(|_, since| since.elapsed() < PAUSE);
        if all.len() < REMEMBERED {
            all.insert(log.to_owned(), Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_wait_share_the_time() {
        assert_eq!(length(0), LONGEST);
        assert_eq!(length(3), LONGEST / 4);
        assert_eq!(length(u32::MAX), SHORTEST);
    }

    #[test]
    fn a_log_whose_turn_is_over_has_no_other_one_for_a_while() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let turns = Turns::default();
        let next = |log: &str| runtime.block_on(turns.next(Path::new(log)));
        let Ok(turn) = next("/long") else {
            panic!("no turn");
        };
        assert!(!turn.is_over());
        // Others have shortened this one.
        turns.0.waiting.store(u32::MAX - 1, Ordering::Relaxed);
        std::thread::sleep(SHORTEST);
        assert!(turn.is_over());
        drop(turn);
        let Ok(mut turn) = next("/long") else {
            panic!("no turn, for a short one was not enough");
        };
        turn.begun = turn.begun.checked_sub(LONGEST).unwrap();
        assert!(turn.is_over());
        drop(turn);
        assert_eq!(next("/long").err(), Some(Refused::TooLong));
        assert!(next("/other").is_ok());
    }

    #[test]
    fn who_has_come_last_is_next() {
        let turns = Turns::default();
        let mut readers: Vec<Place> = (0..READERS).flat_map(|_| turns.0.place()).collect();
        assert_eq!(readers.len(), READERS);
        let mut queue: Vec<_> = (0..3).filter_map(|_| turns.0.place().err()).collect();
        let (mut last, gone) = (queue.pop().unwrap(), queue.pop().unwrap());
        let mut first = queue.pop().unwrap();
        drop(gone);
        drop(readers.pop());
        let held = last.try_recv();
        assert!(held.is_ok() && first.try_recv().is_err());
        // Whoever has gone has no turn.
        drop(held);
        assert!(first.try_recv().is_ok());
        drop(readers);
        assert_eq!(turns.0.queue.lock().readers, 0);
    }
}
