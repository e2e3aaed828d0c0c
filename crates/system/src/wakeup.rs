//! Waking a thread that waits in [`poll`](crate::poll::poll) (`eventfd(2)`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A descriptor that is readable after [`Wakeup::wake`], until [`Wakeup::clear`].
#[derive(Debug)]
pub struct Wakeup(EventFd);

impl Wakeup {
    /// One that isn't readable yet.
    pub fn new() -> io::Result<Wakeup> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Wakeup(EventFd::from_flags(flags)?))
    }

    /// Makes it readable.
    pub fn wake(&self) {
        // The counter of an eventfd that nobody reads overflows only after 2⁶⁴ - 2 writes.
        let _ = self.0.write(1);
    }

    /// Makes it unreadable.
    pub fn clear(&self) {
        // Fails only if it was unreadable.
        let _ = self.0.read();
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::poll::wait_readable;

    #[test]
    fn it_is_readable_until_it_is_cleared() {
        let wakeup = Wakeup::new().unwrap();
        let readable = || wait_readable(wakeup.as_fd(), Some(Duration::ZERO)).unwrap();
        wakeup.clear();
        assert!(!readable());
        wakeup.wake();
        wakeup.wake();
        assert!(readable());
        wakeup.clear();
        assert!(!readable());
    }
}
