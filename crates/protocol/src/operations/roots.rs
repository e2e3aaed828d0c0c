//! Protecting items from the garbage collector.

use bstr::BString;
use formats::StorePath;

use crate::codec::Done;

call! {
    /// Protects an item while the connection lasts.
    AddTempRoot {
        /// The item.
        path: StorePath,
    } -> Done
}

call! {
    /// Protects the target of a symbolic link outside the state directory.
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
    /// All links that are GC roots, sorted, and the items they protect.
    FindRoots {} -> Vec<(BString, StorePath)>
}
