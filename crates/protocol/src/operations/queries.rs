//! Questions about items: reading the database.

use std::collections::BTreeSet;

use bstr::BString;
use formats::{Hash, StorePath};

call! {
    /// Whether an item is valid. The daemon checks the path during the operation, so that an
    /// invalid path is an error of the operation and doesn't end the connection.
    IsValidPath {
        /// The item.
        path: BString,
    } -> bool
}

call! {
    /// The SHA-256 of a valid item's nar.
    QueryPathHash {
        /// The item.
        path: StorePath,
    } -> Hash
}

call! {
    /// The references of an item.
    QueryReferences {
        /// The item.
        path: StorePath,
    } -> BTreeSet<StorePath>
}

call! {
    /// The items that refer to an item; none if it is unknown.
    QueryReferrers {
        /// The item.
        path: StorePath,
    } -> BTreeSet<StorePath>
}

call! {
    /// The derivation a valid item was built from, if that is known.
    QueryDeriver {
        /// The item.
        path: StorePath,
    } -> Option<StorePath>
}

call! {
    /// The paths of a valid derivation's outputs.
    QueryDerivationOutputs {
        /// The derivation.
        path: StorePath,
    } -> BTreeSet<StorePath>
}

call! {
    /// The names of a valid derivation's outputs.
    QueryDerivationOutputNames {
        /// The derivation.
        path: StorePath,
    } -> Vec<String>
}

call! {
    /// The valid derivations that have an item as output.
    QueryValidDerivers {
        /// The item.
        path: StorePath,
    } -> BTreeSet<StorePath>
}

call! {
    /// The item whose base name begins with this hash part, if there is one.
    QueryPathFromHashPart {
        /// 32 characters.
        hash_part: BString,
    } -> Option<StorePath>
}

call! {
    /// Which of some items are valid.
    QueryValidPaths {
        /// The items.
        paths: BTreeSet<StorePath>,
    } -> BTreeSet<StorePath>
}

call! {
    /// All valid items.
    QueryAllValidPaths {} -> BTreeSet<StorePath>
}

call! {
    /// What is registered about a valid item.
    QueryPathInfo {
        /// The item.
        path: StorePath,
    } -> PathInfo
}

record! {
    /// What is registered about an item.
    PathInfo {
        /// The derivation it was built from, if that is known.
        deriver: Option<StorePath>,
        /// The SHA-256 of its nar.
        hash: Hash,
        /// Its references, which may include itself.
        references: BTreeSet<StorePath>,
        /// When it was registered, in seconds since 1970.
        registration_time: u32,
        /// The size of its nar; 0 if unknown.
        nar_size: u64,
    }
}
