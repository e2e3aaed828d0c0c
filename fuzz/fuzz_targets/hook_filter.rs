//! What hooks say while they build: however it arrives, clients get the same, and the daemon the same verdict.
#![no_main]

use protocol::helper_filter::HelperFilter;
use protocol::hook_filter::HookFilter;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let run = |pieces: &[&[u8]]| {
        let mut filter = HookFilter::default();
        let mut filtered = Vec::new();
        for piece in pieces {
            filtered.extend(filter.filter(piece));
        }
        filtered.extend(filter.finish());
        (filtered, filter.verdict("/x.drv").map(str::to_owned))
    };
    let whole = run(&[data]);
    let (start, end) = data.split_at(data.len() / 2);
    assert_eq!(run(&[start, end]), whole);
    assert_eq!(HelperFilter::whole(&whole.0), whole.0);
});
