//! How far an attempt has come.

use std::time::{Duration, Instant};

use farm::waiting::Waiting;
use system::sync::Mutex;

/// What an attempt does or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It checks whether there is something to do.
    Begun,
    /// It waits until a client who has had less has asked the hook.
    FairShare,
    /// It waits until the hook may be asked.
    HookTurn,
    /// The hook is being asked.
    HookAnswer,
    /// It waits for a build user.
    BuildUser,
    /// The builder runs.
    Here,
    /// The hook has accepted the build.
    ByHook,
    /// An item is being fetched.
    Fetch,
}

impl Stage {
    /// What it waits for; `None` if something runs.
    pub(super) fn waiting(self) -> Option<Waiting> {
        match self {
            Stage::Begun => Some(Waiting::Turn),
            Stage::FairShare => Some(Waiting::FairShare),
            Stage::HookTurn => Some(Waiting::HookTurn),
            Stage::HookAnswer => Some(Waiting::HookAnswer),
            Stage::BuildUser => Some(Waiting::BuildUser),
            Stage::Here | Stage::ByHook | Stage::Fetch => None,
        }
    }
}

/// The stage of one attempt, and since when.
pub(super) struct StageClock(Mutex<(Stage, Instant)>);

impl StageClock {
    /// An attempt that begins with `stage`.
    pub(super) fn new(stage: Stage) -> StageClock {
        StageClock(Mutex::new((stage, Instant::now())))
    }

    /// The attempt has come to this stage.
    pub(super) fn enter(&self, stage: Stage) {
        *self.0.lock() = (stage, Instant::now());
    }

    /// The stage, and how long it has lasted.
    pub(super) fn now(&self) -> (Stage, Duration) {
        let (stage, since) = *self.0.lock();
        (stage, since.elapsed())
    }
}
