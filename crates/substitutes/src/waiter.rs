//! Who waits while servers are asked and items are fetched: what they are told, and when they have
//! waited long enough.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use system::poll::{PollFd, PollFlags, is_ready, poll};

use crate::servers::Server;

/// Why waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// Nobody waits any more.
    #[error("interrupted by the user")]
    Interrupted,
    /// It took longer than this, in seconds.
    #[error("timed out after {0} seconds")]
    TotalTimeout(u64),
    /// Nothing happened for so long, in seconds.
    #[error("timed out after {0} seconds of silence")]
    SilenceTimeout(u64),
}

/// Somebody who waits.
pub trait Waiter {
    /// How long to wait for the next thing to happen (`None`: for ever), or why not to wait any
    /// longer.
    fn time_left(&self) -> Result<Option<Duration>, Stop>;

    /// A descriptor that becomes readable when [`Waiter::time_left`] is to be asked again.
    fn wake_fd(&self) -> BorrowedFd<'_>;

    /// Something happened.
    fn note_activity(&mut self);

    /// So many bytes of an item have arrived.
    fn note_received(&mut self, _bytes: u64) {
        self.note_activity();
    }

    /// An item is fetched from this server now.
    fn note_server(&mut self, _server: &Arc<Server>) {}

    /// A piece of what `guix substitute` would write to its standard error. Text from others in it
    /// is printable.
    fn say(&mut self, text: &str);

    /// A warning, of one line.
    fn warn(&mut self, text: &str) {
        self.say(text);
    }
}

/// Waits until one of `fds` is readable, `timeout` has passed, or the waiter is to be asked again.
/// Returns which of `fds` are readable.
pub(crate) fn wait<const N: usize>(
    waiter: &dyn Waiter,
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled: Vec<PollFd<'_>> = fds
        .into_iter()
        .chain([waiter.wake_fd()])
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    poll(&mut polled, timeout)?;
    let mut ready = [false; N];
    for (ready, fd) in ready.iter_mut().zip(&polled) {
        *ready = is_ready(fd);
    }
    Ok(ready)
}
