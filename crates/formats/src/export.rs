//! Export streams ("nar bundles"): what `guix archive --export` writes and `--import` reads.
//!
//! ```text
//! archive = { 1 item } 0
//! item    = nar, 0x4558494e, path, references, deriver or "", 0 or 1, signature if 1
//! ```
//!
//! The signature is over the SHA-256 of the item up to the deriver. To read an item, read the nar
//! and [`Fields::read`] through one [`HashReader`](crate::hash::HashReader), take its hash, then
//! [`read_signature`] from the reader beneath. Documented in Guix's `nix/libstore/local-store.cc`.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use bstr::BString;

use crate::store_path::{self, StoreDir, StorePath};
use crate::wire::{self, ReadExt, WriteExt};

/// The word between an item's nar and its fields.
pub const MAGIC: u64 = 0x4558_494e;
/// The word before each item.
pub const ITEM: u64 = 1;
/// The word after the last item.
pub const END: u64 = 0;
/// The longest signature that is read.
const MAX_SIGNATURE: u64 = 64 * 1024;
/// The most references that an item may have.
const MAX_REFERENCES: u64 = 1 << 20;

/// The longest file name that is read.
const MAX_PATH: u64 = 4096;

/// Why (part of) an export stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read, or its encoding is wrong.
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// A word before an item that is neither [`ITEM`] nor [`END`].
    #[error("input doesn't look like something created by `nix-store --export'")]
    Marker,
    /// The word after the nar isn't [`MAGIC`].
    #[error("Nix archive cannot be imported; wrong format")]
    Magic,
    /// A path, reference or deriver that isn't a store path.
    #[error(transparent)]
    Path(#[from] store_path::Error),
    /// A flag that is neither 0 nor 1.
    #[error("invalid signature flag {0} in archive")]
    Flag(u64),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        match error {
            Error::Wire(error) => error.into(),
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Whether another item follows.
pub fn read_marker(source: &mut impl Read) -> Result<bool, Error> {
    match source.read_u64()? {
        ITEM => Ok(true),
        END => Ok(false),
        _ => Err(Error::Marker),
    }
}

/// The fields that follow an item's nar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// Its path.
    pub path: StorePath,
    /// Its references, which may include itself.
    pub references: BTreeSet<StorePath>,
    /// The derivation that it was built from, if known.
    pub deriver: Option<StorePath>,
}

impl Fields {
    /// Reads [`MAGIC`] and the fields.
    pub fn read(source: &mut impl Read, store: &StoreDir) -> Result<Fields, Error> {
        match source.read_u64() {
            Ok(MAGIC) => {}
            Ok(_) => return Err(Error::Magic),
            Err(error) => return Err(error.into()),
        }
        let path = store.parse(source.read_bytes(MAX_PATH)?)?;
        let count = source.read_length(MAX_REFERENCES)?;
        let mut references = BTreeSet::new();
        for _ in 0..count {
            references.insert(store.parse(source.read_bytes(MAX_PATH)?)?);
        }
        let deriver = source.read_bytes(MAX_PATH)?;
        let deriver = if deriver.is_empty() {
            None
        } else {
            Some(store.parse(deriver)?)
        };
        Ok(Fields {
            path,
            references,
            deriver,
        })
    }

    /// Writes [`MAGIC`] and the fields.
    pub fn write(&self, target: &mut impl Write) -> io::Result<()> {
        target.write_u64(MAGIC)?;
        target.write_bytes(self.path.as_str())?;
        target.write_strings(self.references.iter().map(StorePath::as_str))?;
        target.write_bytes(self.deriver.as_ref().map_or("", |deriver| deriver.as_str()))
    }
}

/// Reads the end of an item: its signature, if it has one.
pub fn read_signature(source: &mut impl Read) -> Result<Option<BString>, Error> {
    match source.read_u64()? {
        0 => Ok(None),
        1 => Ok(Some(source.read_bytes(MAX_SIGNATURE)?)),
        other => Err(Error::Flag(other)),
    }
}

/// Writes the end of an item.
pub fn write_signature(target: &mut impl Write, signature: Option<&[u8]>) -> io::Result<()> {
    target.write_bool(signature.is_some())?;
    signature.map_or(Ok(()), |signature| target.write_bytes(signature))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn store() -> StoreDir {
        StoreDir::new("/gnu/store").unwrap()
    }

    fn sample() -> Vec<u8> {
        let path = |name: &str| store().join(name).unwrap();
        let fields = Fields {
            path: path("00000000000000000000000000000000-b"),
            references: [path("11111111111111111111111111111111-a")].into(),
            deriver: Some(path("22222222222222222222222222222222-b.drv")),
        };
        let mut out = Vec::new();
        fields.write(&mut out).unwrap();
        assert_eq!(Fields::read(&mut &out[..], &store()).unwrap(), fields);
        write_signature(&mut out, Some(b"(signature)")).unwrap();
        out
    }

    #[test]
    fn signatures() {
        for signature in [None, Some(&b"(signature)"[..])] {
            let mut out = Vec::new();
            write_signature(&mut out, signature).unwrap();
            let read = read_signature(&mut &out[..]).unwrap();
            assert_eq!(read.as_deref().map(Vec::as_slice), signature);
        }
        assert!(matches!(
            read_signature(&mut &[2, 0, 0, 0, 0, 0, 0, 0][..]),
            Err(Error::Flag(2))
        ));
    }

    #[test]
    fn markers() {
        let marker = |word: u64| read_marker(&mut &word.to_le_bytes()[..]);
        assert!(marker(ITEM).unwrap());
        assert!(!marker(END).unwrap());
        assert!(matches!(marker(7), Err(Error::Marker)));
    }

    proptest! {
        #[test]
        fn damaged_fields_are_read_or_refused(place: prop::sample::Index, value: u8) {
            let mut sample = sample();
            let place = place.index(sample.len());
            sample[place] = value;
            let mut input = &sample[..];
            if Fields::read(&mut input, &store()).is_ok() {
                let _ = read_signature(&mut input);
            }
        }
    }
}
