//! A daemon's side of a conversation: the greeting, then the reply to one request.
#![no_main]

use std::io;

use formats::StoreDir;
use protocol::client::{Connection, Options};
use protocol::operations::{BuildMode, GcAction};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let store = StoreDir::new("/gnu/store").unwrap();
    let Some((&which, data)) = data.split_first() else {
        return;
    };
    let reader = Box::new(io::Cursor::new(data.to_vec()));
    let writer = Box::new(io::sink());
    let Ok(mut daemon) = Connection::over(reader, writer, &store, &Options::default()) else {
        return;
    };
    let path = store.join("00000000000000000000000000000000-name").unwrap();
    let log = &mut |_: &[u8]| {};
    match which % 10 {
        0 => _ = daemon.query_path_info(&path),
        1 => _ = daemon.query_substitutable_path_infos([path].into()),
        2 => _ = daemon.export_path(&path, true, &mut io::sink()),
        3 => _ = daemon.import_paths(&mut &data[..]),
        4 => _ = daemon.build_paths(vec![path.into()], BuildMode::Normal, log),
        5 => _ = daemon.collect_garbage(GcAction::ReturnDead, [].into(), 0, log),
        6 => _ = daemon.find_roots(),
        7 => _ = daemon.query_references(&path),
        8 => _ = daemon.query_failed_paths(),
        _ => _ = daemon.query_valid_derivers(&path),
    }
});
