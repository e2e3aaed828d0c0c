//! The items that are fetched: how many at once, and whose.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use substitutes::network::{RequestId, Requester, Shares, User};

use super::address;
use super::capacity::Capacity;
use super::engine::{Ended, Engine};
use super::job::{Job, Tools};
use super::load::Load;
use super::notes::{Note, What};
use super::queue::FairQueue;

/// How many are fetched at once from one server.
const PER_SERVER: Shares = Shares {
    per_user: 24,
    in_all: 24,
    assured: 4,
    most: 48,
};
/// How many are fetched at once.
const IN_ALL: Shares = Shares {
    per_user: 48,
    in_all: 64,
    assured: 8,
    most: 128,
};

/// The requests for items.
pub struct Fetches {
    all: HashMap<RequestId, Entry>,
    waiting: FairQueue<RequestId>,
    running: HashSet<RequestId>,
    load: Load,
}

struct Entry {
    job: Job,
    user: User,
    /// The first server.
    server: String,
}

impl Fetches {
    /// None yet. At most `most` of them run at once.
    pub fn new(most: u64) -> Fetches {
        Fetches {
            all: HashMap::new(),
            waiting: FairQueue::new(),
            running: HashSet::new(),
            load: Load::new(
                Capacity::shares(most, PER_SERVER),
                Capacity::shares(most, IN_ALL),
            ),
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Takes a request. `first` is the URL of the first source, if it has one.
    pub fn add(&mut self, requester: Requester, id: RequestId, job: Job, first: Option<&str>) {
        // If it is no address at all, the job will say so when its turn comes.
        let server = first.map(|url| address::server(url).unwrap_or_default());
        let server = server.unwrap_or_else(|| "file:".to_owned());
        self.waiting.push(requester, &server, id);
        let user = requester.user;
        self.all.insert(id, Entry { job, user, server });
    }

    /// Gives up a request; does nothing if it isn't one of these.
    pub fn cancel(&mut self, id: RequestId, engine: &mut Engine) {
        let Some(mut entry) = self.all.remove(&id) else {
            return;
        };
        entry.job.cancel(engine);
        match self.running.remove(&id) {
            true => self.load.remove(entry.user, &entry.server),
            false => self.waiting.retain(|waiting| *waiting != id),
        }
    }

    /// Starts as many as may run, and looks after those that run. Returns when this is to be called
    /// again at the latest.
    pub fn tend(&mut self, tools: &mut Tools<'_>) -> Option<Instant> {
        while let Some(id) = (self.waiting).pop(|user, server| self.load.has_room(user, server)) {
            let Some(entry) = self.all.get_mut(&id) else {
                continue;
            };
            self.load.add(entry.user, &entry.server);
            self.running.insert(id);
            entry.job.begin(tools);
            self.settle(id);
        }
        let running: Vec<RequestId> = self.running.iter().copied().collect();
        let times = running.into_iter().filter_map(|id| {
            let time = self.all.get_mut(&id)?.job.tend(tools);
            self.settle(id);
            time
        });
        times.min()
    }

    /// Forgets a request that has ended.
    fn settle(&mut self, id: RequestId) {
        if self.all.get(&id).is_some_and(|entry| entry.job.has_ended()) {
            if let Some(entry) = self.all.remove(&id) {
                self.load.remove(entry.user, &entry.server);
                self.running.remove(&id);
            }
        }
    }

    /// Takes a transfer that has ended.
    pub fn take(&mut self, ended: Ended, tools: &mut Tools<'_>) {
        let own = |(_, entry): &(_, &mut Entry)| entry.job.transfer() == Some(ended.token);
        if let Some((id, entry)) = self.all.iter_mut().find(own) {
            let id = *id;
            entry.job.transfer_ended(ended, tools);
            self.settle(id);
        }
    }

    /// Takes a note of a decoder.
    pub fn note(&mut self, note: Note, tools: &mut Tools<'_>) {
        let Some(entry) = self.all.get_mut(&note.request) else {
            return;
        };
        match note.what {
            What::Room => entry.job.has_room(note.decoder, tools.engine),
            What::Ended(outcome) => entry.job.decoder_ended(note.decoder, outcome, tools),
        }
        self.settle(note.request);
    }
}
