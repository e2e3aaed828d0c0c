//! A client's whole side of a conversation, the greeting included.
#![no_main]

use std::io;

use formats::StoreDir;
use protocol::Request;
use protocol::server::Connection;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let store = StoreDir::new("/gnu/store").unwrap();
    let Ok((mut connection, _)) =
        Connection::accept(data, Box::new(io::sink()), Box::new(()), store)
    else {
        return;
    };
    while let Ok(Some(request)) = connection.next_request() {
        if matches!(request, Request::AddToStore(_)) && connection.nar().drain().is_err() {
            return;
        }
        if matches!(request, Request::ImportPaths(_)) {
            let _ = io::copy(&mut connection.import_source(), &mut io::sink());
        }
    }
});
