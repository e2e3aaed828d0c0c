//! The signature of an exported item, against an empty ACL; and a public key.
#![no_main]

use gcrypt::{Acl, PublicKey, verify};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    assert!(verify(data, &Acl::default()).is_err());
    let _ = PublicKey::parse(data);
});
