//! A substituter's reply to the request to fetch an item.
#![no_main]

use bstr::BStr;

#[path = "../../daemon/substituter/reply.rs"]
mod reply;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = reply::SubstituteReply::parse(BStr::new(data));
});
