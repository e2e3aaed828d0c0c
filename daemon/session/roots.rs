//! GC roots.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use protocol::codec::Done;
use protocol::operations::{AddIndirectRoot, AddTempRoot, FindRoots, SyncWithGC};
use system::ids;

use super::session::{HandlerResult, Session};

pub fn add_temp_root(session: &mut Session<'_>, request: AddTempRoot) -> HandlerResult {
    session.run_interruptibly(request, |session, request| {
        session.temp_roots.add(&request.path, &*session.log)?;
        Ok(Done)
    })
}

pub fn add_indirect_root(session: &mut Session<'_>, request: AddIndirectRoot) -> HandlerResult {
    session.answer(request, |session, request| {
        // Relative names are relative to the daemon's working directory, `/'.
        let link = Path::new("/").join(OsStr::from_bytes(&request.link));
        // A client of another host has no user here.
        let owner = session.client.uid.unwrap_or(ids::NOBODY);
        session.store.add_indirect_root(&link, owner)?;
        Ok(Done)
    })
}

pub fn sync_with_gc(session: &mut Session<'_>, request: SyncWithGC) -> HandlerResult {
    session.run_interruptibly(request, |session, _| {
        session.store.sync_with_gc(&*session.log)?;
        Ok(Done)
    })
}

pub fn find_roots(session: &mut Session<'_>, request: FindRoots) -> HandlerResult {
    session.run_interruptibly(request, |session, _| {
        let asker = session.credentials();
        let roots = session.store.find_roots(Some(&asker), &*session.log)?;
        session.count_paths(2 * roots.len() as u64)?;
        let named =
            |(link, path): (std::path::PathBuf, _)| (link.into_os_string().into_vec().into(), path);
        Ok(roots.into_iter().map(named).collect())
    })
}
