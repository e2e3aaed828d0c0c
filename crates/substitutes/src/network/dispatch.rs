//! What exchanges and the thread that talks to the program share: requests that wait, and events.
//!
//! All of it is behind one lock, which nobody holds while waiting.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use system::sync::Mutex;
use system::wakeup::Wakeup;

use super::error::{ErrorKind, NetworkError};
use super::event::Event;
use super::message::{Request, SourceMessage};
use super::request::{Fetch, RequestId, Source};

/// How many requests of one exchange the program is given at once.
const WINDOW: usize = 256;
/// How many requests the program is given at once.
const TOTAL_WINDOW: usize = 4096;
/// How long a server may be silent, unless an exchange says otherwise.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(60);
/// How many bytes of answers wait for an exchange. Only a program that has been taken over sends
/// more: honest answers are a few kilobytes each.
const WAITING_LIMIT: usize = 32 << 20;

/// A request that an exchange makes.
#[derive(Debug)]
pub(super) enum Wanted {
    Get { url: String, limit: u64 },
    Fetch { fetch: Fetch, body: OwnedFd },
}

/// A request as it is sent: the message, and the files that accompany it.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub request: Request,
    pub files: Vec<OwnedFd>,
}

/// What a reply to a request may say.
#[derive(Debug)]
enum Expected {
    /// A body of that many bytes at most.
    Body { limit: u64 },
    /// Events of a fetch with that many sources; so many more sources may begin or fail.
    Fetch { sources: usize, changes_left: usize },
}

/// How many events [`Event::Started`] and [`Event::SourceFailed`] a fetch may have for each source.
const CHANGES: usize = 4;

/// The requests and events of one exchange.
#[derive(Debug)]
pub(super) struct Mailbox {
    unsent: VecDeque<(RequestId, Wanted)>,
    /// How long servers may be silent.
    patience: Duration,
    sent: HashMap<RequestId, Expected>,
    events: VecDeque<(RequestId, Event)>,
    /// Bytes of bodies among the events.
    waiting: usize,
    /// Readable while there are events.
    ready: Arc<Wakeup>,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Mailbox> {
        Ok(Mailbox {
            unsent: VecDeque::new(),
            patience: DEFAULT_PATIENCE,
            sent: HashMap::new(),
            events: VecDeque::new(),
            waiting: 0,
            ready: Arc::new(Wakeup::new()?),
        })
    }

    pub(super) fn ready(&self) -> Arc<Wakeup> {
        self.ready.clone()
    }

    fn push(&mut self, id: RequestId, event: Event) {
        if self.events.is_empty() {
            self.ready.wake();
        }
        self.waiting += size(&event);
        self.events.push_back((id, event));
    }

    fn pop(&mut self) -> Option<(RequestId, Event)> {
        let (id, event) = self.events.pop_front()?;
        self.waiting -= size(&event);
        self.quieten();
        Some((id, event))
    }

    fn quieten(&self) {
        if self.events.is_empty() {
            self.ready.clear();
        }
    }

    /// Gives up a request; returns whether the program has to be told.
    fn cancel(&mut self, id: RequestId) -> bool {
        let events = std::mem::take(&mut self.events);
        let had_events = !events.is_empty();
        self.events = events.into_iter().filter(|(of, _)| *of != id).collect();
        self.waiting = self.events.iter().map(|(_, event)| size(event)).sum();
        if had_events {
            self.quieten();
        }
        self.unsent.retain(|(of, _)| *of != id);
        self.sent.remove(&id).is_some()
    }

    /// Takes an event that the program sent, unless the program must not say this.
    fn receive(&mut self, id: RequestId, event: Event) -> Result<(), NetworkError> {
        let Some(expected) = self.sent.get_mut(&id) else {
            return Ok(()); // it was cancelled, or the program answers twice
        };
        let forbidden = || {
            Err(NetworkError::new(
                ErrorKind::ProgramDied,
                "the network program gave an answer that cannot be",
            ))
        };
        match (&event, expected) {
            (Event::Response { body, .. }, Expected::Body { limit }) => {
                if body.len() as u64 > *limit {
                    return forbidden();
                }
                if self.waiting + body.len() > WAITING_LIMIT {
                    let text = "too many answers wait to be read";
                    let error = NetworkError::new(ErrorKind::TooLarge, text);
                    self.sent.remove(&id);
                    self.push(id, Event::Failed(error));
                    return Ok(());
                }
            }
            (Event::Failed(_), _) => {}
            (Event::Finished { source, .. }, Expected::Fetch { sources, .. })
                if source < sources => {}
            (Event::Progress { .. }, Expected::Fetch { .. }) => {
                if let Some(last) = self.events.iter_mut().rev().find(|(of, _)| *of == id) {
                    if matches!(last.1, Event::Progress { .. }) {
                        last.1 = event;
                        return Ok(());
                    }
                }
            }
            (
                Event::Started { source, .. } | Event::SourceFailed { source, .. },
                Expected::Fetch {
                    sources,
                    changes_left,
                },
            ) if *source < *sources && *changes_left > 0 => *changes_left -= 1,
            _ => return forbidden(),
        }
        if event.is_last() {
            self.sent.remove(&id);
        }
        self.push(id, event);
        Ok(())
    }
}

fn size(event: &Event) -> usize {
    match event {
        Event::Response { body, .. } => body.len(),
        _ => 0,
    }
}

/// What exchanges and the thread share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Arc<Wakeup>,
}

#[derive(Debug, Default)]
struct State {
    mailboxes: BTreeMap<u64, Mailbox>,
    last_exchange: u64,
    last_request: u64,
    /// The exchange whose request was sent last: the next one's turn comes now.
    turn: u64,
    /// The exchanges of the requests that were sent.
    owners: HashMap<RequestId, u64>,
    /// Requests that the program need not answer any more.
    cancelled: Vec<RequestId>,
    /// Whether the program is to be started before there is anything to ask.
    start_early: bool,
}

impl Shared {
    pub(super) fn new() -> io::Result<Shared> {
        Ok(Shared {
            state: Mutex::default(),
            wake: Arc::new(Wakeup::new()?),
        })
    }

    /// Readable when the thread has something to do.
    pub(super) fn wake(&self) -> Arc<Wakeup> {
        self.wake.clone()
    }

    /// Has the thread start the program now.
    pub(super) fn start_early(&self) {
        self.state.lock().start_early = true;
        self.wake.wake();
    }

    /// Whether that is still to be done; it no longer is.
    pub(super) fn take_early_start(&self) -> bool {
        std::mem::take(&mut self.state.lock().start_early)
    }

    /// Adds an exchange; returns its number.
    pub(super) fn add(&self, mailbox: Mailbox) -> u64 {
        let mut state = self.state.lock();
        state.last_exchange += 1;
        let number = state.last_exchange;
        state.mailboxes.insert(number, mailbox);
        number
    }

    /// Removes an exchange, and gives up its requests.
    pub(super) fn remove(&self, exchange: u64) {
        let mut state = self.state.lock();
        let Some(mailbox) = state.mailboxes.remove(&exchange) else {
            return;
        };
        for id in mailbox.sent.keys() {
            state.give_up(*id);
        }
        drop(state);
        self.wake.wake();
        // `mailbox`, with the pipes in it, is dropped without the lock.
    }

    /// Sets how long servers may be silent for an exchange.
    pub(super) fn set_patience(&self, exchange: u64, patience: Duration) {
        let mut state = self.state.lock();
        if let Some(mailbox) = state.mailboxes.get_mut(&exchange) {
            mailbox.patience = patience;
        }
    }

    /// Takes a request of an exchange, or makes it fail at once.
    pub(super) fn request(&self, exchange: u64, wanted: Result<Wanted, NetworkError>) -> RequestId {
        let mut state = self.state.lock();
        state.last_request += 1;
        let id = RequestId(state.last_request);
        if let Some(mailbox) = state.mailboxes.get_mut(&exchange) {
            match wanted {
                Ok(wanted) => mailbox.unsent.push_back((id, wanted)),
                Err(error) => mailbox.push(id, Event::Failed(error)),
            }
        }
        drop(state);
        self.wake.wake();
        id
    }

    /// Gives up a request of an exchange.
    pub(super) fn cancel(&self, exchange: u64, id: RequestId) {
        let mut state = self.state.lock();
        let mailbox = state.mailboxes.get_mut(&exchange);
        if mailbox.is_some_and(|mailbox| mailbox.cancel(id)) {
            state.give_up(id);
            drop(state);
            self.wake.wake();
        }
    }

    /// The next event of an exchange.
    pub(super) fn take_event(&self, exchange: u64) -> Option<(RequestId, Event)> {
        let mut state = self.state.lock();
        state.mailboxes.get_mut(&exchange)?.pop()
    }

    /// How many requests of an exchange have not ended, or have ended and the event wasn't taken.
    pub(super) fn pending(&self, exchange: u64) -> usize {
        let state = self.state.lock();
        let Some(mailbox) = state.mailboxes.get(&exchange) else {
            return 0;
        };
        let ended = mailbox.events.iter().filter(|(_, event)| event.is_last());
        mailbox.unsent.len() + mailbox.sent.len() + ended.count()
    }

    /// Whether there is something to tell a program that isn't running.
    pub(super) fn has_unsent(&self) -> bool {
        let state = self.state.lock();
        state
            .mailboxes
            .values()
            .any(|mailbox| !mailbox.unsent.is_empty())
    }

    /// Whether the program has nothing to do, and there is something for it to do.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        let has_unsent = state
            .mailboxes
            .values()
            .any(|mailbox| !mailbox.unsent.is_empty());
        has_unsent && state.owners.is_empty()
    }

    /// The next request for the program, if it has capacity. Exchanges take turns.
    pub(super) fn next_to_send(&self) -> Option<Outgoing> {
        let mut state = self.state.lock();
        if let Some(id) = state.cancelled.pop() {
            return Some(Outgoing {
                request: Request::Cancel { id },
                files: Vec::new(),
            });
        }
        if state.owners.len() >= TOTAL_WINDOW {
            return None;
        }
        let turn = state.turn;
        let has_request =
            |entry: &(&u64, &Mailbox)| !entry.1.unsent.is_empty() && entry.1.sent.len() < WINDOW;
        let after = state.mailboxes.range(turn + 1..).find(has_request);
        let next = after.or_else(|| state.mailboxes.range(..=turn).find(has_request));
        let exchange = *next?.0;
        state.turn = exchange;
        let mailbox = state.mailboxes.get_mut(&exchange)?;
        let (id, wanted) = mailbox.unsent.pop_front()?;
        let (outgoing, expected) = prepare(exchange, id, wanted, mailbox.patience);
        mailbox.sent.insert(id, expected);
        state.owners.insert(id, exchange);
        Some(outgoing)
    }

    /// Hands an event to its exchange. An error means that the program must not go on.
    pub(super) fn receive(&self, id: RequestId, event: Event) -> Result<(), NetworkError> {
        let mut state = self.state.lock();
        let Some(exchange) = state.owners.get(&id).copied() else {
            return Ok(()); // cancelled
        };
        if event.is_last() {
            state.owners.remove(&id);
        }
        match state.mailboxes.get_mut(&exchange) {
            Some(mailbox) => mailbox.receive(id, event),
            None => Ok(()),
        }
    }

    /// The program is gone: everything that it was asked fails.
    pub(super) fn fail_sent(&self, error: &NetworkError) {
        self.state.lock().fail_sent(error);
    }

    /// No program can be had: that fails, and everything that waits for one.
    pub(super) fn fail_all(&self, error: &NetworkError) {
        let mut state = self.state.lock();
        state.fail_sent(error);
        let mut dropped = Vec::new();
        for mailbox in state.mailboxes.values_mut() {
            for (id, wanted) in std::mem::take(&mut mailbox.unsent) {
                dropped.push(wanted);
                mailbox.push(id, Event::Failed(error.clone()));
            }
        }
        drop(state);
        // The pipes are closed without the lock.
        drop(dropped);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The thread finds that it has nobody left to serve.
        self.wake.wake();
    }
}

impl State {
    fn fail_sent(&mut self, error: &NetworkError) {
        self.cancelled.clear();
        self.owners.clear();
        for mailbox in self.mailboxes.values_mut() {
            let ids: Vec<RequestId> = mailbox.sent.drain().map(|(id, _)| id).collect();
            for id in ids {
                mailbox.push(id, Event::Failed(error.clone()));
            }
        }
    }

    fn give_up(&mut self, id: RequestId) {
        if self.owners.remove(&id).is_some() {
            self.cancelled.push(id);
        }
    }
}

/// The message for a request, and what may be answered.
fn prepare(
    exchange: u64,
    id: RequestId,
    wanted: Wanted,
    patience: Duration,
) -> (Outgoing, Expected) {
    match wanted {
        Wanted::Get { url, limit } => {
            let request = Request::Get {
                exchange,
                id,
                url,
                limit,
                patience,
            };
            let files = Vec::new();
            (Outgoing { request, files }, Expected::Body { limit })
        }
        Wanted::Fetch { fetch, body } => {
            let mut files = vec![body];
            let sources: Vec<SourceMessage> = fetch
                .sources
                .into_iter()
                .map(|source| match source {
                    Source::Url { url, compression } => SourceMessage::Url { url, compression },
                    Source::File { file, compression } => {
                        files.push(file);
                        SourceMessage::File { compression }
                    }
                })
                .collect();
            let expected = Expected::Fetch {
                sources: sources.len(),
                changes_left: CHANGES * sources.len(),
            };
            let request = Request::Fetch {
                exchange,
                id,
                size: fetch.size,
                patience,
                sources,
            };
            (Outgoing { request, files }, expected)
        }
    }
}
