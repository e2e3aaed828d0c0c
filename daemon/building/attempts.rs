//! The attempts in progress, of all requests.
//!
//! If two clients request the same derivation (or the same item to substitute) at the same time, it
//! is built once. The first request starts the attempt, later ones join it: they get its log so far
//! (as far as it is kept), everything that follows, and the outcome. When the last one has left,
//! the attempt is cancelled. Limits (`max-jobs`, timeouts, whether a failed build's directory is
//! kept) are those of the request that started it; if it fails because of them, the others try
//! again with theirs. Of items that are fetched, the others watch their own limits, too, and may try
//! their own servers (`joined`).

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use substitutes::Server;
use system::sync::{Mutex, MutexGuard};

use super::attempt::{Alternative, Attempt, AttemptKey, Subscriber};
use super::event_queue::{Event, EventQueue};
use super::goal::GoalId;
use super::outcome::Outcome;
use super::stage::Stage;
use super::turns::{Postponed, Turn, Turns};
use crate::shared_limit::ClientKey;

/// A request's share of an attempt; leaves it on drop.
pub(super) struct Participation {
    attempt: Arc<Attempt>,
    queue: Arc<EventQueue>,
    goal: GoalId,
    is_starter: bool,
    since: Instant,
    /// Since when bytes are counted, and how many there were.
    counted: Cell<(Instant, u64)>,
}

impl Participation {
    fn new(
        attempt: &Arc<Attempt>,
        queue: &Arc<EventQueue>,
        goal: GoalId,
        is_starter: bool,
    ) -> Participation {
        Participation {
            attempt: attempt.clone(),
            queue: queue.clone(),
            goal,
            is_starter,
            since: Instant::now(),
            counted: Cell::new((Instant::now(), attempt.activity().received())),
        }
    }

    /// Whether the request started the attempt.
    pub(super) fn is_starter(&self) -> bool {
        self.is_starter
    }

    /// For how long the request has shared the attempt.
    pub(super) fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    /// For how long nothing has happened, since the request shares the attempt.
    pub(super) fn silence(&self) -> Duration {
        self.waited().min(self.attempt.activity().silence())
    }

    /// How many bytes have arrived in the last `period`, once it is over; how much of it is left until
    /// then.
    pub(super) fn received_in(&self, period: Duration) -> Result<u64, Duration> {
        let (since, before) = self.counted.get();
        let left = period.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Err(left);
        }
        let received = self.attempt.activity().received();
        self.counted.set((Instant::now(), received));
        Ok(received.saturating_sub(before))
    }

    /// How these servers, of which `first` comes first, would be better than those of the attempt.
    pub(super) fn alternative(
        &self,
        first: Option<&Arc<Server>>,
        servers: &[Arc<Server>],
    ) -> Alternative {
        self.attempt.alternative(first, servers)
    }

    /// How far the attempt has come, and for how long it has been there.
    pub(super) fn stage(&self) -> (Stage, Duration) {
        self.attempt.stage().now()
    }

    /// Whether the request that has started the attempt still shares it.
    pub(super) fn has_starter(&self) -> bool {
        self.attempt.has_starter()
    }

    /// Ends the attempt in favour of another one, which the goal can start when it has ended
    /// ([`Event::StoppedAttemptEnded`]). The other requests wait for that one. `false` if it has ended
    /// already.
    pub(super) fn end_attempt(&self) -> bool {
        self.attempt.make_way(&self.queue, self.goal)
    }
}

impl Drop for Participation {
    fn drop(&mut self) {
        self.attempt.leave(&self.queue, self.goal);
    }
}

/// The result of [`Attempts::join`].
pub(super) enum Joined {
    /// The attempt is in progress; the caller gets its events.
    Existing(Participation),
    /// The caller is the first, and has to start it.
    New(Participation, Arc<Attempt>),
    /// The attempt is being stopped: [`Event::StoppedAttemptEnded`] reports when to try again.
    Stopping,
}

/// The table of attempts.
#[derive(Default)]
pub(super) struct Attempts {
    running: Mutex<HashMap<AttemptKey, Arc<Attempt>>>,
    /// The requests in progress, which are notified of every build that ends.
    requests: Mutex<Vec<Listener>>,
    /// Whose turn it is then.
    turns: Arc<Turns>,
}

/// A request that is notified of builds that end.
struct Listener {
    queue: Weak<EventQueue>,
    client: ClientKey,
    postponed: Arc<Postponed>,
}

impl Attempts {
    fn running(&self) -> MutexGuard<'_, HashMap<AttemptKey, Arc<Attempt>>> {
        self.running.lock()
    }

    /// Sends [`Event::BuildEnded`] to `queue` for every build that ends, for as long as the queue
    /// exists; with a turn to ask the hook, if it has postponed builds.
    pub(super) fn register(
        &self,
        queue: &Arc<EventQueue>,
        client: ClientKey,
        postponed: &Arc<Postponed>,
    ) {
        let mut requests = self.requests.lock();
        requests.retain(|other| other.queue.strong_count() > 0);
        requests.push(Listener {
            queue: Arc::downgrade(queue),
            client,
            postponed: postponed.clone(),
        });
    }

    /// Whose turn it is to ask the hook.
    pub(super) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Joins the attempt at `key` if there is one that can be joined.
    pub(super) fn join_existing(
        &self,
        key: &AttemptKey,
        queue: &Arc<EventQueue>,
        goal: GoalId,
    ) -> Option<Participation> {
        let running = self.running();
        let attempt = running
            .get(key)
            .filter(|one| !one.cancel().is_cancelled())?;
        let joined = attempt.join(Subscriber {
            queue: queue.clone(),
            goal,
            is_starter: false,
        });
        joined.then(|| Participation::new(attempt, queue, goal, false))
    }

    /// Joins the attempt at `key`, or creates one for the caller to start.
    pub(super) fn join(&self, key: AttemptKey, queue: &Arc<EventQueue>, goal: GoalId) -> Joined {
        let mut running = self.running();
        let subscriber = |is_starter| Subscriber {
            queue: queue.clone(),
            goal,
            is_starter,
        };
        if let Some(attempt) = running.get(&key) {
            return match attempt.join(subscriber(false)) {
                true => Joined::Existing(Participation::new(attempt, queue, goal, false)),
                false => Joined::Stopping,
            };
        }
        let attempt = Arc::new(Attempt::new(key.clone(), subscriber(true)));
        running.insert(key, attempt.clone());
        let participation = Participation::new(&attempt, queue, goal, true);
        Joined::New(participation, attempt)
    }

    /// Ends an attempt, and notifies its requests.
    pub(super) fn end(&self, attempt: &Attempt, outcome: Outcome) {
        // If it makes way, the one for which it does comes next.
        let is_final = outcome.is_final() && !attempt.makes_way();
        // Turns are given before its own requests can go on.
        let notified = match is_final {
            true => self.give_turns(),
            false => Vec::new(),
        };
        let mut running = self.running();
        running.remove(attempt.key());
        let unwanted = attempt.end(outcome);
        drop(running);
        // That may take long.
        drop(unwanted);
        for (queue, turn) in notified {
            queue.push(Event::BuildEnded(turn));
        }
    }

    /// All requests, with their turns.
    fn give_turns(&self) -> Vec<(Arc<EventQueue>, Option<Turn>)> {
        let requests = self.requests.lock();
        let alive = requests
            .iter()
            .filter_map(|one| Some((one.queue.upgrade()?, one)));
        let with_turn =
            alive.map(|(queue, one)| (queue, self.turns.give(one.client, &one.postponed)));
        with_turn.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::building::goal::BuildId;
    use crate::building::joined::{Due, due};
    use crate::building::log_sink::LogRecord;
    use crate::building::outcome::Failure;
    use crate::settings::SessionSettings;
    use protocol::operations::BuildMode;
    use store::Level;

    fn key(name: &str) -> AttemptKey {
        let store = formats::store_path::StoreDir::new("/gnu/store").expect("store");
        let path = store
            .parse(format!("/gnu/store/{}-{name}", "a".repeat(32)).as_str())
            .expect("path");
        AttemptKey::Build(path, BuildMode::Normal)
    }

    fn goal(number: usize) -> GoalId {
        GoalId::Build(BuildId::numbered(number))
    }

    #[test]
    fn two_requests_share_an_attempt_and_the_second_gets_the_log_so_far() {
        let attempts = Attempts::default();
        let (first, second) = (
            Arc::new(EventQueue::default()),
            Arc::new(EventQueue::default()),
        );
        let Joined::New(_one, attempt) = attempts.join(key("x.drv"), &first, goal(7)) else {
            panic!("not new")
        };
        attempt.message(Level::Error, "hello");
        let Joined::Existing(_two) = attempts.join(key("x.drv"), &second, goal(9)) else {
            panic!("not shared")
        };
        attempts.end(&attempt, Outcome::Done);
        for (queue, id) in [(first, goal(7)), (second, goal(9))] {
            assert!(
                matches!(queue.poll(), Some(Event::Log(LogRecord::Message(_, text))) if text == "hello")
            );
            assert!(
                matches!(queue.poll(), Some(Event::AttemptEnded { goal, outcome: Outcome::Done }) if goal == id)
            );
        }
    }

    #[test]
    fn a_fetch_is_taken_over_when_it_is_slow_or_its_starter_has_left() {
        let attempts = Attempts::default();
        let queue = Arc::new(EventQueue::default());
        let Joined::New(one, attempt) = attempts.join(key("x"), &queue, goal(1)) else {
            panic!("not new")
        };
        let Joined::Existing(two) = attempts.join(key("x"), &queue, goal(2)) else {
            panic!("not shared")
        };
        let servers = ["http://slow.example", "http://own.example"];
        let servers = servers.map(|url| Arc::new(Server::new(url).unwrap()));
        let own = || two.alternative(Some(&servers[1]), &servers[1..]);
        assert_eq!(own(), Alternative::None);
        // Whatever the starter lists besides, it is the server that delivers which counts.
        attempt.fetches_from(&servers);
        attempt.activity().note_server(&servers[0]);
        assert_eq!(own(), Alternative::Elsewhere);
        let same = two.alternative(Some(&servers[0]), &servers);
        assert_eq!(same, Alternative::None);
        let settings = SessionSettings::initial();
        let is_due = || matches!(due(&two, &settings, own()), Due::TakeOver);
        assert!(!is_due());
        let pass = |bytes| {
            let (since, before) = two.counted.get();
            two.counted.set((since - Duration::from_secs(10), before));
            attempt.activity().note_received(bytes);
        };
        pass(1 << 20);
        assert!(!is_due());
        pass(2000);
        assert!(is_due());
        assert!(!is_due());
        drop(one);
        assert!(is_due());
        attempt.activity().note_server(&servers[1]);
        assert!(!is_due());
        attempts.end(&attempt, Outcome::Done);
    }

    #[test]
    fn the_last_to_leave_stops_the_attempt() {
        let attempts = Arc::new(Attempts::default());
        let queue = Arc::new(EventQueue::default());
        let Joined::New(one, attempt) = attempts.join(key("x.drv"), &queue, goal(1)) else {
            panic!("not new")
        };
        let Joined::Existing(two) = attempts.join(key("x.drv"), &queue, goal(2)) else {
            panic!("not shared")
        };
        let late = Arc::new(EventQueue::default());
        drop(one);
        assert!(!attempt.cancel().is_cancelled());
        let builder = std::thread::spawn({
            let (attempts, attempt, late) = (attempts.clone(), attempt.clone(), late.clone());
            move || {
                while !attempt.cancel().is_cancelled() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                assert!(matches!(
                    attempts.join(key("x.drv"), &late, goal(3)),
                    Joined::Stopping
                ));
                attempts.end(&attempt, Outcome::Failed(Failure::Misc));
            }
        });
        drop(two);
        builder.join().expect("builder");
        assert!(attempts.running().is_empty());
        // A request that came while it was being stopped is told when to try again.
        assert!(
            matches!(late.poll(), Some(Event::StoppedAttemptEnded { goal: one }) if one == goal(3))
        );
    }

    #[test]
    fn a_paused_attempt_goes_on_when_a_request_reads_or_all_have_left() {
        let attempts = Attempts::default();
        let queue = Arc::new(EventQueue::default());
        let Joined::New(one, attempt) = attempts.join(key("x.drv"), &queue, goal(1)) else {
            panic!("not new")
        };
        let fill = || {
            attempt.log(LogRecord::BuildOutput {
                pid: 1,
                data: vec![b'x'; 1 << 20].into(),
            });
        };
        let pause = || {
            let attempt = attempt.clone();
            std::thread::spawn(move || attempt.wait_for_room(|| None))
        };
        fill();
        let paused = pause();
        std::thread::sleep(Duration::from_millis(20));
        assert!(!paused.is_finished());
        while queue.poll().is_some() {}
        paused.join().expect("paused");
        fill();
        let paused = pause();
        let builder = std::thread::spawn({
            let attempt = attempt.clone();
            move || {
                paused.join().expect("paused");
                attempt.end(Outcome::Failed(Failure::Misc));
            }
        });
        drop(one);
        builder.join().expect("builder");
    }
}
