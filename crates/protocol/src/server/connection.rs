//! Reading what a client asks.

use std::io::{self, BufReader, Read, Write};

use formats::StoreDir;
use formats::nar::Extent;
use formats::wire::{self, ReadExt};

use super::Error;
use super::tunnel::Tunnel;
use crate::codec::{self, Source};
use crate::frames::{CLIENT_MAGIC, DAEMON_MAGIC};
use crate::operation::Operation;
use crate::operations::Call;
use crate::request::Request;
use crate::version::Version;

/// How much is read from the client at a time.
const BUFFER_SIZE: usize = 128 * 1024;

/// What can be seen of the client without reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It listens, as it should.
    Quiet,
    /// It sent something.
    Data,
    /// It is gone.
    Closed,
}

/// Looks at the client, without waiting and without taking what it sent: for a socket, `poll`
/// and a peeking `recv`.
pub trait Watch: Send {
    /// What it is doing.
    fn activity(&self) -> io::Result<Activity>;
}

/// For what can't be looked at: takes it to be quiet.
impl Watch for () {
    fn activity(&self) -> io::Result<Activity> {
        Ok(Activity::Quiet)
    }
}

/// What a client said when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Its version.
    pub version: Version,
    /// The processor its work should stay on.
    pub cpu: Option<u32>,
    /// Whether disk space is to be held in reserve.
    pub reserve_space: bool,
}

/// A connection to one client.
pub struct Connection<R> {
    reader: BufReader<R>,
    tunnel: Tunnel,
    store: StoreDir,
    watch: Box<dyn Watch>,
}

impl<R: Read> Connection<R> {
    /// Exchanges greetings. What remains of the handshake is like an operation without reply:
    /// [`begin`](Connection::begin), then [`finish`](Connection::finish_silently) or
    /// [`fail`](Connection::fail). Old Guile clients can take one [`Tunnel::log`] in between,
    /// not more.
    pub fn accept(
        reader: R,
        writer: Box<dyn Write + Send>,
        watch: Box<dyn Watch>,
        store: StoreDir,
    ) -> Result<(Self, Hello), Error> {
        let mut reader = BufReader::with_capacity(BUFFER_SIZE, reader);
        match reader.read_int() {
            Ok(CLIENT_MAGIC) => {}
            Ok(_) | Err(wire::Error::Integer) => return Err(Error::Mismatch),
            Err(error) => return Err(codec::Error::from(error).into()),
        }
        let mut tunnel = Tunnel::new(writer, Version::CURRENT);
        tunnel.send_raw(&[DAEMON_MAGIC, Version::CURRENT.0])?;
        let mut int = || reader.read_int().map_err(codec::Error::from);
        let version = Version(int()?);
        let cpu = match version.has_cpu_affinity() && int()? != 0 {
            true => Some(int()?),
            false => None,
        };
        let reserve_space = !version.has_reserve_space() || int()? != 0;
        tunnel.set_version(version);
        let hello = Hello {
            version,
            cpu,
            reserve_space,
        };
        Ok((
            Connection {
                reader,
                tunnel,
                store,
                watch,
            },
            hello,
        ))
    }

    /// Waits for the next request; `None` when the client has closed the connection. After an
    /// error, tell the client if it [can be told](Error::can_be_told), and close the connection.
    pub fn next_request(&mut self) -> Result<Option<Request>, Error> {
        let number = match self.reader.read_int() {
            Err(error) if error.is_eof() => return Ok(None),
            Err(wire::Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(None);
            }
            other => other.map_err(codec::Error::from)?,
        };
        let operation = Operation::from_number(number).ok_or(Error::Operation(number))?;
        let version = self.tunnel.version();
        let mut source = Source::new(&mut self.reader, &self.store, version);
        Ok(Some(Request::read(operation, &mut source)?))
    }

    /// The nar that follows an [`AddToStore`](crate::operations::AddToStore); to be read, or
    /// [drained](Extent::drain), before [`begin`](Connection::begin). If that fails because of
    /// what the client sent, the connection can't go on.
    pub fn nar(&mut self) -> Extent<&mut BufReader<R>> {
        Extent::new(&mut self.reader)
    }

    /// Begins work on what was asked: from now on the client gets to see messages. Fails if the
    /// client has gone ([`Error::Gone`]), or has sent something before it got its reply
    /// ([`Error::Pipelined`], which Guix makes an error of the operation). As in Guix, what came
    /// together with the request, and so has been received already, doesn't count.
    pub fn begin(&mut self) -> Result<(), Error> {
        self.tunnel.set_working(true);
        match self.watch.activity()? {
            Activity::Quiet => Ok(()),
            Activity::Data => Err(Error::Pipelined),
            Activity::Closed => Err(Error::Gone),
        }
    }

    /// The way to the client.
    pub fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// The store that paths are in.
    pub fn store(&self) -> &StoreDir {
        &self.store
    }

    /// Ends work with the reply to a request of type `C`.
    pub fn finish<C: Call>(&self, reply: &C::Reply) -> io::Result<()> {
        self.tunnel.finish(reply)
    }

    /// Ends work that has no reply: that of the handshake.
    pub fn finish_silently(&self) -> io::Result<()> {
        self.tunnel.finish(&codec::Nothing)
    }

    /// Ends work with an error.
    pub fn fail(&self, message: &str, status: u32) -> io::Result<()> {
        self.tunnel.fail(message, status)
    }

    pub(super) fn reader(&mut self) -> &mut BufReader<R> {
        &mut self.reader
    }
}
