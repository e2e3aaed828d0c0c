//! Questions about items: reading the database.

use std::collections::BTreeSet;

use bstr::BString;
use formats::{Hash, StorePath};

call! {
    /// Whether an item is valid. The daemon checks the path only when it works, so that a wrong
    /// one costs an error and not the connection.
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
    /// What an item refers to.
    QueryReferences {
        /// The item.
        path: StorePath,
    } -> BTreeSet<StorePath>
}

call! {
    /// What refers to an item; nothing if it is unknown.
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
    /// Where a valid derivation's outputs are.
    QueryDerivationOutputs {
        /// The derivation.
        path: StorePath,
    } -> BTreeSet<StorePath>
}

call! {
    /// What a valid derivation's outputs are called.
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
    /// The item whose file name begins with this hash part, if there is one.
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
    /// All about a valid item.
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
        /// What it refers to, itself perhaps included.
        references: BTreeSet<StorePath>,
        /// When it was registered, in seconds since 1970.
        registration_time: u32,
        /// The size of its nar; 0 if unknown.
        nar_size: u64,
    }
}
