//! A Unix socket on which nobody waits longer than was agreed on.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::poll::wait_readable;
use system::sync::Mutex;

/// How long the other side may take.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Patience {
    /// Until when, in all.
    pub deadline: Option<Instant>,
    /// For the next byte.
    pub silence: Option<Duration>,
}

impl Patience {
    pub fn until(deadline: Instant) -> Patience {
        Patience {
            deadline: Some(deadline),
            silence: None,
        }
    }

    pub fn of_silence(silence: Duration) -> Patience {
        Patience {
            deadline: None,
            silence: Some(silence),
        }
    }

    /// For how long to wait now; `None` for ever.
    fn left(self) -> Option<Duration> {
        let total = self
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match (total, self.silence) {
            (Some(total), Some(silence)) => Some(total.min(silence)),
            (left, None) | (None, left) => left,
        }
    }
}

/// The socket; clones share their patience.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    socket: Arc<UnixStream>,
    patience: Arc<Mutex<Patience>>,
}

impl Stream {
    pub fn new(socket: UnixStream, patience: Patience) -> Stream {
        Stream {
            socket: Arc::new(socket),
            patience: Arc::new(Mutex::new(patience)),
        }
    }

    /// What holds from now on, for all clones.
    pub fn set_patience(&self, patience: Patience) {
        *self.patience.lock() = patience;
    }

    /// Ends the connection, for all clones.
    pub fn close(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn left(&self) -> Option<Duration> {
        self.patience.lock().left()
    }

    fn prepare_to_write(&self) -> io::Result<()> {
        let left = self.left();
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_write_timeout(left)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !wait_readable(&*self.socket, self.left())? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        (&*self.socket).read(buffer)
    }
}

impl Write for Stream {
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
    fn patience_ends() {
        let (ours, theirs) = system::pipe::socket_pair().unwrap();
        let mut stream = Stream::new(ours, Patience::of_silence(Duration::from_millis(10)));
        let error = stream.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        (&theirs).write_all(b"x").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 1);
        // Nobody reads there: writing ends, too.
        let error = stream.write_all(&[0; 4 << 20]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        stream.set_patience(Patience::until(Instant::now()));
        let error = stream.write(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
