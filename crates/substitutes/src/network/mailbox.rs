//! The requests and events of one exchange, and what may be answered to them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use system::wakeup::Wakeup;

use super::error::{ErrorKind, NetworkError};
use super::event::Event;
use super::limits::ROUNDS_LIMIT;
use super::message::{Request, SourceMessage};
use super::request::{Fetch, RequestId, Requester, Source, User};

/// How many requests of one exchange the program is given at once.
const WINDOW: usize = 256;
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
    /// A body of that many bytes at most; it may be said so many more times that the server is busy.
    Body { limit: u64, busy_left: usize },
    /// Events of a fetch with that many sources; so many more sources may begin or fail.
    Fetch { sources: usize, changes_left: usize },
}

/// How often it may be said of a small body that the server is busy.
const BUSY: usize = 16;
/// How many events [`Event::Started`] and [`Event::SourceFailed`] a fetch may have for each source.
const CHANGES: usize = 2 * ROUNDS_LIMIT;

/// The requests and events of one exchange.
#[derive(Debug)]
pub(super) struct Mailbox {
    pub(super) user: User,
    unsent: VecDeque<(RequestId, Wanted)>,
    /// How long servers may be silent.
    pub(super) patience: Duration,
    sent: HashMap<RequestId, Expected>,
    events: VecDeque<(RequestId, Event)>,
    /// Bytes of bodies among the events.
    waiting: usize,
    /// Readable while there are events.
    ready: Arc<Wakeup>,
}

impl Mailbox {
    pub(super) fn new(user: User) -> io::Result<Mailbox> {
        Ok(Mailbox {
            user,
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

    /// Takes a request, which is sent later, or makes it fail at once.
    pub(super) fn request(&mut self, id: RequestId, wanted: Result<Wanted, NetworkError>) {
        match wanted {
            Ok(wanted) => self.unsent.push_back((id, wanted)),
            Err(error) => self.push(id, Event::Failed(error)),
        }
    }

    /// Whether a request waits to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether one may be sent, as far as the exchange is concerned.
    pub(super) fn may_send(&self) -> bool {
        self.has_unsent() && self.sent.len() < WINDOW
    }

    /// The next request to send.
    pub(super) fn send_next(&mut self, requester: Requester) -> Option<(RequestId, Outgoing)> {
        let (id, wanted) = self.unsent.pop_front()?;
        let (outgoing, expected) = prepare(requester, id, wanted, self.patience);
        self.sent.insert(id, expected);
        Some((id, outgoing))
    }

    /// The requests that were sent, and have no last event.
    pub(super) fn sent(&self) -> impl Iterator<Item = RequestId> {
        self.sent.keys().copied()
    }

    /// Whether the program has still something to do for a request.
    pub(super) fn expects(&self, id: RequestId) -> bool {
        self.sent.contains_key(&id)
    }

    /// How many requests have not ended, or have ended and the event wasn't taken.
    pub(super) fn pending(&self) -> usize {
        let ended = self.events.iter().filter(|(_, event)| event.is_last());
        self.unsent.len() + self.sent.len() + ended.count()
    }

    /// What was sent has failed.
    pub(super) fn fail_sent(&mut self, error: &NetworkError) {
        let ids: Vec<RequestId> = self.sent.drain().map(|(id, _)| id).collect();
        for id in ids {
            self.push(id, Event::Failed(error.clone()));
        }
    }

    /// What is to be sent has failed. Returns what is to be dropped.
    pub(super) fn fail_unsent(&mut self, error: &NetworkError) -> Vec<Wanted> {
        let unsent = std::mem::take(&mut self.unsent).into_iter();
        let failed = unsent.map(|(id, wanted)| {
            self.push(id, Event::Failed(error.clone()));
            wanted
        });
        failed.collect()
    }

    fn push(&mut self, id: RequestId, event: Event) {
        if self.events.is_empty() {
            self.ready.wake();
        }
        self.waiting += size(&event);
        self.events.push_back((id, event));
    }

    pub(super) fn pop(&mut self) -> Option<(RequestId, Event)> {
        let (id, event) = self.events.pop_front()?;
        self.waiting -= size(&event);
        self.quieten();
        Some((id, event))
    }

    /// A request has failed on this side.
    fn give_up(&mut self, id: RequestId, error: NetworkError) {
        self.sent.remove(&id);
        self.push(id, Event::Failed(error));
    }

    fn quieten(&self) {
        if self.events.is_empty() {
            self.ready.clear();
        }
    }

    /// Gives up requests; returns those of which the program has to be told.
    pub(super) fn cancel(&mut self, ids: &HashSet<RequestId>) -> Vec<RequestId> {
        let events = std::mem::take(&mut self.events);
        let had_events = !events.is_empty();
        self.events = (events.into_iter())
            .filter(|(of, _)| !ids.contains(of))
            .collect();
        self.waiting = self.events.iter().map(|(_, event)| size(event)).sum();
        if had_events {
            self.quieten();
        }
        self.unsent.retain(|(of, _)| !ids.contains(of));
        let sent = ids.iter().filter(|id| self.sent.remove(id).is_some());
        sent.copied().collect()
    }

    /// Takes an event that the program sent, unless the program must not say this. A request of which
    /// too much is said fails, and nothing more is expected for it.
    pub(super) fn receive(&mut self, id: RequestId, event: Event) -> Result<(), NetworkError> {
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
            (Event::Response { body, .. }, Expected::Body { limit, .. }) => {
                if body.len() as u64 > *limit {
                    return forbidden();
                }
                if self.waiting + body.len() > WAITING_LIMIT {
                    let text = "too many answers wait to be read";
                    self.give_up(id, NetworkError::new(ErrorKind::TooLarge, text));
                    return Ok(());
                }
            }
            (Event::Failed(_), _) => {}
            (Event::Busy, Expected::Body { busy_left, .. }) if *busy_left > 0 => *busy_left -= 1,
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
            ) if *source < *sources => match changes_left.checked_sub(1) {
                Some(left) => *changes_left = left,
                None => {
                    let text = "its sources begin and fail again and again";
                    self.give_up(id, NetworkError::new(ErrorKind::Interrupted, text));
                    return Ok(());
                }
            },
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

/// The message for a request, and what may be answered.
fn prepare(
    requester: Requester,
    id: RequestId,
    wanted: Wanted,
    patience: Duration,
) -> (Outgoing, Expected) {
    match wanted {
        Wanted::Get { url, limit } => {
            let request = Request::Get {
                requester,
                id,
                url,
                limit,
                patience,
            };
            let files = Vec::new();
            let expected = Expected::Body {
                limit,
                busy_left: BUSY,
            };
            (Outgoing { request, files }, expected)
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
                requester,
                id,
                size: fetch.size,
                patience,
                sources,
            };
            (Outgoing { request, files }, expected)
        }
    }
}
