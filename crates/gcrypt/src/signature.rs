//! Signing the hash of an exported item, and verifying such a signature.
//!
//! A signature is the text `(signature DATA SIG-VAL PUBLIC-KEY)`. DATA contains the SHA-256 of the
//! item, so verification returns the hash that was signed, and the caller compares it.
//!
//! ECDSA signs as many leading bits of a hash as the order of the curve has: with Guix's keys, 253
//! of 256. So a hash that differs only in the last three bits also verifies; to exploit that, an
//! attacker would have to find data with one of these eight hashes.

use std::ptr;

use data_encoding::HEXUPPER;

use crate::acl::Acl;
use crate::error::{Error, Result};
use crate::keys::KeyPair;
use crate::sexp::Sexp;
use crate::sys;

/// Why a signature is not accepted.  The messages are those of `guix authenticate`.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The text isn't an s-expression, or lacks data, a key or a hash.
    #[error("corrupt signature data: {0}")]
    Corrupt(String),
    /// The key isn't in the ACL.
    #[error("unauthorized public key: {0}")]
    Unauthorized(String),
    /// The key is authorised, but the signature isn't valid for it.
    #[error("invalid signature: {0}")]
    Invalid(String),
}

/// Signs the SHA-256 `hash` of an exported item, and returns the text of the signature.
///
/// # Errors
/// The key is of an unknown type, or libgcrypt can't sign with it.
pub fn sign(hash: &[u8; 32], pair: &KeyPair) -> Result<Vec<u8>> {
    let hex = HEXUPPER.encode(hash);
    let flag = pair.public().signing_flag()?;
    let data = Sexp::parse(format!("(data (flags {flag}) (hash sha256 #{hex}#))"))?;
    let mut value = ptr::null_mut();
    // SAFETY: both inputs are valid, the result goes to a local.
    let code = unsafe { sys::gcry_pk_sign(&mut value, data.as_raw(), pair.secret().as_raw()) };
    let value = Sexp::from_raw(value).ok_or_else(|| Error::Crypto {
        attempt: "signing",
        reason: sys::message(code),
    })?;
    let mut text = b"(signature ".to_vec();
    for part in [&data, &value, pair.public().as_sexp()] {
        text.extend_from_slice(&part.to_canonical());
    }
    text.push(b')');
    Ok(Sexp::parse(text)?.to_advanced())
}

/// Verifies that the signature in `text` was made with a key in `acl`, and returns the SHA-256 that
/// was signed.
///
/// # Errors
/// What is wrong, with the s-expression in question.
pub fn verify(text: &[u8], acl: &Acl) -> Result<[u8; 32], VerifyError> {
    let corrupt = || VerifyError::Corrupt(String::from_utf8_lossy(text).into_owned());
    let signature = Sexp::parse(text).map_err(|_| corrupt())?;
    let data = signature.find(c"data").ok_or_else(corrupt)?;
    let subject = signature.find(c"public-key").ok_or_else(corrupt)?;
    if !acl.contains(&subject) {
        return Err(VerifyError::Unauthorized(subject.to_string()));
    }
    let invalid = || VerifyError::Invalid(signature.to_string());
    let value = signature.find(c"sig-val").ok_or_else(invalid)?;
    // SAFETY: the three s-expressions are valid.
    let code = unsafe { sys::gcry_pk_verify(value.as_raw(), data.as_raw(), subject.as_raw()) };
    if code != 0 {
        return Err(invalid());
    }
    let hash = data.find(c"hash").ok_or_else(corrupt)?;
    match (hash.atom_at(1), hash.atom_at(2)) {
        (Some(b"sha256"), Some(value)) => value.try_into().map_err(|_| corrupt()),
        _ => Err(corrupt()),
    }
}
