//! Building and substituting.

use protocol::codec::Done;
use protocol::operations::{BuildMode, BuildPaths, EnsurePath};

use store::{Level, Progress};

use super::session::{HandlerResult, Session};

pub fn build_paths(session: &mut Session<'_>, request: BuildPaths) -> HandlerResult {
    if request.mode == BuildMode::Repair && !session.client.trusted {
        return session.refuse("repairing is a privileged operation");
    }
    session.run_interruptibly(request, |session, request| {
        say_if_keeping_failed_prevents_offloading(session);
        let how = session.build_request(request.targets, request.mode);
        session.scheduler().build(how)?;
        Ok(Done)
    })
}

/// Clients turn offloading off together with `--keep-failed`, since the directory of a build that
/// fails on another machine stays there. Their users are told if there are build machines.
fn say_if_keeping_failed_prevents_offloading(session: &Session<'_>) {
    let settings = &session.settings;
    if settings.keep_failed
        && !settings.use_build_hook
        && settings.hook_allowed
        && hook::machines::are_configured(&session.daemon.settings.directories.configuration)
    {
        let text = "note: nothing is offloaded: directories of failed builds are kept on this \
                    machine only";
        session.log.message(Level::Error, text);
    }
}

pub fn ensure_path(session: &mut Session<'_>, request: EnsurePath) -> HandlerResult {
    session.run_interruptibly(request, |session, request| {
        let how = session.build_request(Vec::new(), BuildMode::Normal);
        session.scheduler().ensure_path(&request.path, how)?;
        Ok(Done)
    })
}
