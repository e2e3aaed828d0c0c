//! What a daemon sends to a hook: requests, and the lines of paths after one of them.
#![no_main]

use std::io::Write;

use formats::StoreDir;
use hook::request::{Input, Request};

/// A pipe holds at least so many bytes.
const PIPE: usize = 64 << 10;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(request) = Request::parse(data) {
        assert!(!request.derivation.contains(char::is_whitespace));
        assert!(!request.system.contains(char::is_whitespace));
    }
    let (reader, writer) = system::pipe::pipe().unwrap();
    let mut writer = std::fs::File::from(writer);
    writer.write_all(&data[..data.len().min(PIPE)]).unwrap();
    drop(writer);
    let store = StoreDir::new("/gnu/store").unwrap();
    let mut input = Input::new(reader);
    if let Ok(Some(_)) = input.request() {
        let _ = input.paths(&store);
    }
});
