//! The protocol between whoever decides and the program that touches the network.
//!
//! Each side sends messages (see [`Frames`](super::Frames)) over a Unix stream socket, which is the
//! program's descriptor 0. A message is a word with its number, and fields, in the encoding of
//! [`formats::wire`]. The first message in each direction is `Hello`; a side that doesn't know the
//! other's version hangs up. Every string and list is bounded, so decoding one never takes more
//! memory than a small multiple of the message's length.
//!
//! A `Fetch` is accompanied by open files (`SCM_RIGHTS`), at most four: the pipe, and the sources that
//! are files, in order. No other message is.

use std::io;
use std::time::Duration;

use formats::wire::{self, ReadExt, WriteExt};

use super::error::{ErrorKind, NetworkError};
use super::event::Event;
use super::frames;
use super::limits::{BODY_LIMIT, FILES_LIMIT, PATIENCE_LIMIT, SOURCES_LIMIT, URL_LIMIT};
use super::request::{RequestId, Requester, User};
use crate::compression::Compression;

/// The version of the protocol.
pub const VERSION: u64 = 4;

/// The longest description of an error, in bytes.
const TEXT_LIMIT: u64 = 4 << 10;

/// Why a message could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A field.
    #[error(transparent)]
    Field(#[from] wire::Error),
    /// A number that means nothing.
    #[error("a message has {what} {number}")]
    Unknown {
        /// What it should have been.
        what: &'static str,
        /// The number.
        number: u64,
    },
    /// A list that is too long, or empty.
    #[error("a message has {0} sources")]
    Sources(u64),
    /// Bytes after the last field.
    #[error("a message has {0} bytes too many")]
    Rest(usize),
}

/// A source of a `Fetch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceMessage {
    /// An address.
    Url {
        /// The address.
        url: String,
        /// Its compression.
        compression: Compression,
    },
    /// One of the files that accompany the message.
    File {
        /// Its compression.
        compression: Compression,
    },
}

/// What the program is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The first message.
    Hello {
        /// The version of the protocol.
        version: u64,
    },
    /// See [`Exchange::get`](super::Exchange::get).
    Get {
        /// Who asks: users, and the exchanges of each, are served in turn.
        requester: Requester,
        /// The request.
        id: RequestId,
        /// The address.
        url: String,
        /// The largest body, in bytes.
        limit: u64,
        /// How long the answer may take.
        patience: Duration,
    },
    /// See [`Exchange::fetch`](super::Exchange::fetch).
    Fetch {
        /// Who asks.
        requester: Requester,
        /// The request.
        id: RequestId,
        /// The number of decompressed bytes.
        size: u64,
        /// How long a server may be silent.
        patience: Duration,
        /// The sources.
        sources: Vec<SourceMessage>,
    },
    /// A request is given up; it need not be answered.
    Cancel {
        /// The request.
        id: RequestId,
    },
}

/// What the program says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The first message.
    Hello {
        /// The version of the protocol.
        version: u64,
    },
    /// What happened to a request.
    Event {
        /// The request.
        id: RequestId,
        /// What happened.
        event: Event,
    },
}

// The numbers of messages.
const HELLO: u64 = 1;
const GET: u64 = 2;
const FETCH: u64 = 3;
const CANCEL: u64 = 4;
const RESPONSE: u64 = 2;
const STARTED: u64 = 3;
const PROGRESS: u64 = 4;
const SOURCE_FAILED: u64 = 5;
const FINISHED: u64 = 6;
const FAILED: u64 = 7;
const BUSY: u64 = 8;

/// The place in this table is a compression's number.
const COMPRESSIONS: [Compression; 6] = Compression::ALL;
/// A bit in a source's word, beside the compression's number: the source is a file.
const FILE: u64 = 1 << 8;

impl Request {
    /// How many open files accompany the message.
    pub fn files(&self) -> usize {
        match self {
            Request::Fetch { sources, .. } => 1 + files(sources),
            _ => 0,
        }
    }

    /// Appends the message, framed.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        frames::append(out, |out| {
            // Writing to memory can't fail, and strings are far from 4 GiB.
            let _ = self.write(out);
        });
    }

    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Request::Hello { version } => {
                out.write_u64(HELLO)?;
                out.write_u64(*version)
            }
            Request::Get {
                requester,
                id,
                url,
                limit,
                patience,
            } => {
                out.write_u64(GET)?;
                write_requester(out, *requester)?;
                out.write_u64(id.number())?;
                out.write_u64(*limit)?;
                write_duration(out, *patience)?;
                out.write_bytes(url)
            }
            Request::Fetch {
                requester,
                id,
                size,
                patience,
                sources,
            } => {
                out.write_u64(FETCH)?;
                write_requester(out, *requester)?;
                out.write_u64(id.number())?;
                out.write_u64(*size)?;
                write_duration(out, *patience)?;
                out.write_u64(sources.len() as u64)?;
                sources.iter().try_for_each(|source| match source {
                    SourceMessage::Url { url, compression } => {
                        out.write_u64(number_of(*compression))?;
                        out.write_bytes(url)
                    }
                    SourceMessage::File { compression } => {
                        out.write_u64(FILE | number_of(*compression))
                    }
                })
            }
            Request::Cancel { id } => {
                out.write_u64(CANCEL)?;
                out.write_u64(id.number())
            }
        }
    }

    /// The request in a message, without its frame.
    pub fn decode(mut message: &[u8]) -> Result<Request, MessageError> {
        let input = &mut message;
        let request = match input.read_u64()? {
            HELLO => Request::Hello {
                version: input.read_u64()?,
            },
            GET => Request::Get {
                requester: read_requester(input)?,
                id: RequestId(input.read_u64()?),
                limit: input.read_u64()?.min(BODY_LIMIT),
                patience: read_duration(input)?,
                url: input.read_string(URL_LIMIT as u64)?,
            },
            FETCH => Request::Fetch {
                requester: read_requester(input)?,
                id: RequestId(input.read_u64()?),
                size: input.read_u64()?,
                patience: read_duration(input)?,
                sources: read_sources(input)?,
            },
            CANCEL => Request::Cancel {
                id: RequestId(input.read_u64()?),
            },
            number => return Err(unknown("the number", number)),
        };
        at_end(input)?;
        Ok(request)
    }
}

impl Reply {
    /// Appends the message, framed.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        frames::append(out, |out| {
            // Writing to memory can't fail, and strings are far from 4 GiB.
            let _ = self.write(out);
        });
    }

    fn write(&self, out: &mut Vec<u8>) -> io::Result<()> {
        let (id, event) = match self {
            Reply::Hello { version } => {
                out.write_u64(HELLO)?;
                return out.write_u64(*version);
            }
            Reply::Event { id, event } => (id.number(), event),
        };
        let mut begin = |number: u64| {
            out.write_u64(number)?;
            out.write_u64(id)
        };
        match event {
            Event::Response {
                status,
                max_age,
                retry_after,
                body,
            } => {
                begin(RESPONSE)?;
                out.write_u64((*status).into())?;
                write_optional(out, *max_age)?;
                write_optional(out, *retry_after)?;
                out.write_bytes(body)
            }
            Event::Busy => begin(BUSY),
            Event::Started { source, total } => {
                begin(STARTED)?;
                out.write_u64(*source as u64)?;
                write_optional(out, *total)
            }
            Event::Progress { done, total } => {
                begin(PROGRESS)?;
                out.write_u64(*done)?;
                write_optional(out, *total)
            }
            Event::SourceFailed { source, error } => {
                begin(SOURCE_FAILED)?;
                out.write_u64(*source as u64)?;
                write_error(out, error)
            }
            Event::Finished {
                source,
                received,
                waited,
            } => {
                begin(FINISHED)?;
                out.write_u64(*source as u64)?;
                out.write_u64(*received)?;
                out.write_u64((*waited).into())
            }
            Event::Failed(error) => {
                begin(FAILED)?;
                write_error(out, error)
            }
        }
    }

    /// The reply in a message, without its frame.
    pub fn decode(mut message: &[u8]) -> Result<Reply, MessageError> {
        let input = &mut message;
        let number = input.read_u64()?;
        if number == HELLO {
            let version = input.read_u64()?;
            at_end(input)?;
            return Ok(Reply::Hello { version });
        }
        let id = RequestId(input.read_u64()?);
        let event = match number {
            RESPONSE => Event::Response {
                status: input.read_int()?,
                max_age: read_optional(input)?,
                retry_after: read_optional(input)?,
                body: input.read_bytes(BODY_LIMIT)?.into(),
            },
            BUSY => Event::Busy,
            STARTED => Event::Started {
                source: read_index(input)?,
                total: read_optional(input)?,
            },
            PROGRESS => Event::Progress {
                done: input.read_u64()?,
                total: read_optional(input)?,
            },
            SOURCE_FAILED => Event::SourceFailed {
                source: read_index(input)?,
                error: read_error(input)?,
            },
            FINISHED => Event::Finished {
                source: read_index(input)?,
                received: input.read_u64()?,
                waited: input.read_int()?,
            },
            FAILED => Event::Failed(read_error(input)?),
            number => return Err(unknown("the number", number)),
        };
        at_end(input)?;
        Ok(Reply::Event { id, event })
    }
}

fn files(sources: &[SourceMessage]) -> usize {
    let is_file = |source: &&SourceMessage| matches!(source, SourceMessage::File { .. });
    sources.iter().filter(is_file).count()
}

fn unknown(what: &'static str, number: u64) -> MessageError {
    MessageError::Unknown { what, number }
}

fn at_end(rest: &[u8]) -> Result<(), MessageError> {
    match rest.len() {
        0 => Ok(()),
        length => Err(MessageError::Rest(length)),
    }
}

fn write_requester(out: &mut Vec<u8>, requester: Requester) -> io::Result<()> {
    out.write_u64(requester.user.number())?;
    out.write_u64(requester.exchange)
}

fn read_requester(input: &mut &[u8]) -> Result<Requester, MessageError> {
    Ok(Requester {
        user: User(input.read_u64()?),
        exchange: input.read_u64()?,
    })
}

fn read_sources(input: &mut &[u8]) -> Result<Vec<SourceMessage>, MessageError> {
    let count = input.read_u64()?;
    if count == 0 || count > SOURCES_LIMIT as u64 {
        return Err(MessageError::Sources(count));
    }
    let mut sources = Vec::new();
    for _ in 0..count {
        let word = input.read_u64()?;
        let index = usize::try_from(word & !FILE).unwrap_or(usize::MAX);
        let compression = *COMPRESSIONS
            .get(index)
            .ok_or_else(|| unknown("the compression", word))?;
        sources.push(match word & FILE {
            0 => SourceMessage::Url {
                url: input.read_string(URL_LIMIT as u64)?,
                compression,
            },
            _ => SourceMessage::File { compression },
        });
    }
    match files(&sources) {
        count if count > FILES_LIMIT => Err(MessageError::Sources(count as u64)),
        _ => Ok(sources),
    }
}

fn number_of(compression: Compression) -> u64 {
    let number = COMPRESSIONS.iter().position(|other| *other == compression);
    number.unwrap_or_default() as u64
}

fn read_index(input: &mut &[u8]) -> Result<usize, MessageError> {
    match input.read_u64()? {
        index if index < SOURCES_LIMIT as u64 => Ok(index as usize),
        index => Err(unknown("the source", index)),
    }
}

/// A number that may be missing: a word, and the number.
fn write_optional(out: &mut Vec<u8>, number: Option<u64>) -> io::Result<()> {
    out.write_bool(number.is_some())?;
    out.write_u64(number.unwrap_or_default())
}

fn read_optional(input: &mut &[u8]) -> Result<Option<u64>, MessageError> {
    let (is_there, number) = (input.read_u64()?, input.read_u64()?);
    match is_there {
        0 => Ok(None),
        1 => Ok(Some(number)),
        other => Err(unknown("the truth value", other)),
    }
}

/// A duration, in milliseconds.
fn write_duration(out: &mut Vec<u8>, duration: Duration) -> io::Result<()> {
    out.write_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn read_duration(input: &mut &[u8]) -> Result<Duration, MessageError> {
    Ok(Duration::from_millis(input.read_u64()?).min(PATIENCE_LIMIT))
}

/// An error: its kind, the status, and the text.
fn write_error(out: &mut Vec<u8>, error: &NetworkError) -> io::Result<()> {
    let (kind, status) = match error.kind() {
        ErrorKind::HostNotFound => (0, 0),
        ErrorKind::Connect => (1, 0),
        ErrorKind::Tls => (2, 0),
        ErrorKind::Timeout => (3, 0),
        ErrorKind::Status(status) => (4, status),
        ErrorKind::Interrupted => (5, 0),
        ErrorKind::TooLarge => (6, 0),
        ErrorKind::Corrupt => (7, 0),
        ErrorKind::Protocol => (8, 0),
        ErrorKind::Refused => (9, 0),
        ErrorKind::Output => (10, 0),
        ErrorKind::ProgramDied => (11, 0),
        ErrorKind::ProgramMissing => (12, 0),
    };
    out.write_u64(kind)?;
    out.write_u64(status.into())?;
    out.write_bytes(error.text())
}

fn read_error(input: &mut &[u8]) -> Result<NetworkError, MessageError> {
    let (kind, status) = (input.read_u64()?, input.read_int()?);
    let kind = match kind {
        0 => ErrorKind::HostNotFound,
        1 => ErrorKind::Connect,
        2 => ErrorKind::Tls,
        3 => ErrorKind::Timeout,
        4 => ErrorKind::Status(status),
        5 => ErrorKind::Interrupted,
        6 => ErrorKind::TooLarge,
        7 => ErrorKind::Corrupt,
        8 => ErrorKind::Protocol,
        9 => ErrorKind::Refused,
        10 => ErrorKind::Output,
        11 => ErrorKind::ProgramDied,
        12 => ErrorKind::ProgramMissing,
        number => return Err(unknown("the error", number)),
    };
    let text = input.read_bytes(TEXT_LIMIT)?;
    Ok(NetworkError::new(kind, text.to_string()))
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
