//! What builders print, as clients get it: however it arrives, no line is a hook's, and all other lines are unchanged.
#![no_main]

use protocol::builder_filter::BuilderFilter;
use protocol::trace::Trace;

libfuzzer_sys::fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (sizes, output) = input;
    let mut filter = BuilderFilter::default();
    let mut filtered = Vec::new();
    let mut rest = output.as_slice();
    for size in sizes.into_iter().chain(std::iter::repeat(u8::MAX)) {
        let (piece, more) = rest.split_at(rest.len().min(usize::from(size) + 1));
        filtered.extend_from_slice(&filter.filter(piece));
        rest = more;
        if rest.is_empty() {
            break;
        }
    }
    let lines = |text: &[u8]| -> Vec<Vec<u8>> {
        let lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
        lines.map(<[u8]>::to_vec).collect()
    };
    let (before, after) = (lines(&output), lines(&filtered));
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        let event = std::str::from_utf8(after).ok().and_then(Trace::parse);
        assert!(!matches!(event, Some(Trace::BuildRemote { .. })));
        match before.starts_with(b"@ build-remote ") {
            true => assert_eq!(after.len(), before.len() + 1),
            false => assert_eq!(before, after),
        }
    }
});
