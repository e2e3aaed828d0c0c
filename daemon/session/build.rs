//! Building and substituting.

use protocol::codec::Done;
use protocol::operations::{BuildMode, BuildPaths, EnsurePath};

use super::session::{HandlerResult, Session};

pub fn build_paths(session: &mut Session<'_>, request: BuildPaths) -> HandlerResult {
    if request.mode == BuildMode::Repair && !session.client.trusted {
        return session.refuse("repairing is a privileged operation");
    }
    session.run_interruptibly(request, |session, request| {
        let how = session.build_request(request.targets, request.mode);
        session.scheduler().build(how)?;
        Ok(Done)
    })
}

pub fn ensure_path(session: &mut Session<'_>, request: EnsurePath) -> HandlerResult {
    session.run_interruptibly(request, |session, request| {
        let how = session.build_request(Vec::new(), BuildMode::Normal);
        session.scheduler().ensure_path(&request.path, how)?;
        Ok(Done)
    })
}
