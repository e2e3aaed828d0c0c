//! A switch that ends one build, from any thread: a flag that `poll` can wait for.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Thrown once; whoever polls its descriptor wakes up.
pub(super) struct Stop {
    thrown: AtomicBool,
    event: EventFd,
}

impl Stop {
    /// A switch not yet thrown.
    pub(super) fn new() -> std::io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Stop {
            thrown: AtomicBool::new(false),
            event,
        })
    }

    /// Throws it.
    pub(super) fn throw(&self) {
        self.thrown.store(true, Ordering::Release);
        // The counter of an eventfd that nobody reads is full only after 2^64 - 2 of these.
        let _ = self.event.write(1);
    }

    /// Whether it was thrown.
    pub(super) fn is_thrown(&self) -> bool {
        self.thrown.load(Ordering::Acquire)
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
