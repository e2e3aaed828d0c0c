//! A time by which a daemon must have answered, however little it sends at a time.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use system::sync::Mutex;

/// The time by which everything must be over that is read from connections made with it, and written to them. It
/// holds for all of an answer: a daemon that sends a byte now and then gains nothing by it.
///
/// ```no_run
/// use std::time::Duration;
///
/// use formats::StoreDir;
/// use protocol::client::{Address, Deadline, Options};
///
/// let store = StoreDir::new("/gnu/store")?;
/// let address = Address::parse("/var/guix/daemon-socket/socket".as_ref())?;
/// let deadline = Deadline::after(Duration::from_secs(5));
/// let mut daemon = address.connect_before(&store, &Options::default(), &deadline)?;
/// deadline.restart(Duration::from_secs(5));
/// daemon.query_farm_status()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    /// So long from now.
    pub fn after(time: Duration) -> Deadline {
        Deadline(Arc::new(Mutex::new(Instant::now() + time)))
    }

    /// So long from now, instead of what it was.
    pub fn restart(&self, time: Duration) {
        *self.0.lock() = Instant::now() + time;
    }

    /// How much time is left; an error if none is.
    pub(super) fn left(&self) -> io::Result<Duration> {
        match self.0.lock().saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(left),
        }
    }
}

/// A stream on which a call can be given a time.
pub(super) trait Socket: Read + Write {
    fn limit_reading(&self, time: Duration) -> io::Result<()>;
    fn limit_writing(&self, time: Duration) -> io::Result<()>;
}

impl Socket for UnixStream {
    fn limit_reading(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn limit_writing(&self, time: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(time))
    }
}

impl Socket for TcpStream {
    fn limit_reading(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn limit_writing(&self, time: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(time))
    }
}

/// A stream that is read and written until its deadline.
pub(super) struct Timed<S> {
    pub stream: S,
    pub deadline: Deadline,
}

impl<S: Socket> Read for Timed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.limit_reading(self.deadline.left()?)?;
        self.stream.read(buffer)
    }
}

impl<S: Socket> Write for Timed<S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.limit_writing(self.deadline.left()?)?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
