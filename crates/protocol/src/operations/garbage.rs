//! Collecting garbage.

use std::collections::BTreeSet;

use formats::StorePath;

use crate::codec::{Decode, Encode, Error, Source};
use crate::version::Version;

/// What to do with garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcAction {
    /// Only list what is not garbage.
    ReturnLive,
    /// Only list the garbage.
    ReturnDead,
    /// Delete it.
    DeleteDead,
    /// Delete these items; an error if one isn't garbage.
    DeleteSpecific,
}

/// Collects garbage.
#[derive(Debug, Clone, PartialEq)]
pub struct CollectGarbage {
    /// The action.
    pub action: GcAction,
    /// For [`GcAction::DeleteSpecific`], the items to delete.
    pub paths: BTreeSet<StorePath>,
    /// Delete even live items; no daemon allows it.
    pub ignore_liveness: bool,
    /// The number of bytes after which to stop; [`u64::MAX`] for no limit.
    pub max_freed: u64,
}
reply!(CollectGarbage -> Collected);

impl Encode for CollectGarbage {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        (self.action as u32).encode(out, version);
        self.paths.encode(out, version);
        self.ignore_liveness.encode(out, version);
        self.max_freed.encode(out, version);
        let obsolete = if version.has_obsolete_gc_words() {
            3
        } else {
            1
        };
        (0..obsolete).for_each(|_| 0u32.encode(out, version));
    }
}

impl Decode for CollectGarbage {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        let action = match source.int()? {
            0 => GcAction::ReturnLive,
            1 => GcAction::ReturnDead,
            2 => GcAction::DeleteDead,
            3 => GcAction::DeleteSpecific,
            value => {
                return Err(Error::Value {
                    what: "garbage collector action",
                    value: value.into(),
                });
            }
        };
        let request = CollectGarbage {
            action,
            paths: source.get()?,
            ignore_liveness: source.get()?,
            max_freed: source.get()?,
        };
        let obsolete = if source.version().has_obsolete_gc_words() {
            3
        } else {
            1
        };
        for _ in 0..obsolete {
            source.int()?;
        }
        Ok(request)
    }
}

record! {
    /// The result of a garbage collection.
    Collected {
        /// The live, dead or deleted items.
        paths: Vec<StorePath>,
        /// The bytes that were freed.
        bytes_freed: u64,
        /// Always 0.
        obsolete: u64,
    }
}
