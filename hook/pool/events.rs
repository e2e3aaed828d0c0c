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

    /// Adds one.
    pub fn push(&self, event: Event) {
        self.queue.lock().push_back(event);
        self.wakeup.wake();
    }

    /// Takes the next one.
    pub fn take(&self) -> Option<Event> {
        self.wakeup.clear();
        let mut queue = self.queue.lock();
        let event = queue.pop_front();
        if !queue.is_empty() {
            self.wakeup.wake();
        }
        event
    }
}

/// Readable when there may be an event.
impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }
}
