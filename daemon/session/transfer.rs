//! Exporting and importing items.

use std::path::Path;

use formats::store_path::StorePath;
use protocol::codec::Done;
use protocol::operations::{ExportPath, ImportPaths};
use protocol::server::Error;
use store::{Authority, ImportOptions};

use super::session::{HandlerResult, Session};
use crate::request_error::RequestError;

/// The environment variable with paths that are locked by the process that started the daemon; see
/// Guix's `pathlocks.cc`.
const HELD_LOCKS: &str = "NIX_HELD_LOCKS";

/// What an import keeps in memory, in bytes: a batch of items, and pieces on their way.
const IMPORT_MEMORY: u64 = 8 << 20;

pub fn export_path(session: &mut Session<'_>, request: ExportPath) -> HandlerResult {
    session.run_interruptibly(request, |session, request| {
        let authority = request
            .sign
            .then_some(&*session.daemon.keys as &dyn Authority);
        let mut sink = session.connection.export_sink();
        let result = session
            .store
            .export_item(&request.path, authority, &mut sink, &*session.log);
        // As in Guix, data that was read before an error is sent.
        sink.finish();
        result?;
        Ok(Done)
    })
}

pub fn import_paths(session: &mut Session<'_>, request: ImportPaths) -> HandlerResult {
    if !session.begin()? {
        return Ok(());
    }
    if let Err(exceeded) = session.connection.take_memory(IMPORT_MEMORY) {
        return session.reply::<ImportPaths>(Err(exceeded.into()));
    }
    let serving = session.cancel_on_hangup()?;
    let held = held_locks(session.store.dir());
    let options = ImportOptions {
        wanted: None,
        fixed: None,
        temp_roots: &session.temp_roots,
        authority: Some(&*session.daemon.keys),
        held_locks: &held,
        progress: &*session.log,
    };
    let mut source = session
        .connection
        .import_source(session.settings.read_ahead);
    let result = session
        .store
        .import_items(&mut source, &options)
        .map_err(RequestError::from);
    let in_step = source.finish();
    drop(serving);
    if in_step.is_err() {
        return Err(Error::Gone);
    }
    let _ = request;
    session.reply::<ImportPaths>(result)
}

fn held_locks(store: &formats::StoreDir) -> Vec<StorePath> {
    let held = std::env::var(HELD_LOCKS).unwrap_or_default();
    held.split_ascii_whitespace()
        .filter_map(|path| {
            store
                .parse(Path::new(path).as_os_str().as_encoded_bytes())
                .ok()
        })
        .collect()
}
