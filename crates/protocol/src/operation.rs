//! The table of operations.

use std::fmt;

/// Hands the table of operations to the macro `$use`: for each, its documentation, its number on
/// the wire and its name. The name is also that of the request's type in
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
            /// What an item refers to.
            5 QueryReferences;
            /// What refers to an item.
            6 QueryReferrers;
            /// Adds files.
            7 AddToStore;
            /// Adds a text.
            8 AddTextToStore;
            /// Builds derivations, substitutes items.
            9 BuildPaths;
            /// Makes an item valid by substituting it.
            10 EnsurePath;
            /// Keeps an item while the connection lasts.
            11 AddTempRoot;
            /// Keeps what a symbolic link elsewhere points to.
            12 AddIndirectRoot;
            /// Waits for a garbage collection to end.
            13 SyncWithGC;
            /// What keeps items.
            14 FindRoots;
            /// Sends an item.
            16 ExportPath;
            /// The derivation that an item was built from.
            18 QueryDeriver;
            /// Settings for this connection.
            19 SetOptions;
            /// Collects garbage.
            20 CollectGarbage;
            /// What would have to be downloaded for an item.
            21 QuerySubstitutablePathInfo;
            /// Where a derivation's outputs are.
            22 QueryDerivationOutputs;
            /// All items.
            23 QueryAllValidPaths;
            /// Items whose build is known to fail.
            24 QueryFailedPaths;
            /// Forgets that builds failed.
            25 ClearFailedPaths;
            /// All about an item.
            26 QueryPathInfo;
            /// Receives items.
            27 ImportPaths;
            /// What a derivation's outputs are called.
            28 QueryDerivationOutputNames;
            /// The item with a hash part.
            29 QueryPathFromHashPart;
            /// What would have to be downloaded for items.
            30 QuerySubstitutablePathInfos;
            /// Which items are valid.
            31 QueryValidPaths;
            /// Which items have substitutes.
            32 QuerySubstitutablePaths;
            /// The derivations that have an item as output.
            33 QueryValidDerivers;
            /// Shares the space of equal files.
            34 OptimiseStore;
            /// Checks the store.
            35 VerifyStore;
            /// What the daemon builds by itself.
            80 BuiltinBuilders;
            /// Where substitutes are got from.
            81 SubstituteURLs;
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
