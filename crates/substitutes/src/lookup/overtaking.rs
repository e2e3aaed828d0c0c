//! Servers that do not answer, or not yet: who is asked in their place.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::contacts::Overdue;
use super::search::{Question, Search};
use crate::health::Certainty;
use crate::network::{ErrorKind, NetworkError, RequestId};
use crate::waiter::Waiter;

/// How many questions stay open at a server that turns out to be late, to learn whether it answers yet.
/// The others are put to it again if nobody else has the items: they would be in the way of questions
/// to servers that answer.
const PROBES: usize = 8;
/// A failure that has cost so much time is remembered for other lookups.
const COSTLY: Duration = Duration::from_secs(1);

impl Search<'_> {
    /// A server didn't answer for an item, which the next one is asked for. If it has answered
    /// nothing at all, it is asked for nothing more.
    pub(super) fn go_to_next(
        &mut self,
        question: Question,
        error: &NetworkError,
        wish: Option<Duration>,
        waiter: &mut dyn Waiter,
    ) {
        let server = question.server;
        self.reports.not_answered(server);
        let is_general = match error.kind() == ErrorKind::Timeout || error.is_busy() {
            true => !self.reports.has_answered(server),
            false => error.is_unreachable(),
        };
        if is_general {
            self.give_up(server, error, Certainty::Measured, wish, waiter);
        } else if let ErrorKind::Status(_) = error.kind() {
            self.reports.cannot_reach(server, error, waiter);
        }
        self.enqueue(question.item);
    }

    /// Servers say nothing: others are asked.
    pub(super) fn go_past(&mut self, overdue: Vec<(usize, Overdue)>, waiter: &mut dyn Waiter) {
        for (server, what) in overdue {
            match what {
                Overdue::Late => {
                    self.overtake(server, "the server does not answer", false, waiter);
                }
                Overdue::Silent => {
                    let error = NetworkError::new(ErrorKind::Timeout, "no answer");
                    self.give_up(server, &error, Certainty::Concluded, None, waiter);
                }
            }
        }
    }

    /// A server is late, for this reason, which may hold for all users: whatever it was asked is asked of
    /// others, too.
    pub(super) fn overtake(
        &mut self,
        server: usize,
        reason: &str,
        is_for_all: bool,
        waiter: &mut dyn Waiter,
    ) {
        if !self.contacts.overtake(server, is_for_all) {
            return;
        }
        self.reports.is_late(server, reason, waiter);
        let mut probes = 0;
        let mut cancelled = HashSet::new();
        for (id, number) in self.asked_of(server) {
            let Some(item) = &mut self.items[number] else {
                continue;
            };
            if item.has_others(&self.contacts) {
                probes += 1;
                if probes > PROBES {
                    item.left_out.push(server);
                    cancelled.insert(id);
                }
                self.enqueue(number);
            }
        }
        self.cancel(&cancelled);
    }

    /// Asks nothing more of a server.
    fn give_up(
        &mut self,
        server: usize,
        error: &NetworkError,
        certainty: Certainty,
        wish: Option<Duration>,
        waiter: &mut dyn Waiter,
    ) {
        let cost = self.contacts.give_up(server);
        if cost >= COSTLY || wish.is_some() {
            let (health, now) = (self.lookup.health, Instant::now());
            let name = self.contacts.server(server);
            match error.is_unreachable() {
                // It may be back as soon as this machine's network is.
                true => health.is_late(name, true, now),
                false => health.failed(name, error, certainty, wish, now),
            }
        }
        self.reports.cannot_reach(server, error, waiter);
        let asked = self.asked_of(server);
        self.cancel(&asked.iter().map(|(id, _)| *id).collect());
        for (_, number) in asked {
            self.enqueue(number);
        }
    }

    /// The questions that a server has not answered, and their items.
    fn asked_of(&self, server: usize) -> Vec<(RequestId, usize)> {
        let of_server = self.asked.iter().filter(|(_, it)| it.server == server);
        of_server.map(|(id, it)| (*id, it.item)).collect()
    }

    /// Gives up questions.
    pub(super) fn cancel(&mut self, ids: &HashSet<RequestId>) {
        for id in ids {
            if let Some(question) = self.close(*id) {
                self.reports.not_answered(question.server);
            }
        }
        if let Some(exchange) = self.exchange.as_mut().filter(|_| !ids.is_empty()) {
            exchange.cancel_each(ids);
        }
    }
}
