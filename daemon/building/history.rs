//! What the daemon adds to the farm's history (`doc/spec/history.md`): the builds of this machine, and
//! those of hooks that have not written it themselves.

use std::time::Duration;

use farm::ItemName;
use farm::history::{AttemptResult, Kind, LOCAL, Times, UNKNOWN_MACHINE};
use protocol::operations::BuildMode;
use system::clock::unix_time;

use super::attempt::Attempt;
use super::hook_rows::HookRecord;
use super::job::Job;
use super::outcome::{Failure, Outcome};
use crate::request_error::RequestError;

/// Writes how a build went, and how long it took: on this machine, or by the hook with the record, unless that
/// has told it.
pub(super) fn remember(
    job: &Job,
    attempt: &Attempt,
    hook: Option<&HookRecord>,
    took: Duration,
    outcome: &Result<Outcome, RequestError>,
) {
    let (Some(history), Some(result)) = (
        &job.engine.history,
        result(attempt, hook.is_some(), outcome),
    ) else {
        return;
    };
    if hook.is_some_and(|hook| hook.has_told(result)) {
        return;
    }
    let notes = attempt.notes();
    let reason = match outcome {
        Ok(Outcome::Done) => String::new(),
        Ok(Outcome::Failed(failure)) => {
            let reason = notes.reason;
            reason.unwrap_or_else(|| failure.in_words().to_owned())
        }
        Ok(_) => notes.reason.unwrap_or_default(),
        Err(error) => error.message.clone(),
    };
    let written = farm::history::Attempt {
        time: unix_time(),
        derivation: job.path.base_name().to_owned(),
        item: ItemName::of_derivation(&job.path, &job.derivation),
        system: job.platform(),
        machine: match hook {
            None => LOCAL,
            Some(_) => UNKNOWN_MACHINE,
        }
        .to_owned(),
        speed: 1.0,
        kind: match job.mode {
            BuildMode::Normal => Kind::Build,
            BuildMode::Check => Kind::Check,
            BuildMode::Repair => Kind::Repair,
        },
        times: Times {
            waited: notes.waited,
            built: took.saturating_sub(notes.waited),
            ..Times::default()
        },
        bytes_sent: 0,
        bytes_retrieved: 0,
        result,
        reason,
    };
    match hook {
        None => history.attempt(written, None),
        Some(hook) => history.attempt_of_hook(written, hook.token()),
    }
}

/// The result; nothing if nothing was tried.
fn result(
    attempt: &Attempt,
    by_hook: bool,
    outcome: &Result<Outcome, RequestError>,
) -> Option<AttemptResult> {
    let own_fault = match by_hook {
        true => AttemptResult::HookFailed,
        false => AttemptResult::MachineFailed,
    };
    Some(match outcome {
        Ok(Outcome::Done) => AttemptResult::Done,
        Ok(Outcome::Failed(Failure::TimedOut)) => AttemptResult::TimedOut,
        Ok(Outcome::Failed(_)) | Err(_) if attempt.cancel().is_cancelled() => {
            AttemptResult::Cancelled
        }
        Ok(Outcome::Failed(Failure::Misc)) => own_fault,
        Ok(Outcome::Failed(_)) => AttemptResult::Failed,
        Ok(Outcome::HookFailed) => AttemptResult::HookFailed,
        Err(_) => own_fault,
        Ok(_) => return None,
    })
}
