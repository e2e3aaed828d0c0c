//! What users are told: the daemon forwards this process's standard error to its client. And the end
//! of waiting: when the daemon has closed the pipe for replies.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use substitutes::{Stop, Waiter};
use system::poll::{PollFd, PollFlags, is_ready, poll};

/// Says what has gone wrong.
pub fn error(text: &str) {
    write(&format!("guix substitute: error: {text}\n"));
}

/// In one write, so that the daemon forwards it as a whole.
fn write(text: &str) {
    // If nobody listens, nothing is lost.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The daemon's client, which reads the log.
pub struct Log {
    /// The write end of the pipe for replies: it is never readable, and in error once the read end
    /// is closed.
    replies: OwnedFd,
    /// The other end, if it is another pipe, on which nothing happens.
    _other_end: Option<OwnedFd>,
}

impl Log {
    /// `replies` is where replies are written to.
    pub fn new(replies: File) -> io::Result<Log> {
        // What isn't a pipe may be readable, and that means nothing.
        if replies.metadata()?.file_type().is_fifo() {
            return Ok(Log {
                replies: replies.into(),
                _other_end: None,
            });
        }
        let (reader, writer) = system::pipe::pipe()?;
        Ok(Log {
            replies: reader,
            _other_end: Some(writer),
        })
    }

    /// Says what has gone wrong with one request.
    pub fn error(&mut self, text: &str) {
        error(text);
    }
}

impl Waiter for Log {
    fn time_left(&self) -> Result<Option<Duration>, Stop> {
        let mut fds = [PollFd::new(self.replies.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, Some(Duration::ZERO)) {
            Ok(_) if is_ready(&fds[0]) => Err(Stop::Interrupted),
            _ => Ok(None),
        }
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.replies.as_fd()
    }

    fn note_activity(&mut self) {}

    fn say(&mut self, text: &str) {
        write(text);
    }

    fn warn(&mut self, text: &str) {
        write(&format!("guix substitute: warning: {text}"));
    }
}
