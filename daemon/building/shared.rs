//! Attempts that several requests wait for.
//!
//! A derivation (or an item to substitute) that two clients want at the same time is brought about
//! once. The first request starts the attempt, later ones join it: they are told what was said so
//! far (as far as it is remembered), everything that follows, and the outcome. When the last one
//! has left, the attempt is stopped. Limits (`max-jobs`, timeouts, what becomes of a failed build's
//! directory) are those of the request that started it; if it fails because of them, the others try
//! again with theirs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use formats::store_path::StorePath;
use protocol::trace::Trace;
use system::sync::{Condvar, Mutex, MutexGuard};

use super::mailbox::{Event, GoalId, Mailbox, Said};
use super::outcome::Outcome;
use super::request::{BuildError, Level, Mode};
use super::stop::Stop;

/// How much of what a build said is told to those who join it later.
const MEMORY: usize = 256 << 10;

/// What an attempt is about; two with equal keys are one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Building a derivation.
    Build(StorePath, Mode),
    /// Substituting an item, perhaps in place of a damaged one.
    Substitute(StorePath, bool),
}

struct Subscriber {
    mailbox: Arc<Mailbox>,
    goal: GoalId,
    /// Whether it is the request that started the attempt, whose settings hold.
    started: bool,
}

#[derive(Default)]
struct State {
    subscribers: Vec<Subscriber>,
    history: VecDeque<Said>,
    remembered: usize,
    finished: bool,
}

/// One attempt in progress.
pub(super) struct Attempt {
    key: Key,
    state: Mutex<State>,
    ended: Condvar,
    stop: Stop,
}

impl Attempt {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What ends the attempt early.
    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Tells everybody who waits for the attempt.
    pub(super) fn say(&self, said: Said) {
        let mut state = self.state();
        state.remembered += said.size();
        state.history.push_back(said.clone());
        while state.remembered > MEMORY {
            match state.history.pop_front() {
                Some(old) => state.remembered -= old.size(),
                None => break,
            }
        }
        for subscriber in &state.subscribers {
            subscriber.mailbox.push(Event::Said(said.clone()));
        }
    }

    /// Says a message.
    pub(super) fn message(&self, level: Level, text: impl Into<String>) {
        self.say(Said::Message(level, text.into()));
    }

    /// Writes a trace line.
    pub(super) fn trace(&self, trace: Trace<'_>) {
        self.say(Said::Trace(trace.to_string()));
    }

    /// Waits until at least one of those who listen has room for more output: a builder whose log
    /// nobody reads is held up, but a slow reader does not hold up others.
    pub(super) fn wait_for_room(&self) {
        while !self.stop.is_thrown() {
            {
                let state = self.state();
                let room = state
                    .subscribers
                    .iter()
                    .any(|subscriber| subscriber.mailbox.has_room());
                if room || state.subscribers.is_empty() {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Leaves the attempt; the last one to do so stops it, and waits for it to end.
    fn leave(&self, mailbox: &Arc<Mailbox>, goal: GoalId) {
        let is_me = |s: &Subscriber| s.goal == goal && Arc::ptr_eq(&s.mailbox, mailbox);
        let mut state = self.state();
        if state.finished || !state.subscribers.iter().any(is_me) {
            return;
        }
        if state.subscribers.len() > 1 {
            state.subscribers.retain(|s| !is_me(s));
            return;
        }
        self.stop.throw();
        // Killing is immediate, save for processes that the kernel can't interrupt.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !state.finished {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.subscribers.clear();
                return;
            }
            state = self.ended.wait_timeout(state, left);
        }
    }
}

/// A request's part in an attempt; leaves it when dropped.
pub(super) struct Participation {
    attempt: Arc<Attempt>,
    mailbox: Arc<Mailbox>,
    goal: GoalId,
}

impl Drop for Participation {
    fn drop(&mut self) {
        self.attempt.leave(&self.mailbox, self.goal);
    }
}

/// What [`Attempts::join`] found.
pub(super) enum Joined {
    /// Somebody is at it already; the caller will hear of it.
    Existing(Participation),
    /// The caller is the first, and has to start it.
    New(Participation, Arc<Attempt>),
    /// It is being stopped; try again when it has ended.
    Ending,
}

/// All attempts of the daemon.
#[derive(Default)]
pub(super) struct Attempts {
    running: Mutex<HashMap<Key, Arc<Attempt>>>,
    waiting: Mutex<Vec<Weak<Mailbox>>>,
}

impl Attempts {
    fn running(&self) -> MutexGuard<'_, HashMap<Key, Arc<Attempt>>> {
        self.running.lock()
    }

    /// Has a request told of every build that ends, as long as its mailbox lives.
    pub(super) fn listen(&self, mailbox: &Arc<Mailbox>) {
        let mut waiting = self.waiting.lock();
        waiting.retain(|other| other.strong_count() > 0);
        waiting.push(Arc::downgrade(mailbox));
    }

    /// Joins the attempt at `key`, or becomes the one who starts it.
    pub(super) fn join(
        &self,
        key: Key,
        mailbox: &Arc<Mailbox>,
        goal: GoalId,
    ) -> Result<Joined, BuildError> {
        let mut running = self.running();
        let mut subscriber = Subscriber {
            mailbox: mailbox.clone(),
            goal,
            started: false,
        };
        if let Some(attempt) = running.get(&key) {
            let mut state = attempt.state();
            if attempt.stop.is_thrown() || state.finished {
                return Ok(Joined::Ending);
            }
            for said in &state.history {
                mailbox.push(Event::Said(said.clone()));
            }
            state.subscribers.push(subscriber);
            drop(state);
            let attempt = attempt.clone();
            return Ok(Joined::Existing(Participation {
                attempt,
                mailbox: mailbox.clone(),
                goal,
            }));
        }
        let stop = Stop::new()
            .map_err(|e| BuildError::general(format!("creating an event descriptor: {e}")))?;
        subscriber.started = true;
        let state = State {
            subscribers: vec![subscriber],
            ..State::default()
        };
        let attempt = Arc::new(Attempt {
            key: key.clone(),
            state: Mutex::new(state),
            ended: Condvar::new(),
            stop,
        });
        running.insert(key, attempt.clone());
        let participation = Participation {
            attempt: attempt.clone(),
            mailbox: mailbox.clone(),
            goal,
        };
        Ok(Joined::New(participation, attempt))
    }

    /// Ends an attempt: everybody who waits for it learns the outcome. Those who didn't start it
    /// try again if it may be the fault of the settings of who did.
    pub(super) fn finish(&self, attempt: &Attempt, outcome: Outcome) {
        let mut running = self.running();
        running.remove(&attempt.key);
        let mut state = attempt.state();
        state.finished = true;
        for subscriber in state.subscribers.drain(..) {
            let outcome = match subscriber.started || !outcome.depends_on_settings() {
                true => outcome.clone(),
                false => Outcome::Locked,
            };
            subscriber.mailbox.push(Event::Finished {
                goal: subscriber.goal,
                outcome,
            });
        }
        attempt.ended.notify_all();
        drop(state);
        drop(running);
        if !matches!(
            outcome,
            Outcome::Locked | Outcome::Postponed | Outcome::NeedsSlot
        ) {
            let waiting = self.waiting.lock();
            for mailbox in waiting.iter().filter_map(Weak::upgrade) {
                mailbox.push(Event::BuildEnded);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        let store = formats::store_path::StoreDir::new("/gnu/store").expect("store");
        let path = store
            .parse(format!("/gnu/store/{}-{name}", "a".repeat(32)).as_str())
            .expect("path");
        Key::Build(path, Mode::Normal)
    }

    #[test]
    fn two_requests_share_an_attempt_and_a_late_one_hears_what_was_said() {
        let attempts = Attempts::default();
        let (first, second) = (Arc::new(Mailbox::default()), Arc::new(Mailbox::default()));
        let Ok(Joined::New(_one, attempt)) = attempts.join(key("x.drv"), &first, 7) else {
            panic!("not new")
        };
        attempt.message(Level::Error, "hello");
        let Ok(Joined::Existing(_two)) = attempts.join(key("x.drv"), &second, 9) else {
            panic!("not shared")
        };
        attempts.finish(&attempt, Outcome::Done);
        for (mailbox, id) in [(first, 7), (second, 9)] {
            assert!(
                matches!(mailbox.poll(), Some(Event::Said(Said::Message(_, text))) if text == "hello")
            );
            assert!(
                matches!(mailbox.poll(), Some(Event::Finished { goal, outcome: Outcome::Done }) if goal == id)
            );
        }
    }

    #[test]
    fn the_last_to_leave_stops_the_attempt() {
        let attempts = Arc::new(Attempts::default());
        let mailbox = Arc::new(Mailbox::default());
        let Ok(Joined::New(one, attempt)) = attempts.join(key("x.drv"), &mailbox, 1) else {
            panic!("not new")
        };
        let Ok(Joined::Existing(two)) = attempts.join(key("x.drv"), &mailbox, 2) else {
            panic!("not shared")
        };
        drop(one);
        assert!(!attempt.stop().is_thrown());
        let builder = std::thread::spawn({
            let (attempts, attempt) = (attempts.clone(), attempt.clone());
            move || {
                while !attempt.stop().is_thrown() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                assert!(matches!(
                    attempts.join(key("x.drv"), &Arc::default(), 3),
                    Ok(Joined::Ending)
                ));
                attempts.finish(
                    &attempt,
                    Outcome::Failed(super::super::outcome::Failure::Misc),
                );
            }
        });
        drop(two);
        builder.join().expect("builder");
        assert!(attempts.running().is_empty());
    }
}
