//! What Guix's daemon asks the stand-in for `guix substitute`, line by line.
#![no_main]

use std::sync::LazyLock;

use formats::StoreDir;
use substitutes::agent_request::{Request, Requests, shown};

static STORE: LazyLock<StoreDir> = LazyLock::new(|| StoreDir::new("/gnu/store").unwrap());

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut requests = Requests::new(data);
    while let Some(line) = requests.next_line().unwrap() {
        assert!(!shown(&line).chars().any(char::is_control));
        let paths = match Request::parse(&line, &STORE) {
            Some(Request::Have(paths) | Request::Info(paths)) => paths,
            Some(Request::Substitute { path, destination }) => vec![path, destination],
            None => continue,
        };
        for path in &paths {
            assert!(STORE.parse(path.as_str()).is_ok_and(|parsed| &parsed == path));
        }
    }
});
