//! The text of a `machines.scm`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = hook::machines::sexp::read_all(text);
    }
});
