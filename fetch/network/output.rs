//! The pipe that decompressed bytes are written to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use system::poll::{PollFd, PollFlags, poll};
use system::wakeup::Wakeup;

/// The pipe of one request. It is closed when this is dropped.
pub struct Output {
    pipe: OwnedFd,
    /// How many bytes it gets in all.
    size: u64,
    written: AtomicU64,
    is_cancelled: AtomicBool,
    /// Readable once the request is cancelled.
    cancelled: Wakeup,
}

/// Why nothing more is written.
#[derive(Debug)]
pub enum OutputError {
    /// The request was cancelled.
    Cancelled,
    /// The pipe doesn't take any more.
    Pipe(io::Error),
}

impl Output {
    pub fn new(pipe: OwnedFd, size: u64) -> io::Result<Output> {
        system::pipe::set_nonblocking(&pipe, true)?;
        Ok(Output {
            pipe,
            size,
            written: AtomicU64::new(0),
            is_cancelled: AtomicBool::new(false),
            cancelled: Wakeup::new()?,
        })
    }

    /// How many bytes are written in all.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How many bytes are still to be written.
    pub fn left(&self) -> u64 {
        self.size - self.written()
    }

    /// How many bytes were written.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Ends [`Output::write`] soon.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
        self.cancelled.wake();
    }

    /// Writes all of `bytes`, or as many as are missing to the size. Only one thread writes at a time.
    pub fn write(&self, bytes: &[u8]) -> Result<(), OutputError> {
        let left = usize::try_from(self.left()).unwrap_or(usize::MAX);
        let mut rest = &bytes[..bytes.len().min(left)];
        while !rest.is_empty() {
            if self.is_cancelled.load(Ordering::Acquire) {
                return Err(OutputError::Cancelled);
            }
            match nix::unistd::write(&self.pipe, rest) {
                Ok(count) => {
                    rest = &rest[count..];
                    self.written.fetch_add(count as u64, Ordering::AcqRel);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait().map_err(OutputError::Pipe)?,
                Err(error) => return Err(OutputError::Pipe(error.into())),
            }
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = [
            PollFd::new(self.pipe.as_fd(), PollFlags::POLLOUT),
            PollFd::new(self.cancelled.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, None)
    }
}
