//! A Unix socket whose reads and writes time out.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::poll::wait_readable;
use system::sync::Mutex;

/// How many bytes have to move within the time for which a transfer may be idle: a machine could
/// send a byte now and then for ever. (A modem of 9600 baud takes a quarter of an hour for them.)
const STEP: u64 = 1 << 20;

/// The timeouts of reads and writes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timeouts {
    /// When everything must be done.
    pub deadline: Option<Instant>,
    /// How long there may be no progress.
    pub idle: Option<Duration>,
    /// How many bytes are progress.
    pub step: u64,
    /// How many bytes may be read.
    pub most: Option<u64>,
}

impl Timeouts {
    pub fn until(deadline: Instant) -> Timeouts {
        Timeouts {
            deadline: Some(deadline),
            ..Timeouts::default()
        }
    }

    pub fn idle(idle: Duration) -> Timeouts {
        Timeouts {
            idle: Some(idle),
            ..Timeouts::default()
        }
    }

    /// For transfers of any size.
    pub fn transfer(idle: Duration) -> Timeouts {
        Timeouts {
            step: STEP,
            ..Timeouts::idle(idle)
        }
    }
}

/// The timeouts, and how far the reads and writes are that they are for.
#[derive(Debug)]
pub(super) struct Patience {
    timeouts: Timeouts,
    /// How long we have waited, and how many bytes have moved, since there was progress.
    waited: Duration,
    moved: u64,
    /// How many bytes have been read.
    read: u64,
}

impl Patience {
    pub fn new(timeouts: Timeouts) -> Patience {
        Patience {
            timeouts,
            waited: Duration::ZERO,
            moved: 0,
            read: 0,
        }
    }

    /// How long the next read or write may wait; `None`: no timeout.
    pub fn remaining(&self) -> Option<Duration> {
        let total = self
            .timeouts
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let idle = self.timeouts.idle;
        let idle = idle.map(|idle| idle.saturating_sub(self.waited));
        match (total, idle) {
            (Some(total), Some(idle)) => Some(total.min(idle)),
            (left, None) | (None, left) => left,
        }
    }

    /// Records a read or write that has moved some bytes.
    pub fn moved(&mut self, count: usize, waited: Duration) {
        self.waited += waited;
        self.moved += count as u64;
        if self.moved >= self.timeouts.step.max(1) {
            (self.waited, self.moved) = (Duration::ZERO, 0);
        }
    }

    fn read(&mut self, count: usize) -> io::Result<()> {
        self.read += count as u64;
        match self.timeouts.most {
            Some(most) if self.read > most => Err(io::Error::other("it says too much")),
            _ => Ok(()),
        }
    }
}

/// The socket; clones share their timeouts.
#[derive(Debug, Clone)]
pub(super) struct TimedStream {
    socket: Arc<UnixStream>,
    patience: Arc<Mutex<Patience>>,
}

impl TimedStream {
    pub fn new(socket: UnixStream, timeouts: Timeouts) -> TimedStream {
        TimedStream {
            socket: Arc::new(socket),
            patience: Arc::new(Mutex::new(Patience::new(timeouts))),
        }
    }

    /// Sets the timeouts, for all clones.
    pub fn set_timeouts(&self, timeouts: Timeouts) {
        *self.patience.lock() = Patience::new(timeouts);
    }

    /// Ends the connection, for all clones.
    pub fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn remaining(&self) -> Option<Duration> {
        self.patience.lock().remaining()
    }

    fn write_with(
        &self,
        write: impl FnOnce(&UnixStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let remaining = self.remaining();
        if remaining.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_write_timeout(remaining)?;
        let began = Instant::now();
        let count = write(&self.socket)?;
        self.patience.lock().moved(count, began.elapsed());
        Ok(count)
    }
}

impl Read for TimedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let began = Instant::now();
        if !wait_readable(&*self.socket, self.remaining())? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let count = (&*self.socket).read(buffer)?;
        let mut patience = self.patience.lock();
        patience.moved(count, began.elapsed());
        patience.read(count)?;
        Ok(count)
    }
}

impl Write for TimedStream {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.write_with(|mut socket| socket.write(data))
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_with(|mut socket| socket.write_vectored(parts))
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

    #[test]
    fn a_byte_now_and_then_is_no_progress() {
        let (ours, theirs) = system::pipe::socket_pair().unwrap();
        let timeouts = Timeouts::transfer(Duration::from_millis(200));
        let mut stream = TimedStream::new(ours, timeouts);
        let dripping = std::thread::spawn(move || {
            while (&theirs).write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let mut arrived = 0;
        let error = loop {
            match stream.read(&mut [0; 16]) {
                Ok(count) => arrived += count,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(arrived > 0);
        drop(stream);
        dripping.join().unwrap();
    }

    #[test]
    fn steady_progress_may_take_any_time() {
        let mut patience = Patience::new(Timeouts::transfer(Duration::from_secs(10)));
        for _ in 0..100 {
            patience.moved(STEP as usize / 2, Duration::from_secs(4));
            assert!(!patience.remaining().unwrap().is_zero());
        }
        patience.moved(1, Duration::from_secs(10));
        assert!(patience.remaining().unwrap().is_zero());
    }

    #[test]
    fn more_than_was_asked_for_is_an_error() {
        let (ours, theirs) = system::pipe::socket_pair().unwrap();
        let timeouts = Timeouts {
            most: Some(10),
            ..Timeouts::default()
        };
        let mut stream = TimedStream::new(ours, timeouts);
        (&theirs).write_all(&[0; 10]).unwrap();
        assert_eq!(stream.read(&mut [0; 16]).unwrap(), 10);
        (&theirs).write_all(b"x").unwrap();
        assert!(stream.read(&mut [0; 16]).is_err());
    }
}
