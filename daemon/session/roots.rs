//! What keeps items from the garbage collector.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use protocol::codec::Done;
use protocol::operations::{AddIndirectRoot, AddTempRoot, FindRoots, SyncWithGC};

use super::{Outcome, Session};

impl Session<'_> {
    pub(super) fn add_temp_root(&mut self, request: AddTempRoot) -> Outcome {
        self.labour(request, |session, request| {
            session.temp_roots.add(&request.path, &*session.log)?;
            Ok(Done)
        })
    }

    pub(super) fn add_indirect_root(&mut self, request: AddIndirectRoot) -> Outcome {
        self.answer(request, |session, request| {
            // Relative names are relative to the daemon's working directory.
            let link = Path::new("/").join(OsStr::from_bytes(&request.link));
            session.store.add_indirect_root(&link)?;
            Ok(Done)
        })
    }

    pub(super) fn sync_with_gc(&mut self, request: SyncWithGC) -> Outcome {
        self.labour(request, |session, _| {
            session.store.sync_with_gc(&*session.log)?;
            Ok(Done)
        })
    }

    pub(super) fn find_roots(&mut self, request: FindRoots) -> Outcome {
        self.labour(request, |session, _| {
            let roots = session.store.find_roots(&*session.log)?;
            let named = |(link, path): (std::path::PathBuf, _)| {
                (link.into_os_string().into_vec().into(), path)
            };
            Ok(roots.into_iter().map(named).collect())
        })
    }
}
