//! The parts of libgcrypt that the store needs, behind safe types.
//!
//! An exported store item carries a signature, an s-expression in libgcrypt's "advanced" form;
//! importing it requires that the signing key is in the ACL. This crate handles these three things
//! ([`Signature`] texts, [`keys`] and the [`Acl`]): it writes what Guix writes and accepts what
//! Guix accepts. The formats are those of Guix's `(guix pki)` and `guix authenticate`.
//!
//! All `unsafe` is in `sexp` and `sys`.
//!
//! [`Signature`]: signature

mod acl;
mod error;
pub mod keys;
mod sexp;
pub mod signature;
mod sys;

pub use acl::Acl;
pub use error::{Error, Result};
pub use keys::{KeyPair, Owner, PublicKey};
pub use sexp::Sexp;
pub use signature::{VerifyError, sign, verify};

#[cfg(test)]
mod tests;
