//! A narinfo of the item that it says it is of, from a server of the network and from a directory.
#![no_main]

use std::sync::{Arc, LazyLock};

use formats::{Hash, StoreDir};
use substitutes::{Location, Narinfo, Server};

static STORE: LazyLock<StoreDir> = LazyLock::new(|| StoreDir::new("/gnu/store").unwrap());
static SERVERS: LazyLock<[Arc<Server>; 2]> = LazyLock::new(|| {
    ["http://example.org", "file:///srv/nars"].map(|url| Arc::new(Server::new(url).unwrap()))
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = text.lines().find_map(|line| line.strip_prefix("StorePath: "));
    let path = path.unwrap_or("/gnu/store/0mgxsakkancy2iry6pj8hwcmlbmjbamn-text.txt");
    let Ok(wanted) = STORE.parse(path) else {
        return;
    };
    for server in &*SERVERS {
        let Ok(narinfo) = Narinfo::parse(data, &wanted, &STORE, server) else {
            continue;
        };
        assert_eq!(narinfo.path(), &wanted);
        for variant in narinfo.variants() {
            let url = narinfo.url_of(variant);
            assert!(url.bytes().all(|byte| byte.is_ascii_graphic()));
            match &variant.location {
                Location::Url(_) => assert!(url.to_ascii_lowercase().starts_with("http")),
                Location::File(_) => assert!(url.starts_with("file:///srv/nars/")),
            }
        }
        if let Some(signature) = narinfo.signature() {
            let signed = &text[..text.find("Signature:").unwrap()];
            assert_eq!(signature.signed(), Hash::sha256(signed).bytes());
        }
    }
});
