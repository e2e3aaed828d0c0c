//! What helper programs say, as clients get it: however it arrives, the same, and harmless.
#![no_main]

use protocol::helper_filter::HelperFilter;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let whole = HelperFilter::whole(data);
    let mut filter = HelperFilter::default();
    let (start, end) = data.split_at(data.len() / 2);
    let mut pieces = filter.filter(start);
    pieces.extend(filter.filter(end));
    pieces.extend(filter.finish());
    assert_eq!(pieces, whole);
    assert_eq!(HelperFilter::whole(&whole), whole);
    for line in whole.split(|byte| matches!(byte, b'\n' | b'\r')) {
        if let Some(event) = line.strip_prefix(b"@ ") {
            assert!(event.starts_with(b"build-remote") || event.starts_with(b"download-"));
        }
    }
    assert!(!whole.iter().any(|byte| byte.is_ascii_control() && !matches!(byte, 9 | 10 | 13 | 27)));
});
