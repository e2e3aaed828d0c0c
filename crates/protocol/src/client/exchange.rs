//! Exchanging data with a daemon, during one operation.

use std::io::{self, IoSlice, Read, Write};

use formats::wire::{ReadExt, padding};

use super::Error;
use crate::codec::put_long;
use crate::frames::{ERROR, LAST, MAX_TEXT, NEXT, READ, WRITE};
use crate::version::Version;

/// Receives the daemon's log output, piece by piece.
pub type LogCallback<'a> = dyn FnMut(&[u8]) + 'a;

/// Data that is exchanged with the daemon during an operation.
pub struct Streams<'a> {
    /// Receives the daemon's log output.
    pub log: &'a mut LogCallback<'a>,
    /// Yields the data that the daemon asks for.
    pub source: Option<&'a mut dyn Read>,
    /// Receives the data that the daemon sends.
    pub sink: Option<&'a mut dyn Write>,
    /// The first piece that the daemon asks for was sent with the request
    /// ([`post_import`](super::Connection::post_import)).
    pub sent_ahead: bool,
}

impl<'a> Streams<'a> {
    /// Only log messages.
    pub fn new(log: &'a mut LogCallback<'a>) -> Streams<'a> {
        Streams {
            log,
            source: None,
            sink: None,
            sent_ahead: false,
        }
    }
}

/// The size of buffers for data, in bytes.
pub(super) const BUFFER_SIZE: usize = 128 * 1024;
/// The most that is sent in answer to one READ, in bytes.
const MAX_PIECE: u64 = crate::frames::READ_MOST as u64;

/// Buffers small writes and records which side failed.
pub(super) struct BodyWriter<'a> {
    target: &'a mut dyn Write,
    buffer: Vec<u8>,
    /// Whether writing to the daemon failed.
    pub(super) failed: bool,
}

impl<'a> BodyWriter<'a> {
    /// A writer to the daemon.
    pub(super) fn new(target: &'a mut dyn Write) -> Self {
        BodyWriter {
            target,
            buffer: Vec::new(),
            failed: false,
        }
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + data.len() > BUFFER_SIZE {
            self.flush()?;
        }
        if data.len() < BUFFER_SIZE {
            self.buffer.extend_from_slice(data);
            return Ok(data.len());
        }
        let sent = self.target.write_all(data);
        self.failed |= sent.is_err();
        sent.map(|()| data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let sent = self.target.write_all(&self.buffer);
        self.buffer.clear();
        self.failed |= sent.is_err();
        sent
    }
}

/// Does the client's part of an operation until the daemon reports the end.
pub(super) fn work(
    mut reader: &mut impl Read,
    writer: &mut dyn Write,
    version: Version,
    doing: &str,
    streams: &mut Streams<'_>,
) -> Result<(), Error> {
    let failed = |error: formats::wire::Error| Error::decode(doing, error.into());
    let remote = |source| Error::Io {
        doing: doing.to_owned(),
        source,
    };
    let local = |source| Error::Local {
        doing: doing.to_owned(),
        source,
    };
    let unexpected = |reason: String| Error::Protocol {
        doing: doing.to_owned(),
        reason,
    };
    let mut piece = Vec::new();
    let mut has_ended = false;
    loop {
        match reader.read_u64().map_err(failed)? {
            NEXT => (streams.log)(&reader.read_bytes(MAX_TEXT).map_err(failed)?),
            LAST => return Ok(()),
            ERROR => {
                let message = reader.read_bytes(MAX_TEXT).map_err(failed)?.to_string();
                let status = match version.has_error_status().then(|| reader.read_int()) {
                    // A daemon that gives up during the handshake may leave out the status.
                    None | Some(Err(_)) => crate::frames::status::FAILURE,
                    Some(Ok(status)) => status,
                };
                return Err(Error::Daemon { message, status });
            }
            READ => {
                let most = u64::from(reader.read_int().map_err(failed)?).min(MAX_PIECE) as usize;
                if std::mem::take(&mut streams.sent_ahead) {
                    continue;
                }
                let Some(source) = &mut streams.source else {
                    return Err(unexpected("the daemon asks for data".to_owned()));
                };
                piece.resize(most, 0);
                let count = fill(source, &mut piece).map_err(local)?;
                // It could go on asking for ever.
                if count == 0 && std::mem::replace(&mut has_ended, true) {
                    return Err(unexpected(
                        "the daemon asks for more than all data".to_owned(),
                    ));
                }
                let mut head = Vec::with_capacity(8);
                put_long(&mut head, count as u64);
                let tail = &[0; 8][..padding(count as u64)];
                let parts = [
                    IoSlice::new(&head),
                    IoSlice::new(&piece[..count]),
                    IoSlice::new(tail),
                ];
                write_parts(writer, parts).map_err(remote)?;
            }
            WRITE => {
                let size = u64::from(reader.read_int().map_err(failed)?);
                let Some(sink) = &mut streams.sink else {
                    return Err(unexpected("the daemon sends data".to_owned()));
                };
                piece.resize(BUFFER_SIZE, 0);
                let mut left = size;
                while left > 0 {
                    let most = left.min(piece.len() as u64) as usize;
                    let count = read_some(&mut reader, &mut piece[..most]).map_err(remote)?;
                    if count == 0 {
                        return Err(remote(io::ErrorKind::UnexpectedEof.into()));
                    }
                    sink.write_all(&piece[..count]).map_err(local)?;
                    left -= count as u64;
                }
                reader.read_padding(size).map_err(failed)?;
            }
            other => return Err(unexpected(format!("invalid error code {other:#x}"))),
        }
    }
}

/// Fills the buffer as far as there is data: a short answer to a READ costs a round trip like a
/// long one.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_some(source, &mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Reads what is available at the moment; waits for the first byte.
fn read_some(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn write_parts<const N: usize>(
    writer: &mut dyn Write,
    mut parts: [IoSlice<'_>; N],
) -> io::Result<()> {
    let mut parts = &mut parts[..];
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match writer.write_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut parts, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    writer.flush()
}
