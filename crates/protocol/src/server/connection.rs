//! The daemon's side of a connection.

use std::io::{self, BufReader, Read, Write};

use formats::StoreDir;
use formats::nar::Extent;
use formats::wire::{self, ReadExt};
use system::quota::{Exceeded, Quota};

use super::Error;
use super::tunnel::Tunnel;
use crate::codec::{self, Source};
use crate::frames::{CLIENT_MAGIC, DAEMON_MAGIC};
use crate::operation::Operation;
use crate::operations::Call;
use crate::request::Request;
use crate::version::Version;

/// The size of the buffer for reading from the client, in bytes.
const BUFFER_SIZE: usize = 128 * 1024;

/// What the client is doing, as far as can be determined without reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Nothing: it waits for the daemon.
    Quiet,
    /// It has sent something.
    Data,
    /// It has closed the connection.
    Closed,
}

/// Checks the client without waiting and without consuming what it sent: for a socket, with `poll`
/// and a peeking `recv`.
pub trait Watch: Send {
    /// What the client is doing.
    fn activity(&self) -> io::Result<Activity>;
}

/// For connections that can't be checked: the client is taken to be quiet.
impl Watch for () {
    fn activity(&self) -> io::Result<Activity> {
        Ok(Activity::Quiet)
    }
}

/// What a client sends in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Its version.
    pub version: Version,
    /// The processor that the daemon should run on for this client.
    pub cpu: Option<u32>,
    /// Whether to keep disk space in reserve.
    pub reserve_space: bool,
}

/// A connection to one client.
pub struct Connection<R> {
    reader: BufReader<R>,
    tunnel: Tunnel,
    store: StoreDir,
    watch: Box<dyn Watch>,
    /// What the request that is being answered takes of the memory that clients share.
    memory: Option<Box<dyn Quota>>,
}

impl<R: Read> Connection<R> {
    /// Exchanges greetings. The rest of the handshake is like an operation without a reply:
    /// [`begin`](Connection::begin), then [`finish`](Connection::finish_silently) or
    /// [`fail`](Connection::fail). Guile clients read a single [`Tunnel::log`] in between, so no
    /// more are sent.
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
        tunnel.limit_logs(1);
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
                memory: None,
            },
            hello,
        ))
    }

    /// Has requests take memory, in bytes, from the client's share until they have been answered.
    pub fn limit_memory(&mut self, share: Box<dyn Quota>) {
        self.memory = Some(share);
    }

    /// Takes more of the client's share, for what is not part of a request: until the next one.
    pub fn take_memory(&mut self, bytes: u64) -> Result<(), Exceeded> {
        match &mut self.memory {
            Some(memory) => memory.take(bytes),
            None => Ok(()),
        }
    }

    /// Waits for the next request; `None` if the client has closed the connection. After an error,
    /// report it to the client if that [is possible](Error::can_be_told), and close the connection.
    pub fn next_request(&mut self) -> Result<Option<Request>, Error> {
        if let Some(memory) = &mut self.memory {
            memory.give_back();
        }
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
        if let Some(memory) = &mut self.memory {
            source = source.limited_by(&mut **memory);
        }
        Ok(Some(Request::read(operation, &mut source)?))
    }

    /// The nar that follows an [`AddToStore`](crate::operations::AddToStore). It has to be read, or
    /// [drained](Extent::drain), before [`begin`](Connection::begin). If that fails because of what
    /// the client sent, the connection has to be closed.
    pub fn nar(&mut self) -> Extent<&mut BufReader<R>> {
        Extent::new(&mut self.reader)
    }

    /// Begins the operation: from now on, log messages are sent to the client. Fails if the client
    /// has disconnected ([`Error::Gone`]), or has sent something before it got its reply
    /// ([`Error::Pipelined`], which is an error of the operation in Guix). As in Guix, data that
    /// arrived together with the request, and so has been received already, doesn't count.
    pub fn begin(&mut self) -> Result<(), Error> {
        self.tunnel.set_working(true);
        match self.watch.activity()? {
            Activity::Quiet => Ok(()),
            Activity::Data => Err(Error::Pipelined),
            Activity::Closed => Err(Error::Gone),
        }
    }

    /// Sends messages to the client.
    pub fn tunnel(&self) -> &Tunnel {
        &self.tunnel
    }

    /// The store directory.
    pub fn store(&self) -> &StoreDir {
        &self.store
    }

    /// Ends the operation with the reply to a request of type `C`.
    pub fn finish<C: Call>(&self, reply: &C::Reply) -> io::Result<()> {
        self.tunnel.finish(reply)
    }

    /// Ends the handshake, which has no reply.
    pub fn finish_silently(&self) -> io::Result<()> {
        self.tunnel.finish(&codec::Nothing)
    }

    /// Ends the operation with an error.
    pub fn fail(&self, message: &str, status: u32) -> io::Result<()> {
        self.tunnel.fail(message, status)
    }

    pub(super) fn reader(&mut self) -> &mut BufReader<R> {
        &mut self.reader
    }
}
