//! Requests that wait for a free connection. Users take turns, so that one with many requests
//! doesn't hold up the others; and so do servers, so that a slow one doesn't either.

use std::collections::VecDeque;

/// Requests in lines: one line for each user (an exchange) of each server.
pub struct FairQueue<T> {
    /// The line whose turn it is comes first. None is empty.
    lines: VecDeque<Line<T>>,
}

struct Line<T> {
    user: u64,
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
    pub fn push(&mut self, user: u64, server: &str, request: T) {
        let own = |line: &&mut Line<T>| line.user == user && line.server == server;
        match self.lines.iter_mut().find(own) {
            Some(line) => line.waiting.push_back(request),
            None => self.lines.push_back(Line {
                user,
                server: server.to_owned(),
                waiting: VecDeque::from([request]),
            }),
        }
    }

    /// Takes the next request for one of the servers that may be asked now.
    pub fn pop(&mut self, mut may_ask: impl FnMut(&str) -> bool) -> Option<T> {
        let turn = self.lines.iter().position(|line| may_ask(&line.server))?;
        let mut line = self.lines.remove(turn)?;
        let request = line.waiting.pop_front();
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

    #[test]
    fn users_take_turns() {
        let mut queue = FairQueue::new();
        for number in 0..1000 {
            queue.push(1, "a", number);
        }
        queue.push(2, "a", 5000);
        queue.push(2, "a", 5001);
        let first: Vec<i32> = (0..5).filter_map(|_| queue.pop(|_| true)).collect();
        assert_eq!(first, [0, 5000, 1, 5001, 2]);
    }

    #[test]
    fn a_busy_server_does_not_hold_up_another() {
        let mut queue = FairQueue::new();
        queue.push(1, "busy", 1);
        queue.push(1, "idle", 2);
        assert_eq!(queue.pop(|server| server != "busy"), Some(2));
        assert_eq!(queue.pop(|server| server != "busy"), None);
        assert_eq!(queue.pop(|_| true), Some(1));
        assert_eq!(queue.pop(|_| true), None);
    }

    #[test]
    fn requests_are_removed() {
        let mut queue = FairQueue::new();
        for number in 0..6 {
            queue.push(number % 2, if number < 4 { "a" } else { "b" }, number);
        }
        queue.retain(|number| *number != 1);
        let mut taken = queue.take_all_of("a");
        taken.sort_unstable();
        assert_eq!(taken, [0, 2, 3]);
        let rest: Vec<u64> = (0..9).filter_map(|_| queue.pop(|_| true)).collect();
        assert_eq!(rest, [4, 5]);
    }
}
