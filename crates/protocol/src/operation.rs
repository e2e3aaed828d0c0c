//! The table of operations.

use std::fmt;

/// Passes the table of operations to the macro `$use`: for each operation, its documentation, its
/// number on the wire and its name, which is also the name of the request's type in
/// [`operations`](crate::operations).
macro_rules! with_operations {
    ($use:ident) => {
        $use! {
            /// Whether an item is valid.
            1 IsValidPath;
            /// Whether an item has a substitute.
            3 HasSubstitutes;
            /// The hash of an item's nar.
            4 QueryPathHash;
            /// The references of an item.
            5 QueryReferences;
            /// The items that refer to an item.
            6 QueryReferrers;
            /// Adds files.
            7 AddToStore;
            /// Adds a text.
            8 AddTextToStore;
            /// Builds derivations, substitutes items.
            9 BuildPaths;
            /// Makes an item valid by substituting it.
            10 EnsurePath;
            /// Protects an item while the connection lasts.
            11 AddTempRoot;
            /// Protects the target of a symbolic link outside the state directory.
            12 AddIndirectRoot;
            /// Waits for a garbage collection to end.
            13 SyncWithGC;
            /// The GC roots and the items they protect.
            14 FindRoots;
            /// Sends an item.
            16 ExportPath;
            /// The derivation that an item was built from.
            18 QueryDeriver;
            /// Settings for this connection.
            19 SetOptions;
            /// Collects garbage.
            20 CollectGarbage;
            /// The size of the download for an item; obsolete.
            21 QuerySubstitutablePathInfo;
            /// The paths of a derivation's outputs.
            22 QueryDerivationOutputs;
            /// All valid items.
            23 QueryAllValidPaths;
            /// Items whose build is known to fail.
            24 QueryFailedPaths;
            /// Forgets build failures.
            25 ClearFailedPaths;
            /// What is registered about an item.
            26 QueryPathInfo;
            /// Receives items.
            27 ImportPaths;
            /// The names of a derivation's outputs.
            28 QueryDerivationOutputNames;
            /// The item with this hash part.
            29 QueryPathFromHashPart;
            /// The sizes of downloads for items.
            30 QuerySubstitutablePathInfos;
            /// Which items are valid.
            31 QueryValidPaths;
            /// Which items have substitutes.
            32 QuerySubstitutablePaths;
            /// The derivations that have an item as output.
            33 QueryValidDerivers;
            /// Hard-links identical files.
            34 OptimiseStore;
            /// Checks the store.
            35 VerifyStore;
            /// The builders that are built into the daemon.
            80 BuiltinBuilders;
            /// The URLs of substitute servers.
            81 SubstituteURLs;
            /// What is being built and what waits, and why; not in Guix.
            1000 QueryFarmStatus;
        }
    };
}

pub(crate) use with_operations;

/// Declares [`Operation`].
macro_rules! declare_operation {
    ($($(#[doc = $doc:literal])+ $number:literal $name:ident;)+) => {
        /// An operation of the protocol; its discriminant is its number on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Operation {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Operation {
            /// All operations, by number.
            pub const ALL: &[Operation] = &[$(Operation::$name),+];

            /// Its name in Guix.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Operation::$name => stringify!($name),)+
                }
            }

            /// The operation with this number.
            pub const fn from_number(number: u32) -> Option<Operation> {
                match number {
                    $($number => Some(Operation::$name),)+
                    _ => None,
                }
            }
        }
    };
}

with_operations!(declare_operation);

impl Operation {
    /// Its number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
