//! An s-expression that is accepted prints as one that reads the same.
#![no_main]

use gcrypt::{PublicKey, Sexp};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(sexp) = Sexp::parse(data) {
        let text = sexp.to_advanced();
        let again = Sexp::parse(&text).unwrap();
        assert_eq!(again.to_canonical(), sexp.to_canonical());
    }
    let _ = PublicKey::parse(data);
});
