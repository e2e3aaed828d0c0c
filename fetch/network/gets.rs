//! Small bodies: narinfos, mostly. Many of them at once, since each is a round trip.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use substitutes::network::{ErrorKind, Event, NetworkError, RequestId, Requester, Shares, is_busy};

use super::address::server;
use super::capacity::Capacity;
use super::engine::{Ended, Engine, Token};
use super::link::Link;
use super::load::Load;
use super::queue::FairQueue;
use super::rests::{MAX_ATTEMPTS, Rests};
use super::transfer::{Patience, Sink, described, failure, has_answer, prepare, redirection};

/// How many of them run at once for one server: as many connections where it has HTTP/1.1 only. With
/// 20 ms to a server, 2,000 of them take 0.7 s.
const PER_SERVER: Shares = Shares {
    per_user: 64,
    in_all: 64,
    assured: 8,
    most: 128,
};
/// How many run at once.
const IN_ALL: Shares = Shares {
    per_user: 192,
    in_all: 256,
    assured: 16,
    most: 384,
};

/// The requests for small bodies.
pub struct Gets {
    all: HashMap<RequestId, Get>,
    waiting: FairQueue<RequestId>,
    running: HashMap<Token, RequestId>,
    load: Load,
    rests: Rests,
}

/// One of them.
pub struct Get {
    pub url: String,
    pub limit: u64,
    pub patience: Duration,
    requester: Requester,
    server: String,
    redirections: u32,
    attempts: u32,
    /// When it was first asked for.
    begun: Option<Instant>,
    token: Option<Token>,
}

impl Get {
    pub fn new(requester: Requester, url: String, limit: u64, patience: Duration) -> Get {
        Get {
            url,
            limit,
            patience,
            requester,
            server: String::new(),
            redirections: 0,
            attempts: 0,
            begun: None,
            token: None,
        }
    }

    /// Whether it may be asked for once more if the server was busy.
    fn may_be_repeated(&self) -> bool {
        let is_recent = |begun: Instant| begun.elapsed() < self.patience;
        self.attempts < MAX_ATTEMPTS && self.begun.is_none_or(is_recent)
    }
}

impl Gets {
    /// None yet. At most `most` of them run at once.
    pub fn new(most: u64) -> Gets {
        Gets {
            all: HashMap::new(),
            waiting: FairQueue::new(),
            running: HashMap::new(),
            load: Load::new(
                Capacity::shares(most, PER_SERVER),
                Capacity::shares(most, IN_ALL),
            ),
            rests: Rests::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Takes a request.
    pub fn add(&mut self, id: RequestId, mut get: Get, link: &mut Link) {
        match server(&get.url) {
            Ok(server) => {
                if !self.rests.may_ask(&server, Instant::now()) {
                    link.reply(id, Event::Busy);
                }
                self.waiting.push(get.requester, &server, id);
                get.server = server;
                self.all.insert(id, get);
            }
            Err(error) => link.reply(id, Event::Failed(error)),
        }
    }

    /// Gives up a request; `false` if it isn't one of these.
    pub fn cancel(&mut self, id: RequestId, engine: &mut Engine) -> bool {
        let Some(get) = self.all.remove(&id) else {
            return false;
        };
        match get.token {
            Some(token) => {
                engine.stop(token);
                self.running.remove(&token);
                self.load.remove(get.requester.user, &get.server);
            }
            None => self.waiting.retain(|waiting| *waiting != id),
        }
        true
    }

    /// Starts as many as may run. Returns when this is to be called again at the latest.
    pub fn start(&mut self, engine: &mut Engine, link: &mut Link) -> Option<Instant> {
        let now = Instant::now();
        while !link.is_busy() {
            let may_ask = |user, server: &str| {
                self.load.has_room(user, server) && self.rests.may_ask(server, now)
            };
            let Some(id) = self.waiting.pop(may_ask) else {
                break;
            };
            let Some(get) = self.all.get_mut(&id) else {
                continue;
            };
            get.attempts += 1;
            get.begun.get_or_insert(now);
            self.load.add(get.requester.user, &get.server);
            self.transfer(id, engine, link);
        }
        self.rests.next_end(now)
    }

    fn transfer(&mut self, id: RequestId, engine: &mut Engine, link: &mut Link) {
        let Some(get) = self.all.get_mut(&id) else {
            return;
        };
        let sink = Sink::Memory {
            limit: usize::try_from(get.limit).unwrap_or(usize::MAX),
            body: Vec::new(),
        };
        match engine.start(prepare(&get.url, sink, Patience::Whole(get.patience))) {
            Ok(token) => {
                get.token = Some(token);
                self.running.insert(token, id);
            }
            Err(error) => self.end(id, Event::Failed(error), link),
        }
    }

    /// A request is answered.
    fn end(&mut self, id: RequestId, event: Event, link: &mut Link) {
        if let Some(get) = self.all.remove(&id) {
            self.load.remove(get.requester.user, &get.server);
            link.reply(id, event);
        }
    }

    /// Takes a transfer that has ended, if it is one of these.
    pub fn take(&mut self, ended: Ended, engine: &mut Engine, link: &mut Link) -> Option<Ended> {
        let Some(id) = self.running.remove(&ended.token) else {
            return Some(ended);
        };
        let get = self.all.get_mut(&id)?;
        get.token = None;
        let retry_after = ended.easy.get_ref().head.retry_after(SystemTime::now());
        match outcome(get, ended) {
            Outcome::Event(Event::Response { status, .. })
                if is_busy(status)
                    && get.may_be_repeated()
                    && (self.rests).add(&get.server, retry_after, get.attempts, Instant::now()) =>
            {
                self.load.remove(get.requester.user, &get.server);
                self.waiting.push(get.requester, &get.server, id);
                link.reply(id, Event::Busy);
            }
            Outcome::Event(event) => self.end(id, event, link),
            Outcome::Redirected => self.transfer(id, engine, link),
            Outcome::Failed(error) => {
                let is_unreachable = error.is_unreachable() && get.redirections == 0;
                let server = get.server.clone();
                self.end(id, Event::Failed(error.clone()), link);
                if is_unreachable {
                    // The others would wait for the same.
                    for id in self.waiting.take_all_of(&server) {
                        self.all.remove(&id);
                        link.reply(id, Event::Failed(error.clone()));
                    }
                }
            }
        }
        None
    }
}

/// What a transfer has led to.
enum Outcome {
    Event(Event),
    /// The request has another URL now.
    Redirected,
    Failed(NetworkError),
}

fn outcome(get: &mut Get, mut ended: Ended) -> Outcome {
    let transfer = ended.easy.get_mut();
    let (status, max_age) = (transfer.head.status, transfer.head.max_age);
    let retry_after = transfer.head.retry_after(SystemTime::now());
    let body = match &mut transfer.sink {
        Sink::Memory { body, .. } => std::mem::take(body),
        _ => Vec::new(),
    };
    if let Err(error) = &ended.result {
        if status == 200 || !has_answer(error, &ended.easy) {
            return Outcome::Failed(failure(error, &ended.easy, &get.url));
        }
    }
    match redirection(&ended.easy, &get.url, &mut get.redirections) {
        Some(Ok(url)) => {
            get.url = url;
            Outcome::Redirected
        }
        Some(Err(error)) => Outcome::Failed(error),
        None if status == 0 => {
            let text = "the server's answer has no status";
            Outcome::Failed(described(ErrorKind::Protocol, &get.url, text))
        }
        None => Outcome::Event(Event::Response {
            status,
            max_age,
            retry_after,
            body,
        }),
    }
}
