//! What exchanges and the thread that talks to the program share: requests that wait, and events.
//!
//! All of it is behind one lock, which nobody holds while waiting.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use system::sync::Mutex;
use system::wakeup::Wakeup;

use super::error::NetworkError;
use super::event::Event;
use super::mailbox::{Mailbox, Outgoing, Wanted};
use super::message::Request;
use super::request::{RequestId, Requester, User};
use super::shares::Shares;

/// How many requests the program is given at once.
const REQUESTS: Shares = Shares {
    per_user: 1024,
    in_all: 4096,
    assured: 64,
    most: 8192,
};

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
    /// The user whose request was sent last: the next one's turn comes now.
    turn: User,
    /// The users of the exchanges.
    users: HashMap<User, Usage>,
    /// Who has made the requests that were sent.
    owners: HashMap<RequestId, Requester>,
    /// Requests that the program need not answer any more.
    cancelled: Vec<RequestId>,
    /// Whether the program is to be started before there is anything to ask.
    start_early: bool,
}

/// What a user has.
#[derive(Debug, Default)]
struct Usage {
    exchanges: usize,
    /// The number of requests that were sent.
    sent: u64,
    /// The exchange whose request was sent last.
    turn: u64,
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
        state.users.entry(mailbox.user).or_default().exchanges += 1;
        state.mailboxes.insert(number, mailbox);
        number
    }

    /// Removes an exchange, and gives up its requests.
    pub(super) fn remove(&self, exchange: u64) {
        let mut state = self.state.lock();
        let Some(mailbox) = state.mailboxes.remove(&exchange) else {
            return;
        };
        for id in mailbox.sent() {
            state.give_up(id);
        }
        state.update(mailbox.user, |usage| usage.exchanges -= 1);
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
            mailbox.request(id, wanted);
        }
        drop(state);
        self.wake.wake();
        id
    }

    /// Gives up requests of an exchange.
    pub(super) fn cancel(&self, exchange: u64, ids: &HashSet<RequestId>) {
        let mut state = self.state.lock();
        let mailbox = state.mailboxes.get_mut(&exchange);
        let sent = mailbox.map(|mailbox| mailbox.cancel(ids));
        for id in sent.into_iter().flatten() {
            state.give_up(id);
        }
        drop(state);
        self.wake.wake();
    }

    /// The next event of an exchange.
    pub(super) fn take_event(&self, exchange: u64) -> Option<(RequestId, Event)> {
        let mut state = self.state.lock();
        state.mailboxes.get_mut(&exchange)?.pop()
    }

    /// How many requests of an exchange have not ended, or have ended and the event wasn't taken.
    pub(super) fn pending(&self, exchange: u64) -> usize {
        let state = self.state.lock();
        state.mailboxes.get(&exchange).map_or(0, Mailbox::pending)
    }

    /// Whether there is something to tell a program that isn't running.
    pub(super) fn has_unsent(&self) -> bool {
        let state = self.state.lock();
        state.mailboxes.values().any(Mailbox::has_unsent)
    }

    /// Whether the program has nothing to do, and there is something for it to do.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.mailboxes.values().any(Mailbox::has_unsent) && state.owners.is_empty()
    }

    /// The next request for the program, if it has capacity. Users take turns, and the exchanges of
    /// each.
    pub(super) fn next_to_send(&self) -> Option<Outgoing> {
        let mut state = self.state.lock();
        if let Some(id) = state.cancelled.pop() {
            return Some(Outgoing {
                request: Request::Cancel { id },
                files: Vec::new(),
            });
        }
        let requester = state.next_requester()?;
        let mailbox = state.mailboxes.get_mut(&requester.exchange)?;
        let (id, outgoing) = mailbox.send_next(requester)?;
        state.owners.insert(id, requester);
        state.turn = requester.user;
        state.update(requester.user, |usage| {
            usage.turn = requester.exchange;
            usage.sent += 1;
        });
        Some(outgoing)
    }

    /// Hands an event to its exchange. An error means that the program must not go on.
    pub(super) fn receive(&self, id: RequestId, event: Event) -> Result<(), NetworkError> {
        let mut state = self.state.lock();
        let Some(requester) = state.owners.get(&id).copied() else {
            return Ok(()); // cancelled
        };
        if event.is_last() {
            state.disown(id);
        }
        if let Some(mailbox) = state.mailboxes.get_mut(&requester.exchange) {
            mailbox.receive(id, event)?;
            if !mailbox.expects(id) {
                state.give_up(id);
            }
        }
        Ok(())
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
            dropped.extend(mailbox.fail_unsent(error));
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
        let ids: Vec<RequestId> = self.owners.keys().copied().collect();
        for id in ids {
            self.disown(id);
        }
        for mailbox in self.mailboxes.values_mut() {
            mailbox.fail_sent(error);
        }
    }

    fn give_up(&mut self, id: RequestId) {
        if self.disown(id) {
            self.cancelled.push(id);
        }
    }

    /// The program has nothing more to do for a request; `false` if it had nothing already.
    fn disown(&mut self, id: RequestId) -> bool {
        let Some(requester) = self.owners.remove(&id) else {
            return false;
        };
        self.update(requester.user, |usage| usage.sent -= 1);
        true
    }

    /// Changes what a user has; one who has nothing is forgotten.
    fn update(&mut self, user: User, change: impl FnOnce(&mut Usage)) {
        let usage = self.users.entry(user).or_default();
        change(usage);
        if usage.exchanges == 0 && usage.sent == 0 {
            self.users.remove(&user);
        }
    }

    /// Whose turn it is, of those who want something that the program may be given.
    fn next_requester(&self) -> Option<Requester> {
        let sent = self.owners.len() as u64;
        let may_send = |&(_, mailbox): &(&u64, &Mailbox)| {
            let own = self.users.get(&mailbox.user).map_or(0, |usage| usage.sent);
            mailbox.may_send() && REQUESTS.has_room(mailbox.user, own, sent, 1)
        };
        // How many come before it: all numbers after the one that was served last, then the others.
        let distance = |number: u64, last: u64| number.wrapping_sub(last).wrapping_sub(1);
        let turn = |&(&exchange, mailbox): &(&u64, &Mailbox)| {
            let last = self.users.get(&mailbox.user).map_or(0, |usage| usage.turn);
            (
                distance(mailbox.user.number(), self.turn.number()),
                distance(exchange, last),
            )
        };
        let waiting = self.mailboxes.iter().filter(may_send);
        let (exchange, mailbox) = waiting.min_by_key(turn)?;
        Some(Requester {
            user: mailbox.user,
            exchange: *exchange,
        })
    }
}
