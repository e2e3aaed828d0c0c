//! The requests in progress, for those who ask what they do.
//!
//! Nothing is written down as long as nobody asks. A request that is asked answers from its own
//! thread, between two steps; one that doesn't is busy, and isn't asked again before it has answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use farm::status;
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
    fn unanswered(&self, time: u64) -> status::Request {
        status::Request {
            number: self.number,
            client: status::Client {
                uid: self.client.uid,
                address: self.client.address.map(|address| address.to_string()),
            },
            since: time.saturating_sub(self.begun.elapsed().as_secs()),
            targets: self.targets.clone(),
            unlisted_targets: self.unlisted_targets,
            ..status::Request::default()
        }
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
    /// are so many.
    pub(super) fn ask(&self, time: u64) -> (Vec<status::Request>, u64) {
        let running: Vec<Arc<Entry>> = self.0.lock().running.values().cloned().collect();
        let unlisted = running.len().saturating_sub(status::REQUESTS_SHOWN);
        let asked = &running[..running.len() - unlisted];
        let (sender, answers) = channel();
        for entry in asked {
            if !entry.is_asked.swap(true, Ordering::AcqRel) {
                let question =
                    StatusQuestion::new(entry.number, sender.clone(), entry.is_asked.clone());
                entry.queue.push(Event::StatusAsked(question));
            }
        }
        drop(sender);
        let deadline = Instant::now() + PATIENCE;
        let mut told = BTreeMap::new();
        // It ends when all have answered or ended, too.
        while let Ok((number, request)) =
            answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            told.insert(number, request);
        }
        let requests = asked.iter().map(|entry| {
            let base = entry.unanswered(time);
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
        (requests.collect(), unlisted as u64)
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
            let (told, unlisted) = requests.ask(1000);
            let answers: Vec<_> = told.iter().map(|one| (one.number, one.answered)).collect();
            assert_eq!((answers, unlisted), (vec![(1, false), (2, true)], 0));
            assert_eq!((told[1].done, told[1].client.uid), (5, Some(7)));
        });
        drop(ready);
        assert_eq!(requests.ask(1000).0.len(), 1);
        assert!(matches!(queues[0].poll(), Some(Event::StatusAsked(_))));
        assert!(queues[0].poll().is_none(), "it was asked twice");
        // What it was asked is forgotten: it can be asked again.
        requests.ask(1000);
        assert!(queues[0].has_events());
    }
}
