//! Looking up items at substitute servers: many at once, and everything that they refer to.
//!
//! For each item, the servers are asked in order until one gives a narinfo that is believed
//! (`doc/spec/substitutes.md`, section 3). No item waits for another: as soon as one is found, the
//! items that it refers to are looked up, and what the first server doesn't have is asked for at
//! the second while the first still answers. Answers come from the cache where it has them, and go
//! there.
//!
//! ```text
//!        ┌──────────── not believed: next server ◀────────────┐
//!        ▼                                                    │
//! items to ask for ─▶ cache, directory ─────────▶ answers ─▶ judge ─▶ found ─▶ references
//!                └──▶ network ─▶ asked ─▶ cache ──▶┘                              │
//!        ▲                                                                        │
//!        └────────────────────────────────────────────────────────────────────────┘
//! ```

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use formats::store_path::{StoreDir, StorePath};
use std::os::fd::AsFd;
use system::clock::unix_time;

use crate::cache::{Answer, Cache, ServerCache, is_temporary, time_to_live};
use crate::choice::{Choice, choose};
use crate::narinfo::{MAX_LENGTH, Narinfo};
use crate::network::{ErrorKind, Event, Exchange, Network, NetworkError, RequestId};
use crate::reports::Reports;
use crate::servers::{Place, Server};
use crate::trust::Judge;
use crate::unreachable::Unreachable;
use crate::waiter::{Stop, Waiter, wait};

/// How long the network program may say nothing while it has something to answer: longer than any
/// server may.
const SILENCE_LIMIT: Duration = Duration::from_secs(180);

/// The most items of one lookup; what they refer to beyond is not looked up.
const ITEMS_LIMIT: usize = 1 << 18;

/// What was found: for each item, what is believed of it.
pub type Found = HashMap<StorePath, Arc<Choice>>;

/// Why a lookup ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Waiting ended.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// There is no program that touches the network, or it keeps dying.
    #[error("{0}")]
    Network(NetworkError),
    /// The system has no descriptors left, or so.
    #[error("cannot look for substitutes: {0}")]
    Io(#[from] io::Error),
}

/// Where and how to look things up.
pub struct Lookup<'a> {
    /// The store whose items are looked up.
    pub store: &'a StoreDir,
    /// The servers, in the order in which to ask them.
    pub servers: &'a [Arc<Server>],
    /// What they said before.
    pub cache: &'a Cache,
    /// Who is believed.
    pub judge: &'a Judge,
    /// Asks them.
    pub network: &'a Network,
}

/// An item that is being looked up.
struct Item {
    path: StorePath,
    /// What the servers before `next` said of it that is not believed.
    narinfos: Vec<Arc<Narinfo>>,
    /// The server to ask next.
    next: usize,
    /// Whether what the server says is used whether it is believed or not.
    all: bool,
}

/// A server's answer about an item, which goes on there.
type Answered = (Item, Option<Arc<Narinfo>>);

struct Search<'a> {
    lookup: &'a Lookup<'a>,
    unreachable: &'a mut Unreachable,
    /// Asks over the network, once something has to be asked there.
    exchange: Option<Exchange>,
    caches: Vec<ServerCache>,
    reports: Reports,
    now: u64,
    /// Every item of this lookup.
    seen: HashSet<StorePath>,
    /// Items to ask for.
    queue: Vec<Item>,
    /// Items that are being asked for.
    asked: HashMap<RequestId, Item>,
    /// When the network program answered last, or was asked first.
    last_answer: Instant,
    /// Whether the network program has died once.
    program_died: bool,
    found: Found,
}

impl Lookup<'_> {
    /// Looks up `wanted`, and of what is found the references for which `follow` holds.
    pub fn look_up(
        &self,
        wanted: impl IntoIterator<Item = StorePath>,
        unreachable: &mut Unreachable,
        follow: &mut dyn FnMut(&StorePath) -> bool,
        waiter: &mut dyn Waiter,
    ) -> Result<Found, Error> {
        let mut search = self.search(unreachable);
        search.add(wanted);
        search.run(follow, waiter)?;
        Ok(search.found)
    }

    /// Asks all servers for other narinfos that say the same as the one that is believed.
    pub fn look_up_sources(
        &self,
        choice: &Choice,
        unreachable: &mut Unreachable,
        waiter: &mut dyn Waiter,
    ) -> Result<Vec<Arc<Narinfo>>, Error> {
        let mut search = self.search(unreachable);
        search.queue.push(Item {
            path: choice.believed.path().clone(),
            narinfos: Vec::new(),
            next: 0,
            all: true,
        });
        search.run(&mut |_| false, waiter)?;
        let found = search.found.into_values().next();
        let narinfos = found.map(|found| found.sources.clone()).unwrap_or_default();
        let equivalent = |narinfo: &Arc<Narinfo>| narinfo.is_equivalent(&choice.believed);
        Ok(narinfos.into_iter().filter(equivalent).collect())
    }

    fn search<'a>(&'a self, unreachable: &'a mut Unreachable) -> Search<'a> {
        Search {
            caches: self
                .servers
                .iter()
                .map(|server| self.cache.of(server))
                .collect(),
            reports: Reports::new(self.servers),
            lookup: self,
            unreachable,
            exchange: None,
            now: unix_time(),
            seen: HashSet::new(),
            queue: Vec::new(),
            asked: HashMap::new(),
            last_answer: Instant::now(),
            program_died: false,
            found: Found::new(),
        }
    }
}

impl Search<'_> {
    /// Adds items that are new and can exist at all.
    fn add(&mut self, paths: impl IntoIterator<Item = StorePath>) {
        for path in paths {
            if self.seen.len() >= ITEMS_LIMIT {
                return;
            }
            if path.is_well_formed() && self.seen.insert(path.clone()) {
                self.queue.push(Item {
                    path,
                    narinfos: Vec::new(),
                    next: 0,
                    all: false,
                });
            }
        }
    }

    fn run(
        &mut self,
        follow: &mut dyn FnMut(&StorePath) -> bool,
        waiter: &mut dyn Waiter,
    ) -> Result<(), Error> {
        loop {
            let mut answered = self.ask(waiter)?;
            answered.append(&mut self.take_events(waiter)?);
            let is_idle = answered.is_empty() && self.queue.is_empty();
            self.judge(answered, follow);
            self.reports.show(waiter);
            if !is_idle {
                continue;
            }
            match &self.exchange {
                Some(exchange) if !self.asked.is_empty() => {
                    let left = SILENCE_LIMIT.saturating_sub(self.last_answer.elapsed());
                    if left.is_zero() {
                        let text = "the network program doesn't answer";
                        let error = NetworkError::new(ErrorKind::Timeout, text);
                        return Err(Error::Network(error));
                    }
                    let timeout = waiter
                        .time_left()?
                        .map_or(left, |timeout| timeout.min(left));
                    wait(waiter, [exchange.as_fd()], Some(timeout))?;
                }
                _ => break,
            }
        }
        self.reports.finish(waiter);
        Ok(())
    }

    /// Asks for all items of the queue at their next servers. Returns what is answered already.
    fn ask(&mut self, waiter: &mut dyn Waiter) -> Result<Vec<Answered>, Error> {
        let mut answered = Vec::new();
        let queue = std::mem::take(&mut self.queue);
        let mut by_server: Vec<Vec<Item>> =
            self.lookup.servers.iter().map(|_| Vec::new()).collect();
        for item in queue {
            match by_server.get_mut(item.next) {
                Some(items) => items.push(item),
                None => self.end_of_servers(item),
            }
        }
        for (index, items) in by_server.into_iter().enumerate() {
            if items.is_empty() {
                continue;
            }
            let server = &self.lookup.servers[index];
            if let Place::Directory(_) = server.place() {
                answered.extend(items.into_iter().map(|item| {
                    let text = read_narinfo(server, &item.path);
                    let narinfo = text.and_then(|text| self.parse(&item, &text));
                    (item, narinfo)
                }));
                continue;
            }
            let paths: Vec<StorePath> = items.iter().map(|item| item.path.clone()).collect();
            let known = self.caches[index].get_each(&paths, self.now);
            for (item, known) in items.into_iter().zip(known) {
                let narinfo = match known {
                    Some(Answer::Absent) => None,
                    Some(Answer::Narinfo(text)) => self.parse(&item, text.as_bytes()),
                    None => {
                        self.ask_network(item, waiter)?;
                        continue;
                    }
                };
                answered.push((item, narinfo));
            }
        }
        Ok(answered)
    }

    /// Asks a server on the network, unless it can't be reached.
    fn ask_network(&mut self, mut item: Item, waiter: &mut dyn Waiter) -> Result<(), Error> {
        let server = &self.lookup.servers[item.next];
        if let Some(reason) = self.unreachable.reason(server) {
            self.reports.cannot_reach(item.next, reason, waiter);
            item.next += 1;
            self.queue.push(item);
            return Ok(());
        }
        let exchange = match &mut self.exchange {
            Some(exchange) => exchange,
            None => self.exchange.insert(Exchange::new(self.lookup.network)?),
        };
        let url = server.url_of(&Server::narinfo_name(item.path.hash_part()));
        let id = exchange.get(&url, MAX_LENGTH as u64);
        self.reports.asked(item.next);
        if self.asked.is_empty() {
            self.last_answer = Instant::now();
        }
        self.asked.insert(id, item);
        Ok(())
    }

    /// What the network program has said since.
    fn take_events(&mut self, waiter: &mut dyn Waiter) -> Result<Vec<Answered>, Error> {
        let mut answered = Vec::new();
        while let Some((id, event)) = self.exchange.as_mut().and_then(Exchange::next_event) {
            let Some(item) = self.asked.remove(&id) else {
                continue;
            };
            waiter.note_activity();
            self.last_answer = Instant::now();
            match event {
                Event::Response { status, .. } if is_temporary(status) => {
                    let text = format!("HTTP status {status}");
                    let error = NetworkError::new(ErrorKind::Status(status), text);
                    self.go_to_next(item, &error, waiter);
                }
                Event::Response {
                    status,
                    max_age,
                    body,
                } => {
                    self.reports.answered(item.next);
                    let narinfo = self.keep(&item, status, max_age, body);
                    answered.push((item, narinfo));
                }
                Event::Failed(error) => match error.kind() {
                    ErrorKind::ProgramMissing => return Err(Error::Network(error)),
                    ErrorKind::ProgramDied => {
                        // All that it was asked fails for the same reason, and is asked again once.
                        if self.program_died && self.asked.is_empty() {
                            return Err(Error::Network(error));
                        }
                        self.reports.not_answered(item.next);
                        self.queue.push(item);
                        if self.asked.is_empty() {
                            self.program_died = true;
                        }
                    }
                    _ => self.go_to_next(item, &error, waiter),
                },
                // Nothing else can be said of a small file.
                _ => {
                    self.asked.insert(id, item);
                }
            }
        }
        Ok(answered)
    }

    /// A server didn't answer for an item, which the next one is asked for. If it has answered
    /// nothing at all, it is asked for nothing more.
    fn go_to_next(&mut self, mut item: Item, error: &NetworkError, waiter: &mut dyn Waiter) {
        self.reports.not_answered(item.next);
        let is_general = match error.kind() {
            ErrorKind::Timeout | ErrorKind::Status(429 | 503) => {
                !self.reports.has_answered(item.next)
            }
            _ => error.is_unreachable(),
        };
        if is_general {
            self.give_up(item.next, error, waiter);
        } else if let ErrorKind::Status(_) = error.kind() {
            self.reports.cannot_reach(item.next, error, waiter);
        }
        item.next += 1;
        self.queue.push(item);
    }

    /// Asks nothing more of a server.
    fn give_up(&mut self, server: usize, error: &NetworkError, waiter: &mut dyn Waiter) {
        let (name, now) = (&self.lookup.servers[server], Instant::now());
        self.unreachable.add(name, error, now);
        self.reports.cannot_reach(server, error, waiter);
        let at_server = |(id, item): (&RequestId, &Item)| (item.next == server).then_some(*id);
        let ids: Vec<RequestId> = self.asked.iter().filter_map(at_server).collect();
        for id in ids {
            if let Some(exchange) = &mut self.exchange {
                exchange.cancel(id);
            }
            if let Some(mut item) = self.asked.remove(&id) {
                self.reports.not_answered(server);
                item.next += 1;
                self.queue.push(item);
            }
        }
    }

    /// Keeps a server's answer in the cache, and reads it.
    fn keep(
        &self,
        item: &Item,
        status: u32,
        max_age: Option<u64>,
        body: Vec<u8>,
    ) -> Option<Arc<Narinfo>> {
        let narinfo = (status == 200).then(|| self.parse(item, &body)).flatten();
        // What isn't a narinfo of this item is not worth keeping.
        let text = narinfo.as_ref().and_then(|_| String::from_utf8(body).ok());
        let status = if text.is_none() && status == 200 {
            404
        } else {
            status
        };
        let answer = text.map_or(Answer::Absent, Answer::Narinfo);
        let ttl = time_to_live(status, max_age);
        // Without a cache, servers are asked more often.
        let _ = self.caches[item.next].put(&item.path, &answer, ttl, self.now);
        narinfo
    }

    fn parse(&self, item: &Item, text: &[u8]) -> Option<Arc<Narinfo>> {
        let server = &self.lookup.servers[item.next];
        let narinfo = Narinfo::parse(text, &item.path, self.lookup.store, server);
        narinfo.ok().map(Arc::new)
    }

    /// Sorts out which answers are believed; goes on with the rest.
    fn judge(&mut self, answered: Vec<Answered>, follow: &mut dyn FnMut(&StorePath) -> bool) {
        let narinfos: Vec<Arc<Narinfo>> = answered
            .iter()
            .filter_map(|(_, narinfo)| narinfo.clone())
            .collect();
        let mut verdicts = self.lookup.judge.vouches_for_each(&narinfos).into_iter();
        for (mut item, narinfo) in answered {
            item.next += 1;
            let mut is_believed = false;
            if let Some(narinfo) = narinfo {
                is_believed = verdicts.next().unwrap_or(false) && !item.all;
                item.narinfos.push(narinfo);
            }
            if !is_believed {
                self.queue.push(item);
                continue;
            }
            let last = item.narinfos.last().cloned();
            let is_last = |narinfo: &Narinfo| {
                last.as_ref()
                    .is_some_and(|last| std::ptr::eq(&**last, narinfo))
            };
            if let Some(choice) = choose(&item.narinfos, is_last) {
                let references = choice.believed.references();
                let new = references.iter().filter(|path| !self.seen.contains(*path));
                let wanted: Vec<StorePath> = new.filter(|path| follow(path)).cloned().collect();
                self.found.insert(item.path, Arc::new(choice));
                self.add(wanted);
            }
        }
    }

    /// No server is left that could be asked.
    fn end_of_servers(&mut self, item: Item) {
        let Some(first) = item.narinfos.first().filter(|_| item.all) else {
            return;
        };
        let choice = Choice {
            believed: first.clone(),
            sources: item.narinfos,
        };
        self.found.insert(item.path, Arc::new(choice));
    }
}

/// Reads the narinfo in the directory of a server on this machine.
fn read_narinfo(server: &Server, path: &StorePath) -> Option<Vec<u8>> {
    let file = server.open(Server::narinfo_name(path.hash_part())).ok()?;
    let mut text = Vec::new();
    file.take(MAX_LENGTH as u64 + 1)
        .read_to_end(&mut text)
        .ok()?;
    Some(text)
}
