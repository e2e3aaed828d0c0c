//! Verifying and deduplicating the store, and the record of failed builds.

use bstr::ByteSlice;
use formats::size::Aligned;
use protocol::codec::Done;
use protocol::operations::{
    BuildMode, BuiltinBuilders, ClearFailedPaths, OptimiseStore, QueryFailedPaths, VerifyStore,
};
use store::{Level, Progress, VerifyRequest};

use super::session::{HandlerResult, Session};
use crate::request_error::RequestError;

pub fn query_failed_paths(session: &mut Session<'_>, request: QueryFailedPaths) -> HandlerResult {
    session.answer(request, |session, _| {
        let failed = session.store.query_failed_paths()?;
        session.count_paths(failed.len() as u64)?;
        Ok(failed)
    })
}

pub fn clear_failed_paths(session: &mut Session<'_>, request: ClearFailedPaths) -> HandlerResult {
    session.answer(request, |session, request| {
        // Only UTF-8 was ever recorded.
        let paths = request.paths.iter().filter_map(|path| path.to_str().ok());
        session.store.clear_failed_paths(paths)?;
        Ok(Done)
    })
}

pub fn optimise_store(session: &mut Session<'_>, request: OptimiseStore) -> HandlerResult {
    session.run_interruptibly(request, |session, _| {
        let stats = session.store.optimise(&session.temp_roots, &*session.log)?;
        let freed = Aligned::new(stats.bytes_freed);
        let files = stats.files_linked;
        let text = format!("{freed} freed by hard-linking {files} files");
        session.log.message(Level::Error, &text);
        Ok(Done)
    })
}

pub fn verify_store(session: &mut Session<'_>, request: VerifyStore) -> HandlerResult {
    session.run_interruptibly(request, |session, request| {
        if request.repair && !session.client.trusted {
            return Err(RequestError::new("you are not privileged to repair paths"));
        }
        let repair = |path: &formats::StorePath| {
            let how = session.build_request(Vec::new(), BuildMode::Repair);
            session
                .scheduler()
                .ensure_path(path, how)
                .map_err(|error| error.message)
        };
        let wanted = VerifyRequest {
            contents: request.check_contents,
            repair: request.repair.then_some(&repair),
        };
        Ok(session.store.verify(&wanted, &*session.log)?)
    })
}

pub fn builtin_builders(session: &mut Session<'_>, request: BuiltinBuilders) -> HandlerResult {
    session.answer(request, |_, _| {
        Ok(vec!["download".to_owned(), "git-download".to_owned()])
    })
}
