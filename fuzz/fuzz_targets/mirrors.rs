//! The files of mirrors that downloads name: lists, and expressions to evaluate.
#![no_main]

use formats::mirrors::{self, MirrorLists};
use formats::{Algorithm, Hash};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = MirrorLists::parse(text);
        let _ = mirrors::content_addressed(text, "file", &Hash::of(Algorithm::Sha256, "x"));
    }
});
