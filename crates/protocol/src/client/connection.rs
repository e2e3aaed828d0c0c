//! A connection to a daemon.

use std::io::{self, BufReader, Read, Write};

use formats::StoreDir;
use formats::wire::ReadExt;

use super::Error;
use super::exchange::{BUFFER_SIZE, BodyWriter, LogCallback, Streams, work};
use crate::codec::{Source, put_bytes, put_long};
use crate::frames::{CLIENT_MAGIC, DAEMON_MAGIC};
use crate::operations::{Call, ImportPaths};
use crate::version::Version;

/// Options of the handshake.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether the daemon keeps disk space in reserve. Only false for a client that wants to
    /// collect garbage on a full disk.
    pub reserve_space: bool,
    /// The processor that the daemon should run on for this client.
    pub cpu: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            reserve_space: true,
            cpu: None,
        }
    }
}

/// Receives log messages for as long as the connection lasts.
type OwnLog = dyn FnMut(&[u8]) + Send;

/// How many bytes of requests may be sent together to any daemon. (ssh reads at least 16 KiB at a
/// time.)
pub const ONE_PIECE: usize = 15 << 10;

/// A function that reads one reply.
type ReadReply = fn(&mut Connection) -> Result<(), Error>;

/// A connection to a daemon, after the handshake.
///
/// ```no_run
/// use formats::StoreDir;
/// use protocol::client::{Address, Options};
///
/// let store = StoreDir::new("/gnu/store")?;
/// let address = Address::parse("/var/guix/daemon-socket/socket".as_ref())?;
/// let mut daemon = address.connect(&store, &Options::default())?;
/// let path = store.parse("/gnu/store/0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt")?;
/// println!("{} bytes", daemon.query_path_info(&path)?.nar_size);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Connection {
    reader: BufReader<Box<dyn Read + Send>>,
    writer: Box<dyn Write + Send>,
    version: Version,
    store: StoreDir,
    /// The request that is being composed.
    message: Vec<u8>,
    /// How to read the replies to the requests that go out with the next one.
    owed: Vec<ReadReply>,
    /// Whether the message contains requests whose replies are read later.
    posted: bool,
    /// The error of one of those requests.
    failed: Option<Error>,
    log: Box<OwnLog>,
}

impl Connection {
    /// Performs the handshake with the daemon at the other end of `reader` and `writer`, which need
    /// not be buffered.
    pub fn over(
        reader: Box<dyn Read + Send>,
        writer: Box<dyn Write + Send>,
        store: &StoreDir,
        options: &Options,
    ) -> Result<Connection, Error> {
        let doing = "shaking hands with the build daemon";
        let mut connection = Connection {
            reader: BufReader::with_capacity(BUFFER_SIZE, reader),
            writer,
            version: Version::CURRENT,
            store: store.clone(),
            message: Vec::new(),
            owed: Vec::new(),
            posted: false,
            failed: None,
            log: Box::new(|_| {}),
        };
        // All in one message, since the other end may be far away: the daemon goes by the version
        // that we announce, and every version of Guix's daemon supports these fields.
        let message = &mut connection.message;
        put_long(message, CLIENT_MAGIC.into());
        put_long(message, Version::CURRENT.0.into());
        put_long(message, options.cpu.is_some().into());
        if let Some(cpu) = options.cpu {
            put_long(message, cpu.into());
        }
        put_long(message, options.reserve_space.into());
        connection.send(doing)?;
        if connection.int(doing)? != DAEMON_MAGIC {
            let reason = "the other side is no build daemon".to_owned();
            return Err(Error::Protocol {
                doing: doing.to_owned(),
                reason,
            });
        }
        let version = Version(connection.int(doing)?);
        if version.major() != Version::CURRENT.major() {
            return Err(Error::Version(version));
        }
        connection.version = version;
        let Connection {
            reader,
            writer,
            log,
            ..
        } = &mut connection;
        work(reader, writer, version, doing, &mut Streams::new(log))?;
        Ok(connection)
    }

    /// The daemon's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The store directory.
    pub fn store(&self) -> &StoreDir {
        &self.store
    }

    /// Sets the receiver of log messages during operations that don't get a receiver of their own.
    /// Initially, messages are discarded.
    pub fn set_log(&mut self, log: impl FnMut(&[u8]) + Send + 'static) {
        self.log = Box::new(log);
    }

    /// Sends a request and waits for the reply.
    pub fn call<C: Call>(&mut self, request: &C) -> Result<C::Reply, Error> {
        self.listening(|daemon, log| daemon.call_with(request, Streams::new(log)))
    }

    /// Sends a request, exchanges data, and waits for the reply.
    pub fn call_with<C: Call>(
        &mut self,
        request: &C,
        streams: Streams<'_>,
    ) -> Result<C::Reply, Error> {
        self.exchange::<C>(request, |_| Ok(()), streams)
    }

    /// Sends a request and what `body` writes after it, and waits for the reply.
    pub(super) fn call_with_body<C: Call>(
        &mut self,
        request: &C,
        body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<C::Reply, Error> {
        self.listening(|daemon, log| daemon.exchange::<C>(request, body, Streams::new(log)))
    }

    /// Runs an operation with the connection's own log receiver ([`Connection::set_log`]).
    pub(super) fn listening<T>(
        &mut self,
        work: impl FnOnce(&mut Connection, &mut LogCallback<'_>) -> T,
    ) -> T {
        let mut log = std::mem::replace(&mut self.log, Box::new(|_| {}));
        let done = work(self, &mut *log);
        self.log = log;
        done
    }

    /// Puts a request before the next one, so that both are sent together and take one round trip.
    /// If it fails, the next call returns its error, even if that call's own request succeeded.
    ///
    /// The original daemon treats a request that arrives while it works as a violation of the
    /// protocol. However, it reads 32 KiB at a time, so requests that arrive together are safe:
    /// they are sent in one piece, small enough that SSH doesn't split it either.
    pub fn put_before<C: Call>(&mut self, request: &C) -> Result<(), Error> {
        self.add_request(request)?;
        self.owed.push(|daemon| daemon.reply::<C>().map(drop));
        Ok(())
    }

    /// Appends a request whose reply is read by [`Connection::reply_to`]. All posted requests are
    /// sent in one piece, with those put before them, by the first `reply_to`; replies have to be
    /// read in the order of the requests. Together they may have [`ONE_PIECE`] bytes, see
    /// [`Connection::put_before`].
    pub fn post<C: Call>(&mut self, request: &C) {
        self.append(request);
        self.posted = true;
    }

    /// Posts an [`ImportPaths`] with the whole archive, so that the daemon has it before it asks
    /// for it. The reply is read with [`Streams::sent_ahead`].
    pub fn post_import(&mut self, archive: &[u8]) {
        self.post(&ImportPaths {});
        put_bytes(&mut self.message, archive);
    }

    /// Waits for the reply to the first posted request that has not been answered.
    pub fn reply_to<C: Call>(&mut self, streams: Streams<'_>) -> Result<C::Reply, Error> {
        let sent = match std::mem::take(&mut self.posted) {
            true => self.send(C::OPERATION.name()),
            false => Ok(()),
        };
        self.receive::<C>(sent, streams)
    }

    /// Appends a request to the message, or sends the message first if both don't fit one piece.
    fn add_request<C: Call>(&mut self, request: &C) -> Result<(), Error> {
        if self.owed.is_empty() {
            self.message.clear();
        }
        let before = self.message.len();
        self.append(request);
        if before > 0 && self.message.len() > ONE_PIECE {
            let request = self.message.split_off(before);
            self.send(C::OPERATION.name())?;
            self.settle()?;
            self.message = request;
        }
        Ok(())
    }

    fn append<C: Call>(&mut self, request: &C) {
        put_long(&mut self.message, C::OPERATION.number().into());
        request.encode(&mut self.message, self.version);
    }

    /// Waits for the replies to requests that were sent with another one.
    fn settle(&mut self) -> Result<(), Error> {
        for reply in std::mem::take(&mut self.owed) {
            match reply(self) {
                Ok(()) => {}
                Err(error @ Error::Daemon { .. }) => _ = self.failed.get_or_insert(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for a reply to an operation that exchanges no data.
    fn reply<C: Call>(&mut self) -> Result<C::Reply, Error> {
        self.listening(|daemon, log| daemon.finish::<C>(Ok(()), Streams::new(log)))
    }

    fn exchange<C: Call>(
        &mut self,
        request: &C,
        body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
        streams: Streams<'_>,
    ) -> Result<C::Reply, Error> {
        self.add_request(request)?;
        let sent = self.send(C::OPERATION.name());
        let sent = sent.and_then(|()| self.send_body(C::OPERATION.name(), body));
        self.receive::<C>(sent, streams)
    }

    /// Waits for the replies to the requests put before this one, and for its own.
    fn receive<C: Call>(
        &mut self,
        sent: Result<(), Error>,
        streams: Streams<'_>,
    ) -> Result<C::Reply, Error> {
        let reply = match self.settle() {
            Ok(()) => self.finish::<C>(sent, streams),
            Err(error) => Err(error),
        };
        match self.failed.take() {
            Some(error) => Err(error),
            None => reply,
        }
    }

    /// Exchanges the data of a request, and waits for its reply.
    fn finish<C: Call>(
        &mut self,
        sent: Result<(), Error>,
        mut streams: Streams<'_>,
    ) -> Result<C::Reply, Error> {
        let doing = C::OPERATION.name();
        let streams = &mut streams;
        let Connection {
            reader,
            writer,
            version,
            store,
            ..
        } = self;
        match sent {
            Ok(()) => {}
            // A daemon that refuses a request may report the reason before it closes the
            // connection.
            Err(error @ Error::Io { .. }) => {
                return Err(match work(reader, writer, *version, doing, streams) {
                    Err(daemon_error @ Error::Daemon { .. }) => daemon_error,
                    _ => error,
                });
            }
            // The daemon still waits for the rest of the request, and won't answer.
            Err(error) => return Err(error),
        }
        work(reader, writer, *version, doing, streams)?;
        Source::new(reader, store, *version)
            .get()
            .map_err(|error| Error::decode(doing, error))
    }

    /// Sends the message.
    fn send(&mut self, doing: &str) -> Result<(), Error> {
        let sent = self
            .writer
            .write_all(&self.message)
            .and_then(|()| self.writer.flush());
        self.message.clear();
        self.message.shrink_to(BUFFER_SIZE);
        sent.map_err(|source| Error::Io {
            doing: doing.to_owned(),
            source,
        })
    }

    fn send_body(
        &mut self,
        doing: &str,
        body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut body_writer = BodyWriter::new(&mut self.writer);
        let written = body(&mut body_writer).and_then(|()| body_writer.flush());
        match written {
            Ok(()) => Ok(()),
            Err(source) if body_writer.failed => Err(Error::Io {
                doing: doing.to_owned(),
                source,
            }),
            Err(source) => Err(Error::Local {
                doing: doing.to_owned(),
                source,
            }),
        }
    }

    fn int(&mut self, doing: &str) -> Result<u32, Error> {
        self.reader
            .read_int()
            .map_err(|error| Error::decode(doing, error.into()))
    }
}
