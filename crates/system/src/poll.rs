//! Waiting for several descriptors at once, with `poll`.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::PollTimeout;
pub use nix::poll::{PollFd, PollFlags};

/// Waits until one of the descriptors is ready or has been hung up, a signal has been handled, or
/// `timeout` has passed (`None`: no timeout). The caller checks with [`is_ready`] which one it was,
/// and waits again if none is.
///
/// The timeout is rounded up to whole milliseconds, so that a caller that waits for a deadline
/// isn't woken repeatedly just before it.
///
/// ```
/// use std::os::fd::AsFd;
/// use std::time::Duration;
/// use system::poll::{PollFd, PollFlags, is_ready, poll};
///
/// let (reader, writer) = system::pipe::pipe()?;
/// let mut fds = [
///     PollFd::new(reader.as_fd(), PollFlags::POLLIN),
///     PollFd::new(writer.as_fd(), PollFlags::POLLOUT),
/// ];
/// poll(&mut fds, Some(Duration::from_secs(1)))?;
/// assert_eq!(fds.map(|fd| is_ready(&fd)), [false, true]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.map_or(PollTimeout::NONE, |left| {
        PollTimeout::try_from(left.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
    });
    match nix::poll::poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the last [`poll`] found this descriptor ready or hung up.
pub fn is_ready(fd: &PollFd<'_>) -> bool {
    fd.any().unwrap_or(false)
}

/// Waits until a descriptor is readable or has been hung up; `None` means no timeout. Returns false
/// on timeout.
pub fn wait_readable(fd: impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, left)?;
        if is_ready(&fds[0]) {
            return Ok(true);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
    }
}

/// Reads what is available; an error of the kind `TimedOut` if nothing is by `deadline`.
pub fn read_before(
    file: &mut (impl Read + AsFd),
    buffer: &mut [u8],
    deadline: Instant,
) -> io::Result<usize> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if !wait_readable(&*file, Some(left))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipe::pipe;

    #[test]
    fn waiting_lasts_as_long_as_asked() {
        let (reader, _writer) = pipe().unwrap();
        let start = Instant::now();
        assert!(!wait_readable(&reader, Some(Duration::from_millis(30))).unwrap());
        assert!(start.elapsed() >= Duration::from_millis(30));
    }

    #[test]
    fn a_timeout_is_rounded_up() {
        let (reader, _writer) = pipe().unwrap();
        let start = Instant::now();
        let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, Some(Duration::from_micros(1200))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(2));
        assert!(!is_ready(&fds[0]));
    }

    #[test]
    fn a_hang_up_ends_the_wait() {
        let (reader, writer) = pipe().unwrap();
        drop(writer);
        assert!(wait_readable(&reader, None).unwrap());
    }
}
