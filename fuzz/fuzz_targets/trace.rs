//! A trace line; one that is read is written as one line without control characters.
#![no_main]

use protocol::trace::Trace;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let line = String::from_utf8_lossy(data);
    if let Some(trace) = Trace::parse(&line) {
        let written = trace.to_string();
        assert!(!written.contains(char::is_control));
        assert_eq!(Trace::parse(&written).unwrap().to_string(), written);
    }
});
