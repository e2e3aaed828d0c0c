//! Items that leave and arrive.

use std::path::Path;

use formats::store_path::StorePath;
use protocol::codec::Done;
use protocol::operations::{ExportPath, ImportPaths};
use protocol::server::Error;
use store::{Authority, ImportOptions};

use super::failure::Failure;
use super::{Outcome, Session};

/// Paths that whoever started the daemon has locked; see Guix's `pathlocks.cc`.
const HELD_LOCKS: &str = "NIX_HELD_LOCKS";

impl Session<'_> {
    pub(super) fn export_path(&mut self, request: ExportPath) -> Outcome {
        self.labour(request, |session, request| {
            let authority = request
                .sign
                .then_some(&session.shared.keys as &dyn Authority);
            let mut sink = session.connection.export_sink();
            let result =
                session
                    .store
                    .export_item(&request.path, authority, &mut sink, &*session.log);
            // What was read before an error is sent, as Guix does.
            sink.finish();
            result?;
            Ok(Done)
        })
    }

    pub(super) fn import_paths(&mut self, request: ImportPaths) -> Outcome {
        if !self.begin()? {
            return Ok(());
        }
        let serving = self.heed_departure()?;
        let held = held_locks(self.store.dir());
        let options = ImportOptions {
            temp_roots: &self.temp_roots,
            authority: Some(&self.shared.keys),
            held_locks: &held,
            progress: &*self.log,
        };
        let mut source = self.connection.import_source();
        let result = self
            .store
            .import_items(&mut source, &options)
            .map_err(Failure::from);
        let in_step = source.finish();
        drop(serving);
        if in_step.is_err() {
            return Err(Error::Gone);
        }
        let _ = request;
        self.reply::<ImportPaths>(result)
    }
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
