//! One frame: its types, and its header.

use super::PAYLOAD_LIMIT;
use super::error::FrameError;

/// The length of a header, in bytes.
pub(super) const HEADER: usize = 8;
/// The flag of a payload that is a piece of the compressed stream.
pub(super) const COMPRESSED: u8 = 1;

/// The types of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What each side is, as JSON.
    Hello,
    /// The keeper wants a connection to the daemon, in this channel.
    Open,
    /// Bytes of a channel.
    Data,
    /// The end of the bytes that this side sends in a channel.
    End,
    /// The end of a channel in both directions; the payload is the reason, which may be empty.
    Close,
    /// How many more bytes may be sent in a channel: a word of 32 bits.
    Credit,
    /// This side lives; the payload is its [`Status`](super::Status), as JSON.
    Ping,
    /// The answer to a ping, with the same kind of payload.
    Pong,
    /// An orderly end: from the keeper, the wish; from the worker, that it ends.
    Bye,
    /// Why this side ends: a [`Failure`](super::Failure), as JSON.
    Error,
}

impl Kind {
    /// All types, in the order of their numbers, which begin with 1.
    const ALL: [Kind; 10] = [
        Kind::Hello,
        Kind::Open,
        Kind::Data,
        Kind::End,
        Kind::Close,
        Kind::Credit,
        Kind::Ping,
        Kind::Pong,
        Kind::Bye,
        Kind::Error,
    ];

    fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Its name, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Hello => "hello",
            Kind::Open => "open",
            Kind::Data => "data",
            Kind::End => "end",
            Kind::Close => "close",
            Kind::Credit => "credit",
            Kind::Ping => "ping",
            Kind::Pong => "pong",
            Kind::Bye => "bye",
            Kind::Error => "error",
        }
    }
}

/// A frame that has arrived, decompressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: Kind,
    /// The channel that it belongs to; 0 if it belongs to none.
    pub channel: u16,
    /// What it carries.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// The number of bytes of a credit frame.
    pub fn credit(&self) -> Result<u32, FrameError> {
        match self.payload.try_into() {
            Ok(bytes) => Ok(u32::from_le_bytes(bytes)),
            Err(_) => Err(FrameError::Payload {
                frame: self.kind.name(),
                reason: format!("it has {} bytes instead of 4", self.payload.len()),
            }),
        }
    }

    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.payload).into_owned()
    }
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub compressed: bool,
    pub channel: u16,
    pub length: usize,
}

impl Header {
    /// Checks a header that has arrived.
    pub fn decode(bytes: [u8; HEADER]) -> Result<Header, FrameError> {
        let [number, flags, low, high, length @ ..] = bytes;
        let kind = Kind::from_number(number).ok_or(FrameError::Kind(number))?;
        if flags & !COMPRESSED != 0 {
            return Err(FrameError::Flags(flags));
        }
        let length = u32::from_le_bytes(length);
        if length as usize > PAYLOAD_LIMIT {
            return Err(FrameError::TooLong(length));
        }
        Ok(Header {
            kind,
            compressed: flags & COMPRESSED != 0,
            channel: u16::from_le_bytes([low, high]),
            length: length as usize,
        })
    }

    pub fn encode(self) -> [u8; HEADER] {
        let [low, high] = self.channel.to_le_bytes();
        let [a, b, c, d] = (self.length as u32).to_le_bytes();
        let flags = if self.compressed { COMPRESSED } else { 0 };
        [self.kind.number(), flags, low, high, a, b, c, d]
    }
}
