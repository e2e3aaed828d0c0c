//! Talking to a daemon.

use std::io::{self, BufReader, Read, Write};

use formats::StoreDir;
use formats::wire::ReadExt;

use super::Error;
use super::exchange::{BUFFER, BodyWriter, work};
use crate::Version;
use crate::codec::{Source, put_long};
use crate::frames::{CLIENT_MAGIC, DAEMON_MAGIC};
use crate::operations::Call;

/// How to shake hands.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Let the daemon hold disk space in reserve. Only who collects garbage on a full disk
    /// doesn't.
    pub reserve_space: bool,
    /// The processor that the daemon's work should stay on.
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

/// Who listens to what the daemon says.
pub type Log<'a> = dyn FnMut(&[u8]) + 'a;

/// The same, for as long as a connection lasts.
type OwnLog = dyn FnMut(&[u8]) + Send;

/// What is exchanged with the daemon while it works.
pub struct Streams<'a> {
    /// Gets what the daemon has to say.
    pub log: &'a mut Log<'a>,
    /// Yields what the daemon asks for.
    pub source: Option<&'a mut dyn Read>,
    /// Takes what the daemon sends.
    pub sink: Option<&'a mut dyn Write>,
}

/// Reads one reply.
type ReadReply = fn(&mut Connection) -> Result<(), Error>;

/// A connection to a daemon, after the handshake.
pub struct Connection {
    reader: BufReader<Box<dyn Read + Send>>,
    writer: Box<dyn Write + Send>,
    version: Version,
    store: StoreDir,
    /// The request that is being put together.
    message: Vec<u8>,
    /// How to read the replies to requests that go out with the next one.
    owed: Vec<ReadReply>,
    /// Why one of those failed.
    failed: Option<Error>,
    pub(super) log: Box<OwnLog>,
}

impl Connection {
    /// Shakes hands with the daemon at the other end of `reader` and `writer`, which need no
    /// buffers of their own.
    pub fn over(
        reader: Box<dyn Read + Send>,
        writer: Box<dyn Write + Send>,
        store: &StoreDir,
        options: &Options,
    ) -> Result<Connection, Error> {
        let doing = "shaking hands with the build daemon";
        let mut connection = Connection {
            reader: BufReader::with_capacity(BUFFER, reader),
            writer,
            version: Version::CURRENT,
            store: store.clone(),
            message: Vec::new(),
            owed: Vec::new(),
            failed: None,
            log: Box::new(|_| {}),
        };
        // Everything at once, for the other end may be far away: the daemon goes by the version
        // that we announce, and every daemon that Guix had knows it all.
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
        let mut streams = Streams {
            log,
            source: None,
            sink: None,
        };
        work(reader, writer, version, doing, &mut streams)?;
        Ok(connection)
    }

    /// The daemon's version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The store that paths are in.
    pub fn store(&self) -> &StoreDir {
        &self.store
    }

    /// Who gets what the daemon says during operations that aren't given a listener of their
    /// own; nobody at first.
    pub fn set_log(&mut self, log: impl FnMut(&[u8]) + Send + 'static) {
        self.log = Box::new(log);
    }

    /// Asks, and waits for the reply.
    pub fn call<C: Call>(&mut self, request: &C) -> Result<C::Reply, Error> {
        self.exchange::<C>(request, |_| Ok(()), None, None, None)
    }

    /// Asks, exchanges what there is to exchange, and waits for the reply.
    pub fn call_with<C: Call>(
        &mut self,
        request: &C,
        streams: Streams<'_>,
    ) -> Result<C::Reply, Error> {
        let Streams { log, source, sink } = streams;
        self.exchange::<C>(request, |_| Ok(()), Some(log), source, sink)
    }

    /// Asks, sends what `body` writes after the request, and waits for the reply.
    pub(super) fn call_with_body<C: Call>(
        &mut self,
        request: &C,
        body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<C::Reply, Error> {
        self.exchange::<C>(request, body, None, None, None)
    }

    /// Puts a request before the next one, with which it goes out and is answered, so that several
    /// cost one round trip. If one fails, the next one's caller hears of it, whether or not that
    /// one was done.
    ///
    /// The original daemon takes a request that arrives while it works for a violation of the
    /// protocol. It reads 32 KiB at a time, though, so requests that arrive together are safe:
    /// they go out in one piece, small enough that SSH doesn't divide it either.
    pub fn put_before<C: Call>(&mut self, request: &C) -> Result<(), Error> {
        self.add_request(request)?;
        self.owed.push(|daemon| daemon.reply::<C>().map(drop));
        Ok(())
    }

    /// Appends a request to those put before it, or sends them first where it is too much for one
    /// piece.
    fn add_request<C: Call>(&mut self, request: &C) -> Result<(), Error> {
        const MOST: usize = 8 << 10;
        if self.owed.is_empty() {
            self.message.clear();
        }
        let before = self.message.len();
        put_long(&mut self.message, C::OPERATION.number().into());
        request.encode(&mut self.message, self.version);
        if before > 0 && self.message.len() > MOST {
            let request = self.message.split_off(before);
            self.send(C::OPERATION.name())?;
            self.settle()?;
            self.message = request;
        }
        Ok(())
    }

    /// Waits for the replies to what went out with another request.
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

    /// Waits for a reply without anything to exchange.
    fn reply<C: Call>(&mut self) -> Result<C::Reply, Error> {
        let doing = C::OPERATION.name();
        let mut streams = Streams {
            log: &mut *self.log,
            source: None,
            sink: None,
        };
        let reader = &mut self.reader;
        work(
            &mut *reader,
            &mut self.writer,
            self.version,
            doing,
            &mut streams,
        )?;
        Source::new(reader, &self.store, self.version)
            .get()
            .map_err(|error| Error::decode(doing, error))
    }

    fn exchange<C: Call>(
        &mut self,
        request: &C,
        body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
        log: Option<&mut Log<'_>>,
        source: Option<&mut dyn Read>,
        sink: Option<&mut dyn Write>,
    ) -> Result<C::Reply, Error> {
        self.add_request(request)?;
        let sent = self.send(C::OPERATION.name());
        let sent = sent.and_then(|()| self.send_body(C::OPERATION.name(), body));
        let reply = match self.settle() {
            Ok(()) => self.finish::<C>(sent, log, source, sink),
            Err(error) => Err(error),
        };
        match self.failed.take() {
            Some(error) => Err(error),
            None => reply,
        }
    }

    /// Exchanges what there is to exchange after a request, and waits for its reply.
    fn finish<C: Call>(
        &mut self,
        sent: Result<(), Error>,
        log: Option<&mut Log<'_>>,
        source: Option<&mut dyn Read>,
        sink: Option<&mut dyn Write>,
    ) -> Result<C::Reply, Error> {
        let doing = C::OPERATION.name();
        let Connection {
            reader,
            writer,
            log: own_log,
            version,
            store,
            ..
        } = self;
        let log = match log {
            Some(log) => log,
            None => &mut **own_log,
        };
        let mut streams = Streams {
            log: &mut *log,
            source: source.map(|source| source as &mut dyn Read),
            sink: sink.map(|sink| sink as &mut dyn Write),
        };
        if let Err(error) = sent {
            // A daemon that refuses a request may say why before it hangs up.
            return Err(
                match (&error, work(reader, writer, *version, doing, &mut streams)) {
                    (Error::Io { .. }, Err(told @ Error::Daemon { .. })) => told,
                    _ => error,
                },
            );
        }
        work(reader, writer, *version, doing, &mut streams)?;
        Source::new(reader, store, *version)
            .get()
            .map_err(|error| Error::decode(doing, error))
    }

    /// Sends the message that was put together.
    fn send(&mut self, doing: &str) -> Result<(), Error> {
        let sent = self
            .writer
            .write_all(&self.message)
            .and_then(|()| self.writer.flush());
        self.message.clear();
        self.message.shrink_to(BUFFER);
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
