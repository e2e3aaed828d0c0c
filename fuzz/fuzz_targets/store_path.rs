//! A store path, and a path below one.
#![no_main]

use formats::StoreDir;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let store = StoreDir::new("/gnu/store").unwrap();
    if let Ok(path) = store.parse(data) {
        assert_eq!(path.as_str().as_bytes(), data);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = StoreDir::new(text);
    }
});
