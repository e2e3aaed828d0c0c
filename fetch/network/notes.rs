//! What threads that decompress tell the thread that touches the network.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use substitutes::network::RequestId;
use system::wakeup::Wakeup;

use super::outcome::Outcome;

/// Something that happened to the decoder of a request. A request may have had several decoders, which
/// are numbered.
pub struct Note {
    pub request: RequestId,
    pub decoder: u32,
    pub what: What,
}

/// See [`Note`].
pub enum What {
    /// There is room again for what the transfer brings.
    Room,
    /// The decoder has ended.
    Ended(Outcome),
}

/// Where notes arrive.
pub struct Notes {
    receiver: Receiver<Note>,
    sender: NoteSender,
}

/// Where notes are sent from.
#[derive(Clone)]
pub struct NoteSender {
    sender: Sender<Note>,
    wakeup: Arc<Wakeup>,
}

impl Notes {
    pub fn new() -> io::Result<Notes> {
        let wakeup = Arc::new(Wakeup::new()?);
        let (sender, receiver) = channel();
        let sender = NoteSender { sender, wakeup };
        Ok(Notes { receiver, sender })
    }

    pub fn sender(&self) -> NoteSender {
        self.sender.clone()
    }

    /// A descriptor that is readable when there is a note.
    pub fn fd(&self) -> RawFd {
        self.sender.wakeup.as_fd().as_raw_fd()
    }

    /// The notes that have arrived.
    pub fn take(&self) -> Vec<Note> {
        // Before the notes are taken: one that comes later is announced again.
        self.sender.wakeup.clear();
        self.receiver.try_iter().collect()
    }
}

impl NoteSender {
    pub fn send(&self, note: Note) {
        // The receiver is gone only when the program ends.
        let _ = self.sender.send(note);
        self.wakeup.wake();
    }
}
