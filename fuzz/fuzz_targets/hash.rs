//! `ALGORITHM:HASH`, in hexadecimal or base-32.
#![no_main]

use formats::Hash;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(hash) = Hash::parse_prefixed(text) {
            assert_eq!(Hash::parse_prefixed(&hash.to_string()), Ok(hash));
            assert_eq!(Hash::parse(hash.algorithm(), &hash.base32()), Ok(hash));
        }
    }
});
