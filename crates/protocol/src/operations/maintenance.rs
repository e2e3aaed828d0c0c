//! Maintenance of the store and the daemon.

use std::collections::BTreeSet;

use bstr::BString;
use formats::StorePath;

use crate::codec::Done;

call! {
    /// The outputs whose build is known to fail.
    QueryFailedPaths {} -> BTreeSet<StorePath>
}

call! {
    /// Forgets build failures.
    ClearFailedPaths {
        /// Outputs, derivations (for their outputs), or `*` for all.
        paths: BTreeSet<BString>,
    } -> Done
}

call! {
    /// Hard-links identical files.
    OptimiseStore {} -> Done
}

call! {
    /// Checks the store; the reply is whether errors remain.
    VerifyStore {
        /// Also compare the contents with the registered hashes.
        check_contents: bool,
        /// Repair damaged items; only for trusted users.
        repair: bool,
    } -> bool
}

call! {
    /// The daemon's `builtin:` builders, sorted, without the prefix.
    BuiltinBuilders {} -> Vec<String>
}
