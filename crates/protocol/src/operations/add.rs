//! Adding files and texts.

use std::collections::BTreeSet;

use bstr::BString;
use formats::StorePath;

use crate::codec::{Decode, Encode, Error, Source, put_bytes};
use crate::version::Version;

/// Adds files; their nar follows this request immediately.
#[derive(Debug, Clone, PartialEq)]
pub struct AddToStore {
    /// The name of the new item.
    pub name: String,
    /// Whether the hash that determines the path is that of the nar, rather than that of the
    /// contents of a single file.
    pub recursive: bool,
    /// The algorithm of that hash. As in Guix, an unknown algorithm is an error of the operation.
    pub algorithm: String,
}
reply!(AddToStore -> StorePath);

impl Encode for AddToStore {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        self.name.encode(out, version);
        // Old daemons take 0 here to mean SHA-256 of the nar, regardless of the following fields.
        1u32.encode(out, version);
        self.recursive.encode(out, version);
        self.algorithm.encode(out, version);
    }
}

impl Decode for AddToStore {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        let name = source.get()?;
        let fixed = source.int()? == 1;
        let recursive = source.int()? == 1;
        let algorithm = source.get()?;
        if fixed {
            Ok(AddToStore {
                name,
                recursive,
                algorithm,
            })
        } else {
            Ok(AddToStore {
                name,
                recursive: true,
                algorithm: "sha256".to_owned(),
            })
        }
    }
}

/// Adds a text, such as a derivation.
#[derive(Debug, Clone, PartialEq)]
pub struct AddTextToStore {
    /// The name of the new item.
    pub name: String,
    /// The text.
    pub text: BString,
    /// Its references, which have to be valid.
    pub references: BTreeSet<StorePath>,
}
reply!(AddTextToStore -> StorePath);

impl Encode for AddTextToStore {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        self.name.encode(out, version);
        put_bytes(out, &self.text);
        self.references.encode(out, version);
    }
}

impl Decode for AddTextToStore {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        Ok(AddTextToStore {
            name: source.get()?,
            text: source.text()?,
            references: source.get()?,
        })
    }
}
