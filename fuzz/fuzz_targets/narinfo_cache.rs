//! A file of the cache of narinfos, about the server that it says it is about.
#![no_main]

use substitutes::cache::entry::{read, read_age, read_time, write};

const URL: &str = "http://127.0.0.1:8732";

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let age = read_age(data);
    if let Some((whole, text)) = read(data, URL) {
        assert_eq!(age, Some(whole));
        let again = write(URL, whole, text.as_deref());
        assert_eq!(read(again.as_bytes(), URL), Some((whole, text)));
    }
    let _ = read_time(data);
});
