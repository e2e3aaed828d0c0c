//! What a hook tells of its attempts and its machines: rows of the farm's history, which the daemon writes
//! (`doc/spec/history.md`, section 4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use farm::ItemName;
use farm::history::{Attempt, AttemptResult, Line, Lines, Token};
use formats::derivation::Derivation;
use formats::store_path::StorePath;

use super::engine::Engine;

/// What tells a hook's rows from those of others, and which ones it has told.
#[derive(Debug)]
pub(super) struct HookRecord {
    token: Token,
    /// Whether it has told how an attempt on some machine went.
    any: AtomicBool,
    /// Whether one of them was the last.
    last: AtomicBool,
}

impl HookRecord {
    /// That of a new hook.
    pub(super) fn new() -> HookRecord {
        HookRecord {
            token: Token(rand::random()),
            any: AtomicBool::new(false),
            last: AtomicBool::new(false),
        }
    }

    /// What the hook writes into rows that it can't tell.
    pub(super) fn token(&self) -> Token {
        self.token
    }

    /// Whether it has told how its build ended.
    pub(super) fn has_told(&self, result: AttemptResult) -> bool {
        let which = match result {
            AttemptResult::HookFailed => &self.any,
            _ => &self.last,
        };
        which.load(Ordering::Relaxed)
    }
}

/// The rows that a hook tells, as they come (`doc/spec/history.md`, section 4).
pub(super) struct HookRows {
    engine: Arc<Engine>,
    record: Arc<HookRecord>,
    lines: Lines,
}

impl HookRows {
    /// Those of a new hook.
    pub(super) fn new(engine: &Arc<Engine>) -> HookRows {
        HookRows {
            engine: engine.clone(),
            record: Arc::new(HookRecord::new()),
            lines: Lines::default(),
        }
    }

    /// What has been told so far.
    pub(super) fn record(&self) -> &Arc<HookRecord> {
        &self.record
    }

    /// Writes the rows that this piece completes. Attempts are those at the build that the hook has accepted, if any.
    pub(super) fn take(&mut self, piece: &[u8], build: Option<(&StorePath, &Derivation)>) {
        let lines = self.lines.read(piece);
        let Some(history) = &self.engine.history else {
            return;
        };
        for line in lines {
            match (line, build) {
                (Line::State(state), _) => history.state(state),
                (Line::Attempt(attempt), Some((path, derivation))) => {
                    let record = &self.record;
                    record.any.store(true, Ordering::Relaxed);
                    if attempt.result != AttemptResult::MachineFailed {
                        record.last.store(true, Ordering::Relaxed);
                    }
                    let attempt = Attempt {
                        derivation: path.base_name().to_owned(),
                        item: ItemName::of_derivation(path, derivation),
                        ..attempt
                    };
                    history.attempt(attempt, Some(record.token));
                }
                (Line::Attempt(_), None) => {}
            }
        }
    }
}
