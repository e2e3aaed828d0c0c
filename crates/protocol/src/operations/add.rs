//! Adding files and texts.

use std::collections::BTreeSet;

use bstr::BString;
use formats::StorePath;

use crate::codec::{Decode, Encode, Error, Source, put_bytes};
use crate::version::Version;

/// Adds files; their nar follows this request at once.
#[derive(Debug, Clone, PartialEq)]
pub struct AddToStore {
    /// What the item will be called.
    pub name: String,
    /// Whether the hash that names the item is of the nar, rather than of the contents of the
    /// single file that it then has to be.
    pub recursive: bool,
    /// The algorithm of that hash. As in Guix, an unknown one is an error of the operation.
    pub algorithm: String,
}
reply!(AddToStore -> StorePath);

impl Encode for AddToStore {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        self.name.encode(out, version);
        // Old daemons took 0 to mean SHA-256 of the nar, whatever follows.
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
    /// What the item will be called.
    pub name: String,
    /// The text.
    pub text: BString,
    /// What it refers to; all of it has to be valid.
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
