//! Requests that wait for a free connection. Users take turns, so that one with many requests
//! doesn't hold up the others; and so do each user's exchanges, and servers, so that a slow one
//! doesn't either.

use std::collections::VecDeque;

use substitutes::network::{Requester, User};

/// Requests in lines: one line for each exchange and each server.
pub struct FairQueue<T> {
    /// The line whose turn it is comes first. None is empty.
    lines: VecDeque<Line<T>>,
}

struct Line<T> {
    requester: Requester,
    server: String,
    waiting: VecDeque<T>,
}

impl<T> FairQueue<T> {
    pub fn new() -> FairQueue<T> {
        FairQueue {
            lines: VecDeque::new(),
        }
    }

    /// Adds a request at the end of its line.
    pub fn push(&mut self, requester: Requester, server: &str, request: T) {
        let own = |line: &&mut Line<T>| line.requester == requester && line.server == server;
        match self.lines.iter_mut().find(own) {
            Some(line) => line.waiting.push_back(request),
            None => self.lines.push_back(Line {
                requester,
                server: server.to_owned(),
                waiting: VecDeque::from([request]),
            }),
        }
    }

    /// Takes the next request of those users who may ask their server now.
    pub fn pop(&mut self, mut may_ask: impl FnMut(User, &str) -> bool) -> Option<T> {
        let is_next = |line: &Line<T>| may_ask(line.requester.user, &line.server);
        let turn = self.lines.iter().position(is_next)?;
        let mut line = self.lines.remove(turn)?;
        let user = line.requester.user;
        let request = line.waiting.pop_front();
        // All others come before this user's next request, and the user's other lines before this one.
        let lines = std::mem::take(&mut self.lines).into_iter();
        let (own, others): (VecDeque<_>, _) = lines.partition(|other| other.requester.user == user);
        self.lines = others;
        self.lines.extend(own);
        if !line.waiting.is_empty() {
            self.lines.push_back(line);
        }
        request
    }

    /// Takes all requests for a server.
    pub fn take_all_of(&mut self, server: &str) -> Vec<T> {
        let lines = std::mem::take(&mut self.lines);
        let (own, others) = lines.into_iter().partition(|line| line.server == server);
        self.lines = others;
        let own: VecDeque<Line<T>> = own;
        own.into_iter().flat_map(|line| line.waiting).collect()
    }

    /// Removes the requests for which `keep` doesn't hold.
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for line in &mut self.lines {
            line.waiting.retain(&mut keep);
        }
        self.lines.retain(|line| !line.waiting.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requester(user: u64, exchange: u64) -> Requester {
        Requester {
            user: User::from_number(user),
            exchange,
        }
    }

    #[test]
    fn users_take_turns_and_so_do_the_exchanges_of_each() {
        let mut queue = FairQueue::new();
        for number in 0..1000 {
            queue.push(requester(1, 1), "a", number);
        }
        queue.push(requester(1, 2), "a", 3000);
        queue.push(requester(1, 2), "b", 4000);
        queue.push(requester(2, 3), "a", 5000);
        queue.push(requester(2, 3), "a", 5001);
        let first: Vec<i32> = (0..8).filter_map(|_| queue.pop(|_, _| true)).collect();
        assert_eq!(first, [0, 5000, 3000, 5001, 4000, 1, 2, 3]);
    }

    #[test]
    fn a_busy_server_does_not_hold_up_another() {
        let mut queue = FairQueue::new();
        queue.push(requester(1, 1), "busy", 1);
        queue.push(requester(1, 1), "idle", 2);
        assert_eq!(queue.pop(|_, server| server != "busy"), Some(2));
        assert_eq!(queue.pop(|_, server| server != "busy"), None);
        assert_eq!(queue.pop(|_, _| true), Some(1));
        assert_eq!(queue.pop(|_, _| true), None);
    }

    #[test]
    fn requests_are_removed() {
        let mut queue = FairQueue::new();
        for number in 0..6 {
            let server = if number < 4 { "a" } else { "b" };
            queue.push(requester(1, number % 2), server, number);
        }
        queue.retain(|number| *number != 1);
        let mut taken = queue.take_all_of("a");
        taken.sort_unstable();
        assert_eq!(taken, [0, 2, 3]);
        let rest: Vec<u64> = (0..9).filter_map(|_| queue.pop(|_, _| true)).collect();
        assert_eq!(rest, [4, 5]);
    }
}
