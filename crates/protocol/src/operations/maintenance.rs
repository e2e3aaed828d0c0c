//! Looking after the store and the daemon.

use std::collections::BTreeSet;

use bstr::BString;
use formats::StorePath;

use crate::codec::Done;

call! {
    /// The outputs whose build is known to fail.
    QueryFailedPaths {} -> BTreeSet<StorePath>
}

call! {
    /// Forgets that builds failed.
    ClearFailedPaths {
        /// Outputs, derivations (for their outputs), or `*` for all.
        paths: BTreeSet<BString>,
    } -> Done
}

call! {
    /// Makes equal files share their space.
    OptimiseStore {} -> Done
}

call! {
    /// Checks the store; the reply says whether errors remain.
    VerifyStore {
        /// Read all contents too.
        check_contents: bool,
        /// Mend what is wrong; a privilege.
        repair: bool,
    } -> bool
}

call! {
    /// The `builtin:` builders that the daemon has, sorted, without the prefix.
    BuiltinBuilders {} -> Vec<String>
}
