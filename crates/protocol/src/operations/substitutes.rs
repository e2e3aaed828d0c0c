//! Substitutes: items that can be downloaded instead of built.

use std::collections::BTreeSet;

use bstr::BString;
use formats::StorePath;

use crate::codec::{Decode, Encode, Error, Source};
use crate::version::Version;

call! {
    /// Whether an item has a substitute.
    HasSubstitutes {
        /// The item.
        path: StorePath,
    } -> bool
}

call! {
    /// Which of some items have substitutes.
    QuerySubstitutablePaths {
        /// The items.
        paths: BTreeSet<StorePath>,
    } -> BTreeSet<StorePath>
}

call! {
    /// The substitutes of those items that have one, sorted by item.
    QuerySubstitutablePathInfos {
        /// The items.
        paths: BTreeSet<StorePath>,
    } -> Vec<(StorePath, Substitutable)>
}

call! {
    /// The substitute of an item; obsolete.
    QuerySubstitutablePathInfo {
        /// The item.
        path: BString,
    } -> MaybeSubstitutable
}

call! {
    /// The URLs of substitute servers.
    SubstituteURLs {} -> Vec<BString>
}

record! {
    /// What is known about a substitute.
    Substitutable {
        /// The derivation that the item was built from, if known.
        deriver: Option<StorePath>,
        /// The references of the item.
        references: BTreeSet<StorePath>,
        /// The size of the download in bytes; 0 if unknown.
        download_size: u64,
        /// The size of the nar in bytes; 0 if unknown.
        nar_size: u64,
    }
}

/// The substitute of an item, if there is one. Old clients don't get the size of the nar.
#[derive(Debug, Clone, PartialEq)]
pub struct MaybeSubstitutable(pub Option<Substitutable>);

impl Encode for MaybeSubstitutable {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        self.0.is_some().encode(out, version);
        if let Some(info) = &self.0 {
            info.deriver.encode(out, version);
            info.references.encode(out, version);
            info.download_size.encode(out, version);
            if version.has_substitutable_nar_size() {
                info.nar_size.encode(out, version);
            }
        }
    }
}

impl Decode for MaybeSubstitutable {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        if !source.get::<bool>()? {
            return Ok(MaybeSubstitutable(None));
        }
        Ok(MaybeSubstitutable(Some(Substitutable {
            deriver: source.get()?,
            references: source.get()?,
            download_size: source.get()?,
            nar_size: if source.version().has_substitutable_nar_size() {
                source.get()?
            } else {
                0
            },
        })))
    }
}
