//! One lookup as it goes on: what is asked whom, what comes back, and what follows from it.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use formats::store_path::StorePath;
use system::clock::unix_time;

use super::contacts::Contacts;
use super::item::Item;
use super::{Error, Found, Lookup};
use crate::cache::{Answer, ServerCache, is_temporary, time_to_live};
use crate::choice::{Choice, choose};
use crate::narinfo::{MAX_LENGTH, Narinfo};
use crate::network::{ErrorKind, Event, Exchange, NetworkError, RequestId};
use crate::reports::Reports;
use crate::servers::{Place, Server};
use crate::waiter::{Waiter, wait};

/// How long the network program may say nothing while it has something to answer: longer than any
/// server may.
const SILENCE_LIMIT: Duration = Duration::from_secs(180);

/// The most items of one lookup; what they refer to beyond is not looked up.
const ITEMS_LIMIT: usize = 1 << 18;

/// A question about an item, to a server.
#[derive(Clone, Copy)]
pub(super) struct Question {
    pub(super) item: usize,
    pub(super) server: usize,
}

/// What the server says to it.
type Answered = (Question, Option<Arc<Narinfo>>);

/// A lookup.
pub(super) struct Search<'a> {
    pub(super) lookup: &'a Lookup<'a>,
    pub(super) contacts: Contacts<'a>,
    /// Asks over the network, once something has to be asked there.
    pub(super) exchange: Option<Exchange>,
    caches: Vec<ServerCache>,
    pub(super) reports: Reports<'a>,
    now: u64,
    /// Every item of this lookup.
    seen: HashSet<StorePath>,
    /// Those that are not found yet.
    pub(super) items: Vec<Option<Item>>,
    /// Items to ask for.
    queue: Vec<usize>,
    /// Items whose server is late, and has enough to answer.
    held: Vec<Question>,
    /// Questions that are being asked.
    pub(super) asked: HashMap<RequestId, Question>,
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
        follow: &mut dyn FnMut(&StorePath) -> bool,
        waiter: &mut dyn Waiter,
    ) -> Result<Found, Error> {
        let mut search = Search::new(self);
        search.add(wanted);
        search.run(follow, waiter)?;
        Ok(search.found)
    }

    /// Asks all servers for other narinfos that say the same as the one that is believed.
    pub fn look_up_sources(
        &self,
        choice: &Choice,
        waiter: &mut dyn Waiter,
    ) -> Result<Vec<Arc<Narinfo>>, Error> {
        let mut search = Search::new(self);
        search.add_item(choice.believed.path().clone(), true);
        search.run(&mut |_| false, waiter)?;
        let found = search.found.into_values().next();
        let narinfos = found.map(|found| found.sources.clone()).unwrap_or_default();
        let equivalent = |narinfo: &Arc<Narinfo>| narinfo.is_equivalent(&choice.believed);
        Ok(narinfos.into_iter().filter(equivalent).collect())
    }
}

impl<'a> Search<'a> {
    /// A search for nothing yet.
    fn new(lookup: &'a Lookup<'a>) -> Search<'a> {
        let contacts = Contacts::new(lookup.servers, lookup.health);
        Search {
            caches: contacts
                .servers()
                .map(|server| lookup.cache.of(server))
                .collect(),
            reports: Reports::new(contacts.servers(), lookup.told),
            lookup,
            contacts,
            exchange: None,
            now: unix_time(),
            seen: HashSet::new(),
            items: Vec::new(),
            queue: Vec::new(),
            held: Vec::new(),
            asked: HashMap::new(),
            last_answer: Instant::now(),
            program_died: false,
            found: Found::new(),
        }
    }

    /// Adds items that are new and can exist at all.
    fn add(&mut self, paths: impl IntoIterator<Item = StorePath>) {
        for path in paths {
            if self.seen.len() >= ITEMS_LIMIT {
                return;
            }
            if path.is_well_formed() && self.seen.insert(path.clone()) {
                self.add_item(path, false);
            }
        }
    }

    fn add_item(&mut self, path: StorePath, all: bool) {
        self.items.push(Some(Item::new(path, all)));
        self.enqueue(self.items.len() - 1);
    }

    /// Has the next server asked for an item, if it isn't found yet.
    pub(super) fn enqueue(&mut self, number: usize) {
        if let Some(Some(item)) = self.items.get_mut(number) {
            if !std::mem::replace(&mut item.is_queued, true) {
                self.queue.push(number);
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
            let is_idle = answered.is_empty() && self.queue.is_empty() && !self.has_room_for_held();
            self.judge(answered, follow);
            self.reports.show(waiter);
            if !is_idle {
                continue;
            }
            let (overdue, next) = self.contacts.overdue();
            if !overdue.is_empty() {
                self.go_past(overdue, waiter);
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
                    let next = next.map(|next| next.saturating_duration_since(Instant::now()));
                    let timeout = [waiter.time_left()?, next].into_iter().flatten().min();
                    let timeout = timeout.map_or(left, |timeout| timeout.min(left));
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
        let mut by_server: Vec<Vec<usize>> = vec![Vec::new(); self.contacts.len()];
        for question in std::mem::take(&mut self.held) {
            let numbers = &mut by_server[question.server];
            match numbers.len() < self.contacts.room(question.server) {
                true => numbers.push(question.item),
                false => self.held.push(question),
            }
        }
        for number in std::mem::take(&mut self.queue) {
            let Some(item) = &mut self.items[number] else {
                continue;
            };
            item.is_queued = false;
            match item.next_server(&self.contacts) {
                Some(server) => by_server[server].push(number),
                None => self.end_of_servers(number),
            }
        }
        for (index, numbers) in by_server.into_iter().enumerate() {
            let questions: Vec<(Question, StorePath)> = numbers
                .into_iter()
                .filter_map(|number| {
                    let path = self.items[number].as_ref()?.path.clone();
                    let (item, server) = (number, index);
                    Some((Question { item, server }, path))
                })
                .collect();
            if !questions.is_empty() {
                self.ask_server(index, questions, &mut answered, waiter)?;
            }
        }
        Ok(answered)
    }

    /// Whether something that had to wait for its server need not any more.
    fn has_room_for_held(&self) -> bool {
        let mut held = self.held.iter();
        held.any(|question| self.contacts.room(question.server) > 0)
    }

    fn ask_server(
        &mut self,
        index: usize,
        questions: Vec<(Question, StorePath)>,
        answered: &mut Vec<Answered>,
        waiter: &mut dyn Waiter,
    ) -> Result<(), Error> {
        let server = self.contacts.server(index).clone();
        if let Place::Directory(_) = server.place() {
            self.contacts.is_known_to_answer(index);
            answered.extend(questions.into_iter().map(|(question, path)| {
                let text = read_narinfo(&server, &path);
                let narinfo = text.and_then(|text| self.parse(index, &path, &text));
                (question, narinfo)
            }));
            return Ok(());
        }
        let paths: Vec<StorePath> = questions.iter().map(|(_, path)| path.clone()).collect();
        let known = self.caches[index].get_each(&paths, self.now);
        if known.iter().any(Option::is_some) {
            self.contacts.is_known_to_answer(index);
        }
        for ((question, path), known) in questions.into_iter().zip(known) {
            let narinfo = match known {
                Some(Answer::Absent) => None,
                Some(Answer::Narinfo(text)) => self.parse(index, &path, text.as_bytes()),
                None => {
                    self.ask_network(question, &path, waiter)?;
                    continue;
                }
            };
            answered.push((question, narinfo));
        }
        Ok(())
    }

    /// Asks a server on the network, unless it does not answer anyway.
    fn ask_network(
        &mut self,
        question: Question,
        path: &StorePath,
        waiter: &mut dyn Waiter,
    ) -> Result<(), Error> {
        let index = question.server;
        if let Some(reason) = self.contacts.reason(index) {
            self.contacts.give_up(index);
            self.reports.cannot_reach(index, &reason, waiter);
        }
        if self.contacts.is_given_up(index) {
            self.enqueue(question.item);
            return Ok(());
        }
        if self.contacts.room(index) == 0 {
            self.held.push(question);
            return Ok(());
        }
        let exchange = match &mut self.exchange {
            Some(exchange) => exchange,
            None => self.exchange.insert(Exchange::new(self.lookup.network)?),
        };
        let url = (self.contacts.server(index)).url_of(&Server::narinfo_name(path.hash_part()));
        let id = exchange.get(&url, MAX_LENGTH as u64);
        if self.asked.is_empty() {
            self.last_answer = Instant::now();
        }
        self.asked.insert(id, question);
        self.contacts.asked(index);
        self.reports.asked(index);
        if let Some(item) = &mut self.items[question.item] {
            item.open.push((id, index));
        }
        Ok(())
    }

    /// A question is not open any more; what it was.
    pub(super) fn close(&mut self, id: RequestId) -> Option<Question> {
        let question = self.asked.remove(&id)?;
        self.contacts.closed(question.server);
        if let Some(item) = &mut self.items[question.item] {
            item.open.retain(|(other, _)| *other != id);
        }
        Some(question)
    }

    /// What the network program has said since.
    fn take_events(&mut self, waiter: &mut dyn Waiter) -> Result<Vec<Answered>, Error> {
        let mut answered = Vec::new();
        while let Some((id, event)) = self.exchange.as_mut().and_then(Exchange::next_event) {
            waiter.note_activity();
            self.last_answer = Instant::now();
            if let Event::Busy = event {
                if let Some(Question { server, .. }) = self.asked.get(&id).copied() {
                    self.overtake(server, "the server is busy", true, waiter);
                }
                continue;
            }
            let Some(question) = self.close(id) else {
                continue;
            };
            let server = question.server;
            match event {
                Event::Response {
                    status,
                    retry_after,
                    ..
                } if is_temporary(status) => {
                    let text = format!("HTTP status {status}");
                    let error = NetworkError::new(ErrorKind::Status(status), text);
                    let wish = retry_after.map(Duration::from_secs);
                    self.go_to_next(question, &error, wish, waiter);
                }
                Event::Response {
                    status,
                    max_age,
                    body,
                    ..
                } => {
                    self.contacts.answered(server);
                    self.reports.answered(server);
                    let narinfo = self.keep(question, status, max_age, body);
                    answered.push((question, narinfo));
                }
                Event::Failed(error) => match error.kind() {
                    ErrorKind::ProgramMissing => return Err(Error::Network(error)),
                    ErrorKind::ProgramDied => {
                        // All that it was asked fails for the same reason, and is asked again once.
                        if self.program_died && self.asked.is_empty() {
                            return Err(Error::Network(error));
                        }
                        self.reports.not_answered(server);
                        self.held.push(question);
                        if self.asked.is_empty() {
                            self.program_died = true;
                        }
                    }
                    _ => self.go_to_next(question, &error, None, waiter),
                },
                // Nothing else can be said of a small file.
                _ => {}
            }
        }
        Ok(answered)
    }

    /// Keeps a server's answer in the cache, and reads it.
    fn keep(
        &self,
        question: Question,
        status: u32,
        max_age: Option<u64>,
        body: Vec<u8>,
    ) -> Option<Arc<Narinfo>> {
        let (server, path) = (question.server, &self.items[question.item].as_ref()?.path);
        let parsed = (status == 200).then(|| self.parse(server, path, &body));
        let narinfo = parsed.flatten();
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
        let _ = self.caches[server].put(path, &answer, ttl, self.now);
        narinfo
    }

    fn parse(&self, server: usize, path: &StorePath, text: &[u8]) -> Option<Arc<Narinfo>> {
        let server = self.contacts.server(server);
        let narinfo = Narinfo::parse(text, path, self.lookup.store, server);
        narinfo.ok().map(Arc::new)
    }

    /// Sorts out which answers are believed; goes on with the rest.
    fn judge(&mut self, answered: Vec<Answered>, follow: &mut dyn FnMut(&StorePath) -> bool) {
        let narinfos: Vec<Arc<Narinfo>> = answered
            .iter()
            .filter_map(|(_, narinfo)| narinfo.clone())
            .collect();
        let mut verdicts = self.lookup.judge.vouches_for_each(&narinfos).into_iter();
        for (question, narinfo) in answered {
            let verdict = narinfo.is_some() && verdicts.next().unwrap_or(false);
            let Some(item) = &mut self.items[question.item] else {
                continue; // another server has answered at the same time
            };
            item.narinfos
                .extend(narinfo.clone().map(|it| (question.server, it)));
            let believed = narinfo.filter(|_| verdict && !item.all);
            let Some(believed) = believed else {
                if item.is_overtaking(&self.contacts) {
                    self.enqueue(question.item);
                }
                continue;
            };
            item.narinfos.sort_by_key(|(server, _)| *server);
            let narinfos: Vec<_> = item.narinfos.drain(..).map(|(_, it)| it).collect();
            let is_it = |narinfo: &Narinfo| std::ptr::eq(narinfo, &*believed);
            if let Some(choice) = choose(&narinfos, is_it) {
                self.end(question.item, Some(choice), follow);
            }
        }
    }

    /// An item is found, or nobody has it.
    fn end(
        &mut self,
        number: usize,
        choice: Option<Choice>,
        follow: &mut dyn FnMut(&StorePath) -> bool,
    ) {
        let Some(item) = self.items[number].take() else {
            return;
        };
        self.cancel(&item.open.iter().map(|(id, _)| *id).collect());
        let Some(choice) = choice else { return };
        let references = choice.believed.references();
        let new = references.iter().filter(|path| !self.seen.contains(*path));
        let wanted: Vec<StorePath> = new.filter(|path| follow(path)).cloned().collect();
        self.found.insert(item.path, Arc::new(choice));
        self.add(wanted);
    }

    /// No server is left that could be asked; one of those that are late may still answer.
    fn end_of_servers(&mut self, number: usize) {
        let Some(item) = &mut self.items[number] else {
            return;
        };
        let is_found = item.all && !item.narinfos.is_empty();
        if !item.open.is_empty() && !is_found {
            return;
        }
        item.narinfos.sort_by_key(|(server, _)| *server);
        let sources: Vec<_> = item.narinfos.drain(..).map(|(_, it)| it).collect();
        let choice = sources.first().filter(|_| is_found).cloned();
        let choice = choice.map(|believed| Choice { believed, sources });
        self.end(number, choice, &mut |_| false);
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
