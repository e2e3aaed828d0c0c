//! The requests and replies of all operations, one file per family.
//!
//! A request is a type named like its [`Operation`]; its reply is [`Call::Reply`]. Most are encoded
//! as their fields in order (the macros `call` and `record`); those whose encoding depends on the
//! version implement `encode` and `decode` themselves.

use crate::codec::{Decode, Encode};
use crate::operation::Operation;

/// A request, with its operation and the type of its reply.
pub trait Call: Encode + Decode {
    /// The operation.
    const OPERATION: Operation;
    /// The reply.
    type Reply: Encode + Decode;
}

/// Declares a type that is encoded field by field.
macro_rules! record {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $field_doc:literal])+ $field:ident: $type:ty,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[doc = $field_doc])+ pub $field: $type,)*
        }

        impl $crate::codec::Encode for $name {
            fn encode(&self, _out: &mut Vec<u8>, _version: $crate::version::Version) {
                $($crate::codec::Encode::encode(&self.$field, _out, _version);)*
            }
        }

        impl $crate::codec::Decode for $name {
            fn decode(
                _source: &mut $crate::codec::Source<'_>,
            ) -> Result<Self, $crate::codec::Error> {
                Ok($name { $($field: _source.get()?,)* })
            }
        }
    };
}

/// Declares a request and the type of its reply.
macro_rules! call {
    ($(#[doc = $doc:literal])* $name:ident { $($fields:tt)* } -> $reply:ty) => {
        record! { $(#[doc = $doc])* $name { $($fields)* } }
        reply! { $name -> $reply }
    };
}

/// Declares the type of a request's reply.
macro_rules! reply {
    ($name:ident -> $reply:ty) => {
        impl $crate::operations::Call for $name {
            const OPERATION: $crate::operation::Operation = $crate::operation::Operation::$name;
            type Reply = $reply;
        }
    };
}

mod add;
mod build;
mod farm;
mod garbage;
mod maintenance;
mod options;
mod queries;
mod roots;
mod substitutes;
mod transfer;

pub use add::{AddTextToStore, AddToStore};
pub use build::{BuildMode, BuildPaths, EnsurePath, Target};
pub use farm::{FarmStatus, QueryFarmStatus};
pub use garbage::{CollectGarbage, Collected, GcAction};
pub use maintenance::{
    BuiltinBuilders, ClearFailedPaths, OptimiseStore, QueryFailedPaths, VerifyStore,
};
pub use options::SetOptions;
pub use queries::{
    IsValidPath, PathInfo, QueryAllValidPaths, QueryDerivationOutputNames, QueryDerivationOutputs,
    QueryDeriver, QueryPathFromHashPart, QueryPathHash, QueryPathInfo, QueryReferences,
    QueryReferrers, QueryValidDerivers, QueryValidPaths,
};
pub use roots::{AddIndirectRoot, AddTempRoot, FindRoots, SyncWithGC};
pub use substitutes::{
    HasSubstitutes, MaybeSubstitutable, QuerySubstitutablePathInfo, QuerySubstitutablePathInfos,
    QuerySubstitutablePaths, Substitutable, SubstituteURLs,
};
pub use transfer::{ExportPath, ImportPaths};

#[cfg(test)]
mod tests;
