//! A Unix socket whose reads and writes time out.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::poll::wait_readable;
use system::sync::Mutex;

/// The timeouts of reads and writes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timeouts {
    /// When everything must be done.
    pub deadline: Option<Instant>,
    /// How long there may be no progress.
    pub idle: Option<Duration>,
}

impl Timeouts {
    pub fn until(deadline: Instant) -> Timeouts {
        Timeouts {
            deadline: Some(deadline),
            idle: None,
        }
    }

    pub fn idle(idle: Duration) -> Timeouts {
        Timeouts {
            deadline: None,
            idle: Some(idle),
        }
    }

    /// How long the next read or write may wait; `None`: no timeout.
    fn remaining(self) -> Option<Duration> {
        let total = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match (total, self.idle) {
            (Some(total), Some(idle)) => Some(total.min(idle)),
            (left, None) | (None, left) => left,
        }
    }
}

/// The socket; clones share their timeouts.
#[derive(Debug, Clone)]
pub(super) struct TimedStream {
    socket: Arc<UnixStream>,
    timeouts: Arc<Mutex<Timeouts>>,
}

impl TimedStream {
    pub fn new(socket: UnixStream, timeouts: Timeouts) -> TimedStream {
        TimedStream {
            socket: Arc::new(socket),
            timeouts: Arc::new(Mutex::new(timeouts)),
        }
    }

    /// Sets the timeouts, for all clones.
    pub fn set_timeouts(&self, timeouts: Timeouts) {
        *self.timeouts.lock() = timeouts;
    }

    /// Ends the connection, for all clones.
    pub fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn remaining(&self) -> Option<Duration> {
        self.timeouts.lock().remaining()
    }

    fn prepare_to_write(&self) -> io::Result<()> {
        let remaining = self.remaining();
        if remaining.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_write_timeout(remaining)
    }
}

impl Read for TimedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !wait_readable(&*self.socket, self.remaining())? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        (&*self.socket).read(buffer)
    }
}

impl Write for TimedStream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.prepare_to_write()?;
        (&*self.socket).write(data)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.prepare_to_write()?;
        (&*self.socket).write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_time_out() {
        let (ours, theirs) = system::pipe::socket_pair().unwrap();
        let mut stream = TimedStream::new(ours, Timeouts::idle(Duration::from_millis(10)));
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        (&theirs).write_all(b"x").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 1);
        // Nobody reads from it: writing times out, too.
        let error = stream.write_all(&[0; 4 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        stream.set_timeouts(Timeouts::until(Instant::now()));
        let error = stream.write(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
