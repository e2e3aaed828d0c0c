//! A question to a request what it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use farm::status::{self, Room};

/// The question; it is answered once, or not at all.
#[derive(Debug)]
pub(super) struct StatusQuestion {
    /// How much the answer may list.
    pub(super) room: Room,
    number: u64,
    answers: Sender<(u64, Box<status::Request>)>,
    is_asked: Arc<AtomicBool>,
}

impl StatusQuestion {
    /// A question to the request with this number, which may list so much. `is_asked` becomes false with its end.
    pub(super) fn new(
        number: u64,
        room: Room,
        answers: Sender<(u64, Box<status::Request>)>,
        is_asked: Arc<AtomicBool>,
    ) -> StatusQuestion {
        StatusQuestion {
            room,
            number,
            answers,
            is_asked,
        }
    }

    /// Answers it. Perhaps nobody waits for the answer any more.
    pub(super) fn answer(self, what: status::Request) {
        let _ = self.answers.send((self.number, Box::new(what)));
    }
}

impl Drop for StatusQuestion {
    fn drop(&mut self) {
        self.is_asked.store(false, Ordering::Release);
    }
}
