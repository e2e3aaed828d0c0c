//! The events of one request: a queue that attempts fill and the request's thread empties.
//!
//! Attempts run on their own threads and never write to a client's connection. They push their log
//! records to the queue of every request that waits for them, and the request's thread forwards
//! them. So a client that reads slowly delays nobody else. Two limits bound the size of its queue:
//! at [`ROOM`] bytes of output, attempts that only this client waits for pause (see
//! [`EventQueue::has_room_or_notify`]); at four times that, output is dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use system::sync::{Condvar, Mutex, MutexGuard};

use store::Level;

use super::event_count::EventCount;
use super::goal::GoalId;
use super::log_sink::LogRecord;
use super::outcome::Outcome;
use super::status_question::StatusQuestion;
use super::turns::Turn;

/// The number of bytes of output in one client's queue at which its builds are paused.
const ROOM: usize = 1 << 20;

/// An event for a waiting request.
#[derive(Debug)]
pub(super) enum Event {
    /// A log record for the client.
    Log(LogRecord),
    /// The attempt that the goal has joined has ended.
    AttemptEnded { goal: GoalId, outcome: Outcome },
    /// An attempt that was being stopped when the goal wanted to join it has ended.
    StoppedAttemptEnded { goal: GoalId },
    /// A local build of this request has ended: its slot is free.
    SlotFreed,
    /// A build of the daemon has ended: locks and build machines may be free. Perhaps it is the request's
    /// turn to ask for one.
    BuildEnded(Option<Turn>),
    /// Somebody wants to know what the request does.
    StatusAsked(StatusQuestion),
    /// The client has disconnected.
    Cancelled,
}

impl Event {
    /// Bytes of output that the event carries.
    fn output_size(&self) -> usize {
        match self {
            Event::Log(record) if record.is_output() => record.size(),
            _ => 0,
        }
    }
}

#[derive(Default)]
struct Queue {
    events: VecDeque<Event>,
    /// The number of bytes of output in the events.
    bytes: usize,
    /// The number of bytes of output dropped since the last event that was kept.
    lost: usize,
    /// Attempts that are paused until there is room again.
    paused: Vec<Arc<EventCount>>,
}

/// The queue of one request.
#[derive(Default)]
pub(super) struct EventQueue {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

impl EventQueue {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Adds an event. Output that doesn't fit is dropped, and a message reports how much; all other
    /// events are always kept.
    pub(super) fn push(&self, event: Event) {
        let mut queue = self.queue();
        let size = event.output_size();
        if size > 0 && queue.bytes > 4 * ROOM {
            queue.lost += size;
            return;
        }
        queue.bytes += size;
        if queue.lost > 0 {
            let text = format!(
                "[{} bytes of build log not shown: they were not read in time]",
                queue.lost
            );
            queue.lost = 0;
            let message = LogRecord::Message(Level::Error, text);
            queue.events.push_back(Event::Log(message));
        }
        queue.events.push_back(event);
        self.arrived.notify_one();
    }

    /// Whether more output should be produced for this client now. If not, `paused` is notified
    /// when that changes.
    pub(super) fn has_room_or_notify(&self, paused: &Arc<EventCount>) -> bool {
        let mut queue = self.queue();
        if queue.bytes < ROOM {
            return true;
        }
        if !queue.paused.iter().any(|other| Arc::ptr_eq(other, paused)) {
            queue.paused.push(paused.clone());
        }
        false
    }

    /// Whether there is an event.
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
        queue.bytes -= event.output_size();
        if queue.bytes < ROOM {
            for paused in queue.paused.drain(..) {
                paused.notify();
            }
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(size: usize) -> Event {
        Event::Log(LogRecord::BuildOutput {
            pid: 1,
            data: vec![b'x'; size].into(),
        })
    }

    #[test]
    fn events_come_in_order_and_waiting_ends_at_the_deadline() {
        let queue = EventQueue::default();
        queue.push(Event::SlotFreed);
        queue.push(Event::BuildEnded(None));
        assert!(matches!(queue.wait(None), Some(Event::SlotFreed)));
        assert!(matches!(queue.poll(), Some(Event::BuildEnded(None))));
        assert!(queue.wait(Some(Instant::now())).is_none());
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed() {
        let queue = EventQueue::default();
        for _ in 0..100 {
            queue.push(output(ROOM / 10));
        }
        let attempt = Arc::new(EventCount::default());
        let key = attempt.key();
        assert!(!queue.has_room_or_notify(&attempt));
        let mut shown = 0;
        while let Some(Event::Log(record)) = queue.poll() {
            shown += record.size();
        }
        // A paused attempt was notified.
        assert_ne!(attempt.key(), key);
        assert!(queue.has_room_or_notify(&attempt));
        queue.push(output(1));
        let Some(Event::Log(LogRecord::Message(_, text))) = queue.poll() else {
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
