//! Encoding and decoding the values in requests and replies.
//!
//! Values are written to memory, so that a whole message is sent with one system call. Reading is
//! limited by a maximum for each string and a [budget](Source::new) for the whole message.

use std::collections::BTreeSet;
use std::io::{self, Read};

use bstr::BString;
use formats::wire::{self, ReadExt, WriteExt};
use formats::{Algorithm, Hash, StoreDir, StorePath, hash, store_path};
use system::quota::{Exceeded, Quota};

use crate::version::Version;

/// The maximum length of a file name, name or setting in a message.
pub const MAX_STRING: u64 = 64 << 10;
/// The maximum length of AddTextToStore's text.
pub const MAX_TEXT: u64 = 512 << 20;
/// The maximum length of a message, not counting AddTextToStore's text and streamed data.
const MAX_MESSAGE: u64 = 256 << 20;
/// How much of a message is not counted in the client's share of the memory, and in what steps
/// the rest is. Small messages take no lock.
const FREE: u64 = 64 << 10;
const STEP: u64 = 1 << 20;

/// Why a value could not be decoded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The message is truncated or malformed.
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// Not a valid store path.
    #[error(transparent)]
    Path(#[from] store_path::Error),
    /// Not a valid hash.
    #[error(transparent)]
    Hash(#[from] hash::Error),
    /// A number without a meaning.
    #[error("invalid {what} {value}")]
    Value {
        /// What it should encode.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// The message is too long.
    #[error("message is too long")]
    TooLong,
    /// The client has no share left of the memory for requests.
    #[error(transparent)]
    Memory(#[from] Exceeded),
}

/// Reads messages.
pub struct Source<'a> {
    reader: &'a mut dyn Read,
    store: &'a StoreDir,
    version: Version,
    budget: u64,
    /// What the message takes of the memory that clients share, in bytes.
    quota: Option<&'a mut dyn Quota>,
    kept: u64,
    taken: u64,
}

impl<'a> Source<'a> {
    /// A reader of messages from `reader`, encoded as in `version`, with paths in `store`.
    pub fn new(reader: &'a mut dyn Read, store: &'a StoreDir, version: Version) -> Self {
        Source {
            reader,
            store,
            version,
            budget: MAX_MESSAGE,
            quota: None,
            kept: 0,
            taken: FREE,
        }
    }

    /// Takes memory from a client's share.
    pub fn limited_by(self, quota: &'a mut dyn Quota) -> Self {
        Source {
            quota: Some(quota),
            ..self
        }
    }

    /// The rest of the message can't be longer than so many bytes.
    pub(crate) fn limit(&mut self, bytes: u64) {
        self.budget = self.budget.min(bytes);
    }

    /// The protocol version, which determines the encoding.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The store directory.
    pub fn store(&self) -> &StoreDir {
        self.store
    }

    /// Decodes a value.
    pub fn get<T: Decode>(&mut self) -> Result<T, Error> {
        T::decode(self)
    }

    fn spend(&mut self, bytes: u64) -> Result<(), Error> {
        self.budget = self.budget.checked_sub(bytes).ok_or(Error::TooLong)?;
        self.keep(bytes)
    }

    /// Counts bytes of memory.
    fn keep(&mut self, bytes: u64) -> Result<(), Error> {
        self.kept = self.kept.saturating_add(bytes);
        if self.kept > self.taken {
            if let Some(quota) = &mut self.quota {
                let more = (self.kept - self.taken).div_ceil(STEP).saturating_mul(STEP);
                quota.take(more)?;
                self.taken += more;
            }
        }
        Ok(())
    }

    /// Reads a 64-bit number.
    pub fn long(&mut self) -> Result<u64, Error> {
        self.spend(8)?;
        Ok(self.reader.read_u64()?)
    }

    /// Reads a 32-bit number.
    pub fn int(&mut self) -> Result<u32, Error> {
        self.spend(8)?;
        Ok(self.reader.read_int()?)
    }

    /// Reads a string of at most `limit` bytes.
    pub fn bytes(&mut self, limit: u64) -> Result<BString, Error> {
        let bytes = self.reader.read_bytes(limit.min(self.budget))?;
        self.spend(8 + bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Reads AddTextToStore's text, which has its own limit.
    pub(crate) fn text(&mut self) -> Result<BString, Error> {
        let length = self.reader.read_length(MAX_TEXT)?;
        let mut text = Vec::new();
        while (text.len() as u64) < length {
            let step = STEP.min(length - text.len() as u64);
            self.keep(step)?;
            let read = Read::take(&mut *self.reader, step)
                .read_to_end(&mut text)
                .map_err(wire::Error::Io)?;
            if (read as u64) < step {
                return Err(wire::Error::Io(io::ErrorKind::UnexpectedEof.into()).into());
            }
        }
        self.reader.read_padding(length)?;
        Ok(text.into())
    }

    fn list<T: Decode>(&mut self, mut take: impl FnMut(T)) -> Result<(), Error> {
        for _ in 0..self.int()? {
            take(self.get()?);
            self.spend(size_of::<T>() as u64)?;
        }
        Ok(())
    }
}

/// A value that can be decoded from a message.
pub trait Decode: Sized {
    /// Decodes the value.
    fn decode(source: &mut Source<'_>) -> Result<Self, Error>;
}

/// A value that can be encoded into a message.
pub trait Encode {
    /// Encodes the value for a peer that goes by `version`.
    fn encode(&self, out: &mut Vec<u8>, version: Version);
}

/// Appends a string.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    debug_assert!(u32::try_from(bytes.len()).is_ok());
    // Writing to memory can't fail, and there are no strings of 4 GiB here.
    let _ = out.write_bytes(bytes);
}

/// Appends a number.
pub(crate) fn put_long(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

macro_rules! codec {
    ($type:ty, $source:ident => $decode:expr, ($self:ident, $out:ident) => $encode:expr) => {
        impl Decode for $type {
            fn decode($source: &mut Source<'_>) -> Result<Self, Error> {
                $decode
            }
        }

        impl Encode for $type {
            fn encode(&$self, $out: &mut Vec<u8>, _: Version) {
                $encode
            }
        }
    };
}

codec!(u32, source => source.int(), (self, out) => put_long(out, (*self).into()));
codec!(u64, source => source.long(), (self, out) => put_long(out, *self));
codec!(bool, source => Ok(source.int()? != 0), (self, out) => put_long(out, (*self).into()));
codec!(BString, source => source.bytes(MAX_STRING), (self, out) => put_bytes(out, self));
codec!(
    String,
    source => {
        String::from_utf8(source.bytes(MAX_STRING)?.into())
            .map_err(|error| wire::Error::NotText(error.into_bytes().into()).into())
    },
    (self, out) => put_bytes(out, self)
);
codec!(
    StorePath,
    source => {
        let path = source.bytes(MAX_STRING)?;
        Ok(source.store.parse(&path)?)
    },
    (self, out) => put_bytes(out, self.as_str())
);
// The empty string encodes `None`.
codec!(
    Option<StorePath>,
    source => {
        let path = source.bytes(MAX_STRING)?;
        if path.is_empty() { Ok(None) } else { Ok(Some(source.store.parse(&path)?)) }
    },
    (self, out) => put_bytes(out, self.as_ref().map_or("", |path| path.as_str()))
);
// Only SHA-256 is sent, in hexadecimal.
codec!(
    Hash,
    source => Ok(Hash::parse(Algorithm::Sha256, &source.get::<String>()?)?),
    (self, out) => put_bytes(out, self.hex())
);

/// The reply of operations without a result: a 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done;
codec!(Done, source => source.int().map(|_| Done), (self, out) => put_long(out, 1));

/// A request without fields, or an empty reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Nothing;
codec!(Nothing, _source => Ok(Nothing), (self, _out) => ());

impl<T: Decode> Decode for Vec<T> {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        let mut list = Vec::new();
        source.list(|item| list.push(item))?;
        Ok(list)
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        put_long(out, self.len() as u64);
        self.iter().for_each(|item| item.encode(out, version));
    }
}

impl<T: Decode + Ord> Decode for BTreeSet<T> {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        let mut set = BTreeSet::new();
        source.list(|item| _ = set.insert(item))?;
        Ok(set)
    }
}

impl<T: Encode> Encode for BTreeSet<T> {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        put_long(out, self.len() as u64);
        self.iter().for_each(|item| item.encode(out, version));
    }
}

impl<A: Decode, B: Decode> Decode for (A, B) {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        Ok((source.get()?, source.get()?))
    }
}

impl<A: Encode, B: Encode> Encode for (A, B) {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        self.0.encode(out, version);
        self.1.encode(out, version);
    }
}
