//! One attempt to build a derivation or to substitute an item, and the requests that share it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use system::sync::{Condvar, Mutex, MutexGuard};

use formats::store_path::StorePath;
use protocol::operations::BuildMode;
use protocol::trace::Trace;
use store::{Level, Progress};
use substitutes::Server;

use super::event_count::EventCount;
use super::event_queue::{Event, EventQueue};
use super::goal::GoalId;
use super::log_sink::LogRecord;
use super::outcome::Outcome;
use super::stage::{Stage, StageClock};
use crate::activity::Activity;
use crate::cancel::CancellationToken;

/// How many bytes of log are kept for requests that join later.
const HISTORY: usize = 256 << 10;
/// How long the last request waits for an attempt that it has cancelled. Killing is immediate,
/// except for processes that the kernel can't interrupt.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Identifies an attempt: requests with equal keys share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum AttemptKey {
    /// Building a derivation.
    Build(StorePath, BuildMode),
    /// Substituting an item; `repair` replaces a damaged one.
    Substitution { path: StorePath, repair: bool },
    /// Receiving an item that can't be registered yet.
    Prefetch(StorePath),
}

/// How an item would be fetched otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alternative {
    /// Not at all, or nothing is fetched.
    None,
    /// There are other servers, for when the one that is asked now fails.
    Later,
    /// Another server would be asked now.
    Elsewhere,
}

/// A request's goal that shares an attempt.
pub(super) struct Subscriber {
    pub(super) queue: Arc<EventQueue>,
    pub(super) goal: GoalId,
    /// Whether the request started the attempt, which then uses its settings.
    pub(super) is_starter: bool,
}

#[derive(Default)]
struct State {
    subscribers: Vec<Subscriber>,
    /// Goals that wanted to join while the attempt was being stopped.
    late: Vec<(Arc<EventQueue>, GoalId)>,
    history: VecDeque<LogRecord>,
    history_size: usize,
    ended: bool,
    /// Whether it is ended in favour of another attempt.
    makes_way: bool,
    /// Where it fetches an item from.
    servers: Vec<Arc<Server>>,
    notes: Notes,
}

/// What is noted of an attempt besides its outcome.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    /// How long it has waited for a build user.
    pub(super) waited: Duration,
    /// Why it failed.
    pub(super) reason: Option<String>,
}

/// One attempt in progress.
pub(super) struct Attempt {
    key: AttemptKey,
    state: Mutex<State>,
    ended: Condvar,
    /// Notified when a reason to pause may have gone.
    resumed: Arc<EventCount>,
    cancel: CancellationToken,
    /// When something was received last.
    activity: Arc<Activity>,
    stage: StageClock,
}

impl Attempt {
    /// An attempt that `starter` is about to start.
    pub(super) fn new(key: AttemptKey, starter: Subscriber) -> Attempt {
        let stage = match key {
            AttemptKey::Build(..) => Stage::Begun,
            AttemptKey::Substitution { .. } | AttemptKey::Prefetch(_) => Stage::Fetch,
        };
        Attempt {
            key,
            stage: StageClock::new(stage),
            state: Mutex::new(State {
                subscribers: vec![starter],
                ..State::default()
            }),
            ended: Condvar::new(),
            resumed: Arc::default(),
            cancel: CancellationToken::new(),
            activity: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What is being built or substituted.
    pub(super) fn key(&self) -> &AttemptKey {
        &self.key
    }

    /// Cancelled when no request shares the attempt any more.
    pub(super) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// When something was received last, of an item that is fetched.
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// How far it has come.
    pub(super) fn stage(&self) -> &StageClock {
        &self.stage
    }

    /// An item is fetched from these servers; none, once it is here.
    pub(super) fn fetches_from(&self, servers: &[Arc<Server>]) {
        self.state().servers = servers.to_vec();
    }

    /// What somebody would do better who would ask these servers, `first` before the others.
    pub(super) fn alternative(
        &self,
        first: Option<&Arc<Server>>,
        servers: &[Arc<Server>],
    ) -> Alternative {
        let now = self.activity.server();
        let state = self.state();
        let is_other = |server| !state.servers.contains(server);
        if state.servers.is_empty() {
            Alternative::None
        } else if now.is_some() && first.is_some() && now.as_ref() != first {
            Alternative::Elsewhere
        } else if servers.iter().any(is_other) {
            Alternative::Later
        } else {
            Alternative::None
        }
    }

    /// Whether the request that has started it still wants it.
    pub(super) fn has_starter(&self) -> bool {
        (self.state().subscribers.iter()).any(|one| one.is_starter)
    }

    /// Sends a record to every request that shares the attempt, now or later.
    pub(super) fn log(&self, record: LogRecord) {
        let mut state = self.state();
        state.history_size += record.size();
        state.history.push_back(record.clone());
        while state.history_size > HISTORY {
            match state.history.pop_front() {
                Some(old) => state.history_size -= old.size(),
                None => break,
            }
        }
        for subscriber in &state.subscribers {
            subscriber.queue.push(Event::Log(record.clone()));
        }
    }

    /// Logs a message.
    pub(super) fn message(&self, level: Level, text: impl Into<String>) {
        self.log(LogRecord::Message(level, text.into()));
    }

    /// Logs a trace line.
    pub(super) fn trace(&self, trace: Trace<'_>) {
        self.log(LogRecord::Trace(trace.to_string()));
    }

    /// Notes that it has waited for a build user.
    pub(super) fn has_waited(&self, time: Duration) {
        self.state().notes.waited += time;
    }

    /// Notes why it fails.
    pub(super) fn fails(&self, reason: &str) {
        self.state().notes.reason = Some(reason.to_owned());
    }

    /// What was noted.
    pub(super) fn notes(&self) -> Notes {
        self.state().notes.clone()
    }

    /// Waits until at least one request has room for more output, the attempt is cancelled, or
    /// `deadline` has passed, which is asked for only if there is no room. A builder is paused if
    /// nobody reads its log, but a slow reader does not pause it for others.
    pub(super) fn wait_for_room(&self, deadline: impl Fn() -> Option<Instant>) {
        let mut end = None;
        loop {
            let key = self.resumed.key();
            if self.cancel.is_cancelled() {
                return;
            }
            {
                let state = self.state();
                let mut queues = state.subscribers.iter().map(|one| &one.queue);
                if state.subscribers.is_empty()
                    || queues.any(|queue| queue.has_room_or_notify(&self.resumed))
                {
                    return;
                }
            }
            let end = *end.get_or_insert_with(&deadline);
            if end.is_some_and(|end| Instant::now() >= end) {
                return;
            }
            self.resumed.wait(key, end);
        }
    }

    /// Adds a request, which gets the log so far. Returns false if the attempt is being stopped:
    /// the request is notified when it has ended.
    pub(super) fn join(&self, subscriber: Subscriber) -> bool {
        let mut state = self.state();
        if self.cancel.is_cancelled() || state.ended {
            state.late.push((subscriber.queue, subscriber.goal));
            return false;
        }
        for record in &state.history {
            subscriber.queue.push(Event::Log(record.clone()));
        }
        state.subscribers.push(subscriber);
        self.resumed.notify();
        true
    }

    /// Removes a request. The last one cancels the attempt, and waits for its end.
    pub(super) fn leave(&self, queue: &Arc<EventQueue>, goal: GoalId) {
        let is_me = |other: &Subscriber| other.goal == goal && Arc::ptr_eq(&other.queue, queue);
        let mut state = self.state();
        if state.ended || !state.subscribers.iter().any(is_me) {
            return;
        }
        if state.subscribers.len() > 1 {
            state.subscribers.retain(|other| !is_me(other));
            // Those that remain may have room.
            self.resumed.notify();
            return;
        }
        self.cancel.cancel();
        self.resumed.notify();
        let deadline = Instant::now() + STOP_TIMEOUT;
        while !state.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.subscribers.clear();
                return;
            }
            state = self.ended.wait_timeout(state, left);
        }
    }

    /// Ends the attempt so that a goal that shares it can start another one, and the other requests wait
    /// for that. `false` if it has ended already.
    pub(super) fn make_way(&self, queue: &Arc<EventQueue>, goal: GoalId) -> bool {
        let mut state = self.state();
        if state.ended {
            return false;
        }
        let is_me = |other: &Subscriber| other.goal == goal && Arc::ptr_eq(&other.queue, queue);
        state.subscribers.retain(|other| !is_me(other));
        state.late.push((queue.clone(), goal));
        state.makes_way = true;
        drop(state);
        self.cancel.cancel();
        self.resumed.notify();
        true
    }

    /// Whether it is ended in favour of another one.
    pub(super) fn makes_way(&self) -> bool {
        self.state().makes_way
    }

    /// Notifies every request of the outcome. Those that did not start the attempt try again if the
    /// outcome may be due to the settings of the one that did. Returns the outcome if there is no
    /// request. Otherwise only the requests have it: whatever it holds is theirs to drop.
    pub(super) fn end(&self, outcome: Outcome) -> Option<Outcome> {
        let mut state = self.state();
        state.ended = true;
        let subscribers = std::mem::take(&mut state.subscribers);
        let is_cut_off = state.makes_way && outcome.depends_on_settings();
        let event = |subscriber: &Subscriber| Event::AttemptEnded {
            goal: subscriber.goal,
            outcome: match !is_cut_off && subscriber.is_starter || !outcome.depends_on_settings() {
                true => outcome.clone(),
                false => Outcome::Locked,
            },
        };
        let events: Vec<Event> = subscribers.iter().map(event).collect();
        let unwanted = events.is_empty().then_some(outcome);
        for (subscriber, event) in subscribers.iter().zip(events) {
            subscriber.queue.push(event);
        }
        for (queue, goal) in state.late.drain(..) {
            queue.push(Event::StoppedAttemptEnded { goal });
        }
        self.ended.notify_all();
        unwanted
    }
}

/// Long operations of the store report to every request, and stop with the attempt.
impl Progress for Attempt {
    fn message(&self, level: Level, text: &str) {
        Attempt::message(self, level, text);
    }

    fn interrupted(&self) -> bool {
        self.cancel.is_cancelled()
    }
}
