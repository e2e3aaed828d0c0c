//! What a keeper waits for: hooks, its worker, and answers of the scheduler.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use system::sync::Mutex;
use system::wakeup::Wakeup;

use super::failure::Failure;
use super::messages::Request;
use crate::frames::{Link, Status, WorkerHello};

/// How the stream of a worker has ended.
#[derive(Debug)]
pub enum StreamEnd {
    /// Before the worker has greeted: the command has failed, or runs something else.
    NoWorker(Failure),
    /// After it has said why it ends, or because it says what it should not.
    Failed(Failure),
    /// In order.
    Bye,
    /// Without a word.
    Cut,
}

/// What happens to a keeper.
pub enum Event {
    /// A hook has connected, and wants this.
    Client(UnixStream, Request),
    /// The scheduler says why the job waits.
    Reason(Result<String, Failure>),
    /// The worker has greeted.
    Greeted(Link),
    /// Its daemon answers.
    Ready(Box<WorkerHello>),
    /// It lives.
    Status(Status),
    /// Its stream has ended.
    Ended(StreamEnd),
}

/// The events that a keeper has not seen yet.
pub struct Events {
    queue: Mutex<VecDeque<Event>>,
    wakeup: Wakeup,
}

impl Events {
    /// None yet.
    pub fn new() -> io::Result<Events> {
        Ok(Events {
            queue: Mutex::default(),
            wakeup: Wakeup::new()?,
        })
    }

    /// Adds one. Of several statuses in a row only the last one is kept: the worker decides how many it
    /// sends.
    pub fn push(&self, event: Event) {
        let mut queue = self.queue.lock();
        match (&event, queue.back_mut()) {
            (Event::Status(_), Some(last @ Event::Status(_))) => *last = event,
            _ => queue.push_back(event),
        }
        drop(queue);
        self.wakeup.wake();
    }

    /// Takes all that there are now.
    pub fn take(&self) -> VecDeque<Event> {
        self.wakeup.clear();
        std::mem::take(&mut *self.queue.lock())
    }
}

/// Readable when there may be an event.
impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_statuses_take_the_room_of_one() {
        let events = Events::new().unwrap();
        let status = |free| Status {
            load: None,
            free: Some(free),
        };
        for free in 0..100_000 {
            events.push(Event::Status(status(free)));
        }
        events.push(Event::Ended(StreamEnd::Cut));
        events.push(Event::Status(status(1)));
        let taken = Vec::from(events.take());
        assert!(
            matches!(
                taken[..],
                [Event::Status(last), Event::Ended(StreamEnd::Cut), Event::Status(_)]
                    if last.free == Some(99_999)
            ),
            "{}",
            taken.len()
        );
        assert!(events.take().is_empty());
    }
}
