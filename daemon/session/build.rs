//! Building and substituting.

use std::sync::Arc;

use protocol::codec::Done;
use protocol::operations::{BuildMode, BuildPaths, EnsurePath};

use super::{Outcome, Session};
use crate::building::{BuildRequest, Mode, Target};

impl Session<'_> {
    pub(super) fn build_paths(&mut self, request: BuildPaths) -> Outcome {
        if request.mode == BuildMode::Repair && !self.client.trusted {
            return self.refuse("repairing is a privileged operation");
        }
        self.labour(request, |session, request| {
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

    pub(super) fn ensure_path(&mut self, request: EnsurePath) -> Outcome {
        self.labour(request, |session, request| {
            let how = session.build_request(Vec::new(), Mode::Normal);
            session.scheduler().ensure_path(&request.path, how)?;
            Ok(Done)
        })
    }

    /// What the scheduler has to know of this client.
    pub(super) fn build_request(&self, targets: Vec<Target>, mode: Mode) -> BuildRequest {
        BuildRequest {
            targets,
            mode,
            settings: self.settings.clone(),
            client: self.client,
            temp_roots: Arc::clone(&self.temp_roots),
            log: self.log.clone(),
            cancel: self.cancel.clone(),
        }
    }
}
