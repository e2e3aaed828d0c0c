//! Building and substituting.

use protocol::codec::Done;
use protocol::operations::{BuildMode, BuildPaths, EnsurePath};

use super::session::{Outcome, Session};
use crate::building::{Mode, Target};

pub fn build_paths(session: &mut Session<'_>, request: BuildPaths) -> Outcome {
    if request.mode == BuildMode::Repair && !session.client.trusted {
        return session.refuse("repairing is a privileged operation");
    }
    session.run_interruptibly(request, |session, request| {
        let mode = match request.mode {
            BuildMode::Normal => Mode::Normal,
            BuildMode::Repair => Mode::Repair,
            BuildMode::Check => Mode::Check,
        };
        let targets = request.targets.into_iter().map(|target| Target {
            path: target.path,
            outputs: (!target.outputs.is_empty()).then_some(target.outputs),
        });
        session
            .scheduler()
            .build(session.build_request(targets.collect(), mode))?;
        Ok(Done)
    })
}

pub fn ensure_path(session: &mut Session<'_>, request: EnsurePath) -> Outcome {
    session.run_interruptibly(request, |session, request| {
        let how = session.build_request(Vec::new(), Mode::Normal);
        session.scheduler().ensure_path(&request.path, how)?;
        Ok(Done)
    })
}
