//! What keeps items from being collected.

use bstr::BString;
use formats::StorePath;

use crate::codec::Done;

call! {
    /// Keeps an item while the connection lasts.
    AddTempRoot {
        /// The item.
        path: StorePath,
    } -> Done
}

call! {
    /// Keeps what a symbolic link outside of the state directory points to.
    AddIndirectRoot {
        /// The link's file name.
        link: BString,
    } -> Done
}

call! {
    /// Waits for a garbage collection to end.
    SyncWithGC {} -> Done
}

call! {
    /// All links that keep items, sorted, and the items they keep.
    FindRoots {} -> Vec<(BString, StorePath)>
}
