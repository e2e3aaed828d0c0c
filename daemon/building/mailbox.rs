//! What happens to a request while it waits: a queue of events, emptied by one thread.
//!
//! Builds run on threads of their own and never touch a client's connection: what they have to
//! say is put in the mailbox of every request that waits for them, and the request's thread hands
//! it on. A client that reads slowly therefore delays nobody else; how much is kept for it is
//! bounded (see [`Mailbox::has_room`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use system::sync::{Condvar, Mutex, MutexGuard};

use super::outcome::Outcome;
use super::request::{Level, LogSink};

/// Bytes of build output that wait for one client before its builds are held up.
const ROOM: usize = 1 << 20;

/// Names a goal of one request.
pub(super) type GoalId = usize;

/// Something for the client's eyes.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// A message of the daemon.
    Message(Level, String),
    /// A trace line.
    Trace(String),
    /// A piece of a build's log.
    Output { pid: u32, data: Arc<[u8]> },
    /// Words of a hook or a substituter.
    Chatter { pid: Option<u32>, data: Arc<[u8]> },
}

impl Said {
    /// How much room it takes.
    pub(super) fn size(&self) -> usize {
        match self {
            Said::Message(_, text) | Said::Trace(text) => text.len(),
            Said::Output { data, .. } | Said::Chatter { data, .. } => data.len(),
        }
    }

    /// Hands it to the client.
    pub(super) fn tell(&self, sink: &dyn LogSink) {
        match self {
            Said::Message(level, text) => sink.message(*level, text),
            Said::Trace(line) => sink.trace(line),
            Said::Output { pid, data } => sink.build_output(*pid, data),
            Said::Chatter { pid, data } => sink.chatter(*pid, data),
        }
    }
}

/// What can happen to a request that waits.
#[derive(Debug)]
pub(super) enum Event {
    /// A build or a substitution has something to say.
    Said(Said),
    /// The attempt to bring about `goal` has ended.
    Finished { goal: GoalId, outcome: Outcome },
    /// One of the request's local builds has ended: its slot is free.
    SlotFreed,
    /// Some build of the daemon has ended: locks and build machines may be free.
    BuildEnded,
    /// The client has gone.
    Cancelled,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    /// Bytes of output among the events.
    bytes: usize,
    /// Bytes of output thrown away since the last event that was kept.
    lost: usize,
}

/// The queue of one request.
#[derive(Default)]
pub(super) struct Mailbox {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

impl Mailbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Puts an event at the end of the queue. Build output that finds no room is dropped, and a
    /// message tells how much; everything else is always kept.
    pub(super) fn push(&self, event: Event) {
        let mut queue = self.queue();
        if let Event::Said(said) = &event {
            let size = said.size();
            if matches!(said, Said::Output { .. } | Said::Chatter { .. }) {
                if queue.bytes > 4 * ROOM {
                    queue.lost += size;
                    return;
                }
                queue.bytes += size;
            }
        }
        if queue.lost > 0 {
            let text = format!(
                "[{} bytes of build log not shown: they were not read in time]",
                queue.lost
            );
            queue.lost = 0;
            queue
                .events
                .push_back(Event::Said(Said::Message(Level::Error, text)));
        }
        queue.events.push_back(event);
        self.arrived.notify_one();
    }

    /// Whether more output should be produced for this client now.
    pub(super) fn has_room(&self) -> bool {
        self.queue().bytes < ROOM
    }

    /// Whether there is something to be taken.
    pub(super) fn has_events(&self) -> bool {
        !self.queue().events.is_empty()
    }

    /// The next event, without waiting.
    pub(super) fn poll(&self) -> Option<Event> {
        Self::take(&mut self.queue())
    }

    /// The next event; `None` once `deadline` has passed.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Option<Event> {
        let mut queue = self.queue();
        loop {
            if let Some(event) = Self::take(&mut queue) {
                return Some(event);
            }
            queue = match deadline {
                None => self.arrived.wait(queue),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.arrived.wait_timeout(queue, left)
                }
            };
        }
    }

    fn take(queue: &mut Queue) -> Option<Event> {
        let event = queue.events.pop_front()?;
        if let Event::Said(said @ (Said::Output { .. } | Said::Chatter { .. })) = &event {
            queue.bytes -= said.size();
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(size: usize) -> Event {
        Event::Said(Said::Output {
            pid: 1,
            data: vec![b'x'; size].into(),
        })
    }

    #[test]
    fn events_come_in_order_and_waiting_ends_at_the_deadline() {
        let mailbox = Mailbox::default();
        mailbox.push(Event::SlotFreed);
        mailbox.push(Event::BuildEnded);
        assert!(matches!(mailbox.wait(None), Some(Event::SlotFreed)));
        assert!(matches!(mailbox.poll(), Some(Event::BuildEnded)));
        assert!(mailbox.wait(Some(Instant::now())).is_none());
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed() {
        let mailbox = Mailbox::default();
        for _ in 0..100 {
            mailbox.push(output(ROOM / 10));
        }
        assert!(!mailbox.has_room());
        let mut shown = 0;
        while let Some(Event::Said(said)) = mailbox.poll() {
            shown += said.size();
        }
        assert!(mailbox.has_room());
        mailbox.push(output(1));
        let Some(Event::Said(Said::Message(_, text))) = mailbox.poll() else {
            panic!("no message")
        };
        let lost = 100 * (ROOM / 10) - shown;
        assert!(lost > 0);
        assert_eq!(
            text,
            format!("[{lost} bytes of build log not shown: they were not read in time]")
        );
    }
}
