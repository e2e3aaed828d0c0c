//! Scheme data: a `machines.scm`, a list of mirrors, a variable of a derivation.
#![no_main]

use formats::datum;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = datum::read_all(text);
    }
});
