//! The requests in progress, for those who ask what they do.
//!
//! Nothing is written down as long as nobody asks. A request that is asked answers from its own
//! thread, between two steps; one that doesn't is busy, and isn't asked again before it has answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use farm::status::{self, Room};
use protocol::operations::Target;
use system::sync::Mutex;

use super::event_queue::{Event, EventQueue};
use super::request::ClientIdentity;
use super::status_question::StatusQuestion;

/// How long busy requests are waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// All requests in progress.
#[derive(Default)]
pub(super) struct Requests(Mutex<State>);

#[derive(Default)]
struct State {
    last: u64,
    running: BTreeMap<u64, Arc<Entry>>,
}

/// What is known of a request without asking it.
struct Entry {
    number: u64,
    client: ClientIdentity,
    begun: Instant,
    targets: Vec<String>,
    unlisted_targets: u64,
    queue: Arc<EventQueue>,
    /// Whether it has been asked, and hasn't answered yet.
    is_asked: Arc<AtomicBool>,
}

impl Entry {
    /// What is known of it, and the room that is left for its own answer.
    fn unanswered(&self, time: u64, mut room: Room) -> (status::Request, Room) {
        let targets = self.targets.iter();
        let targets = room.fill(4, targets, |target| status::text_size(target));
        let request = status::Request {
            number: self.number,
            client: status::Client {
                uid: self.client.uid,
                address: self.client.address.map(|address| address.to_string()),
            },
            since: time.saturating_sub(self.begun.elapsed().as_secs()),
            unlisted_targets: self.unlisted_targets + (self.targets.len() - targets.len()) as u64,
            targets: targets.into_iter().cloned().collect(),
            ..status::Request::default()
        };
        (request, room)
    }
}

/// A request's place; it is left on drop.
pub(super) struct Registration<'a> {
    requests: &'a Requests,
    /// The request's number.
    number: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.requests.0.lock().running.remove(&self.number);
    }
}

/// What requests have told.
pub(super) struct Asked {
    /// The requests.
    pub(super) requests: Vec<status::Request>,
    /// How many more there are.
    pub(super) unlisted: u64,
    /// How long they were waited for.
    pub(super) waited: Duration,
}

impl Requests {
    /// Registers a request. `queue` gets [`Event::StatusAsked`].
    pub(super) fn register(
        &self,
        client: ClientIdentity,
        targets: &[Target],
        queue: &Arc<EventQueue>,
    ) -> Registration<'_> {
        let shown = targets.iter().take(status::TARGETS_SHOWN);
        let targets_shown: Vec<String> = shown.map(|target| target.path.to_string()).collect();
        let mut state = self.0.lock();
        state.last += 1;
        let number = state.last;
        let entry = Entry {
            number,
            client,
            begun: Instant::now(),
            unlisted_targets: (targets.len() - targets_shown.len()) as u64,
            targets: targets_shown,
            queue: queue.clone(),
            is_asked: Arc::default(),
        };
        state.running.insert(number, Arc::new(entry));
        Registration {
            requests: self,
            number,
        }
    }

    /// Asks all requests what they do, the oldest first; and says how many weren't asked because there
    /// are so many, and for how long busy ones were waited for.
    pub(super) fn ask(&self, time: u64) -> Asked {
        let running: Vec<Arc<Entry>> = self.0.lock().running.values().cloned().collect();
        let unlisted = running.len().saturating_sub(status::REQUESTS_SHOWN);
        let asked = &running[..running.len() - unlisted];
        let room = Room::of_each_request(asked.len());
        let (sender, answers) = channel();
        for entry in asked {
            if !entry.is_asked.swap(true, Ordering::AcqRel) {
                let (_, room) = entry.unanswered(time, room);
                let question =
                    StatusQuestion::new(entry.number, room, sender.clone(), entry.is_asked.clone());
                entry.queue.push(Event::StatusAsked(question));
            }
        }
        drop(sender);
        let begun = Instant::now();
        let deadline = begun + PATIENCE;
        let mut told = BTreeMap::new();
        // It ends when all have answered or ended, too.
        while let Ok((number, request)) =
            answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            told.insert(number, request);
        }
        let waited = begun.elapsed();
        let requests = asked.iter().map(|entry| {
            let (base, _) = entry.unanswered(time, room);
            match told.remove(&entry.number) {
                None => base,
                Some(told) => status::Request {
                    number: base.number,
                    client: base.client,
                    since: base.since,
                    targets: base.targets,
                    unlisted_targets: base.unlisted_targets,
                    answered: true,
                    ..*told
                },
            }
        });
        Asked {
            requests: requests.collect(),
            unlisted: unlisted as u64,
            waited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_does_not_answer_is_told_of_and_not_asked_again() {
        let requests = Requests::default();
        let queues: [Arc<EventQueue>; 2] = Default::default();
        let client = ClientIdentity {
            uid: Some(7),
            ..ClientIdentity::default()
        };
        let _busy = requests.register(client, &[], &queues[0]);
        let ready = requests.register(client, &[], &queues[1]);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let Some(Event::StatusAsked(question)) = queues[1].wait(None) else {
                    panic!("not asked");
                };
                question.answer(status::Request {
                    done: 5,
                    ..status::Request::default()
                });
            });
            let Asked {
                requests: told,
                unlisted,
                ..
            } = requests.ask(1000);
            let answers: Vec<_> = told.iter().map(|one| (one.number, one.answered)).collect();
            assert_eq!((answers, unlisted), (vec![(1, false), (2, true)], 0));
            assert_eq!((told[1].done, told[1].client.uid), (5, Some(7)));
        });
        drop(ready);
        assert_eq!(requests.ask(1000).requests.len(), 1);
        assert!(matches!(queues[0].poll(), Some(Event::StatusAsked(_))));
        assert!(queues[0].poll().is_none(), "it was asked twice");
        // What it was asked is forgotten: it can be asked again.
        requests.ask(1000);
        assert!(queues[0].has_events());
    }

    #[test]
    fn however_many_requests_there_are_the_answer_is_bounded() {
        let store = formats::StoreDir::new("/gnu/store").expect("a store");
        let name = format!("/gnu/store/{}-{}", "a".repeat(32), "x".repeat(200));
        let target: Target = store.parse(name.as_str()).expect("a path").into();
        let targets = vec![target; status::TARGETS_SHOWN];
        let requests = Requests::default();
        let queue: Arc<EventQueue> = Arc::default();
        let client = ClientIdentity::default();
        let registered: Vec<_> = (0..status::REQUESTS_SHOWN + 5)
            .map(|_| requests.register(client, &targets, &queue))
            .collect();
        // Those that were asked before aren't waited for.
        for entry in requests.0.lock().running.values() {
            entry.is_asked.store(true, Ordering::Release);
        }
        let asked = requests.ask(1000);
        assert_eq!(asked.unlisted, 5);
        for request in &asked.requests {
            let all = request.targets.len() as u64 + request.unlisted_targets;
            assert_eq!(all, targets.len() as u64);
            assert!(!request.targets.is_empty());
        }
        let text = serde_json::to_string(&asked.requests).expect("JSON");
        assert!(text.len() < status::MOST_BYTES / 2, "{}", text.len());
        drop(registered);
    }
}
