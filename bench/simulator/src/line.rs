//! A line that transfers share: the head's, to machines whose own lines have limits.
//!
//! Transfers share the line fairly: each gets as much as the others, or as much as its machine's own line
//! takes (max-min fairness). Those with the same limit progress alike, so each such class has a clock of its
//! own that counts bytes, and a transfer ends when its clock shows a certain count. Starting and ending one
//! takes logarithmic time, however many there are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::seconds::Seconds;

/// A line.
#[derive(Debug)]
pub struct Line {
    /// Bytes each second.
    capacity: f64,
    classes: Vec<Class>,
    now: Seconds,
    /// All bytes that were transferred.
    pub bytes: u64,
}

/// The transfers to machines whose own lines have the same limit.
#[derive(Debug)]
struct Class {
    limit: f64,
    /// How many bytes a transfer would have got that has been there from the start.
    served: f64,
    /// What is served when transfers end, and the transfers.
    ends: BinaryHeap<Reverse<(Seconds, usize)>>,
    rate: f64,
}

impl Class {
    /// How long its first transfer still takes.
    fn left(&self) -> Option<f64> {
        let Reverse((end, _)) = self.ends.peek()?;
        Some((end.0 - self.served) / self.rate)
    }
}

impl Line {
    /// A line that carries `capacity` bytes each second.
    pub fn new(capacity: f64) -> Line {
        Line {
            capacity,
            classes: Vec::new(),
            now: Seconds(0.0),
            bytes: 0,
        }
    }

    /// Begins a transfer at a time that is not before that of any earlier call.
    pub fn begin(&mut self, now: f64, limit: f64, bytes: u64, transfer: usize) {
        self.advance(now);
        self.bytes += bytes;
        let found = self.classes.iter().position(|class| class.limit == limit);
        let index = found.unwrap_or_else(|| {
            self.classes.push(Class {
                limit,
                served: 0.0,
                ends: BinaryHeap::new(),
                rate: 0.0,
            });
            self.classes.sort_by(|a, b| a.limit.total_cmp(&b.limit));
            let here = self.classes.iter().position(|class| class.limit == limit);
            here.unwrap_or(0)
        });
        let class = &mut self.classes[index];
        let end = class.served + bytes as f64;
        class.ends.push(Reverse((Seconds(end), transfer)));
        self.share();
    }

    /// When the next transfer ends, if nothing changes.
    pub fn next_end(&self) -> Option<f64> {
        let left = self.classes.iter().filter_map(Class::left);
        let least = left.min_by(f64::total_cmp)?;
        Some(self.now.0 + least.max(0.0))
    }

    /// Ends the transfer that [`Line::next_end`] has told of.
    pub fn end(&mut self, now: f64) -> Option<usize> {
        let left = |class: &Class| class.left().unwrap_or(f64::INFINITY);
        self.advance(now);
        let first = (self.classes.iter_mut()).min_by(|a, b| left(a).total_cmp(&left(b)))?;
        let Reverse((_, transfer)) = first.ends.pop()?;
        self.share();
        Some(transfer)
    }

    fn advance(&mut self, now: f64) {
        let passed = (now - self.now.0).max(0.0);
        for class in &mut self.classes {
            if !class.ends.is_empty() {
                class.served += class.rate * passed;
            }
        }
        self.now = Seconds(now);
    }

    /// Divides the line among the classes: those that take less than their share leave it to the others.
    fn share(&mut self) {
        let mut left = self.capacity;
        let mut transfers: usize = self.classes.iter().map(|class| class.ends.len()).sum();
        for class in &mut self.classes {
            let count = class.ends.len();
            if count == 0 {
                continue;
            }
            class.rate = class.limit.min(left / transfers as f64);
            left -= class.rate * count as f64;
            transfers -= count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(line: &mut Line) -> Vec<(f64, usize)> {
        std::iter::from_fn(|| {
            let time = line.next_end()?;
            Some((time, line.end(time)?))
        })
        .collect()
    }

    #[test]
    fn transfers_share_a_line() {
        let mut line = Line::new(100.0);
        line.begin(0.0, 1e9, 100, 1);
        line.begin(0.0, 1e9, 300, 2);
        // Both have 50 a second until the first is done.
        assert_eq!(ends(&mut line), [(2.0, 1), (4.0, 2)]);
        assert_eq!(line.bytes, 400);
    }

    #[test]
    fn a_slow_machine_leaves_the_line_to_others() {
        let mut line = Line::new(100.0);
        line.begin(0.0, 10.0, 100, 1);
        line.begin(0.0, 1e9, 180, 2);
        assert_eq!(ends(&mut line), [(2.0, 2), (10.0, 1)]);
    }

    #[test]
    fn who_comes_later_takes_from_those_who_are_there() {
        let mut line = Line::new(100.0);
        line.begin(0.0, 1e9, 200, 1);
        line.begin(1.0, 1e9, 50, 2);
        assert_eq!(ends(&mut line), [(2.0, 2), (2.5, 1)]);
    }
}
