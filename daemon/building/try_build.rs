//! An attempt to build a derivation: locks, hook, builder (`doc/spec/build-environment.md`,
//! section 1, "try to build").
//!
//! It runs on its own thread, which may block. It holds nothing when it begins and when it ends,
//! whatever the outcome:
//!
//! 1. Lock the outputs, or give up if another process has a lock.
//! 2. Check again whether they are valid: the other process may have built them.
//! 3. Ask a hook, which builds the derivation, postpones it, or declines.
//! 4. Take one of the request's slots, or give up if none is free, and build locally.

use std::collections::BTreeSet;
use std::time::Instant;

use bstr::ByteSlice;
use formats::store_path::StorePath;
use protocol::operations::BuildMode;
use protocol::trace::{BuildFailure, Trace};
use store::{Level, PathLocks};

use super::attempt::Attempt;
use super::files;
use super::history;
use super::hook::{Decision, Question};
use super::hook_build;
use super::hook_rows::HookRecord;
use super::job::Job;
use super::local_build;
use super::outcome::{Failure, Outcome};
use super::postponement::Requirements;
use super::slots::Slot;
use super::stage::Stage;
use super::turns::Turn;
use crate::request_error::RequestError;

/// The attempt. A `slot` is passed if no hook needs to be asked, and a `turn` if it is the request's. The slot
/// that is taken is the caller's to free.
pub(super) fn try_build(
    job: &Job,
    attempt: &Attempt,
    slot: &mut Option<Slot>,
    turn: Option<Turn>,
) -> Outcome {
    with_locks(job, attempt, slot, turn).unwrap_or_else(Outcome::Error)
}

fn with_locks(
    job: &Job,
    attempt: &Attempt,
    slot: &mut Option<Slot>,
    turn: Option<Turn>,
) -> Result<Outcome, RequestError> {
    let store = &job.engine.store;
    let outputs: BTreeSet<StorePath> = job.outputs().map(|(_, path)| path.clone()).collect();
    let Some(mut locks) = PathLocks::try_acquire(store, &outputs)? else {
        return Ok(Outcome::Locked);
    };
    // Another process may have built it meanwhile; now that we hold the locks, none will.
    let valid = good_outputs(job, attempt, &outputs)?;
    if job.mode != BuildMode::Check && valid.len() == outputs.len() {
        locks.set_deletion(true);
        return Ok(Outcome::Done);
    }
    let missing: BTreeSet<StorePath> = match job.mode {
        BuildMode::Check => outputs.clone(),
        BuildMode::Normal | BuildMode::Repair => outputs.difference(&valid).cloned().collect(),
    };
    for output in &outputs {
        if !store.is_valid(output)? {
            files::remove(output.as_path())?;
        }
    }
    if job.session.cache_failure {
        for output in &outputs {
            if store.has_path_failed(output)? {
                let text = format!("builder for `{output}' failed previously (cached)");
                attempt.message(Level::Error, text);
                attempt.trace(Trace::BuildFailed {
                    derivation: job.path.as_str(),
                    failure: BuildFailure::Cached,
                });
                return Ok(Outcome::Failed(Failure::Cached));
            }
        }
    }
    if let Some(outcome) = offload(job, attempt, &missing, &mut locks, turn)? {
        return Ok(outcome);
    }
    if slot.is_none() {
        *slot = job.slots.take(job.must_be_local());
        if slot.is_none() {
            return Ok(Outcome::NeedsSlot);
        }
    }
    attempt.stage().enter(Stage::Here);
    job.engine.attempts.turns().serve(job.client.client());
    let build = || local_build::build(job, attempt, &missing);
    let outcome = log_for_administrator(job, attempt, None, build)?;
    if matches!(outcome, Outcome::Done) {
        // A process that waits for the lock will find the outputs valid, and won't create a new
        // lock file.
        locks.set_deletion(true);
    }
    Ok(outcome)
}

/// The outputs that are valid and, when repairing, have their registered contents.
fn good_outputs(
    job: &Job,
    attempt: &Attempt,
    outputs: &BTreeSet<StorePath>,
) -> Result<BTreeSet<StorePath>, RequestError> {
    let store = &job.engine.store;
    let valid = store.query_valid_paths(outputs)?;
    if job.mode != BuildMode::Repair {
        return Ok(valid);
    }
    let mut good = BTreeSet::new();
    for path in valid {
        if store.path_contents_good(&path, &job.checked, attempt)? {
            good.insert(path);
        }
    }
    Ok(good)
}

/// Asks a hook, and has it build; `None` if the derivation has to be built locally.
fn offload(
    job: &Job,
    attempt: &Attempt,
    missing: &BTreeSet<StorePath>,
    locks: &mut PathLocks,
    turn: Option<Turn>,
) -> Result<Option<Outcome>, RequestError> {
    let Some(hooks) = &job.hooks else {
        return Ok(None);
    };
    // Chosen by the client. It is one word of the question, which blanks would split.
    let platform = job.platform();
    if platform.is_empty() || !platform.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(None);
    }
    let mut features = Vec::new();
    for word in job.words("requiredSystemFeatures") {
        let word = word.to_str_lossy().into_owned();
        let dir = job.engine.store.dir();
        dir.check_name(&word).map_err(RequestError::new)?;
        features.push(word);
    }
    let question = Question {
        platform: &platform,
        derivation: job.path.as_str(),
        features: features.iter().map(String::as_str).collect(),
        rank: job.rank,
    };
    let (turns, client) = (job.engine.attempts.turns(), job.client.client());
    let requirements = Requirements::of(&job.derivation);
    turns.wait(client, &requirements, attempt.cancel(), || {
        attempt.stage().enter(Stage::FairShare);
    });
    let decision = hooks.ask(attempt, &question, || job.slots.is_free());
    if matches!(decision, Decision::Accepted(_)) {
        turns.serve(client);
    }
    if matches!(decision, Decision::Accepted(_) | Decision::Declined) {
        job.postponed.remove(&requirements);
    }
    // It has been answered: the next one may ask.
    drop(turn);
    match decision {
        Decision::Accepted(hook) => {
            // Whoever waits for a slot may ask the hook, too, or take the slot.
            job.slots.pass_on();
            let record = hook.record().clone();
            let build = || hook_build::build(job, attempt, *hook, missing);
            let outcome = log_for_administrator(job, attempt, Some(&record), build)?;
            locks.set_deletion(matches!(outcome, Outcome::Done));
            Ok(Some(outcome))
        }
        Decision::Postponed(reason) => Ok(Some(Outcome::Postponed(reason))),
        Decision::Declined => Ok(None),
        Decision::Cancelled => Ok(Some(Outcome::Failed(Failure::Misc))),
    }
}

/// Builds, and writes one line about it to the daemon's log, and a row to the history.
fn log_for_administrator(
    job: &Job,
    attempt: &Attempt,
    hook: Option<&HookRecord>,
    build: impl FnOnce() -> Result<Outcome, RequestError>,
) -> Result<Outcome, RequestError> {
    let begin = Instant::now();
    let outcome = build();
    let took = begin.elapsed();
    history::remember(job, attempt, hook, took, &outcome);
    let seconds = took.as_secs_f64();
    let path = &job.path;
    let place = match hook {
        None => "here",
        Some(_) => "by a hook",
    };
    match &outcome {
        Ok(Outcome::Done) => tracing::info!("built `{path}' {place} in {seconds:.2} s"),
        Ok(Outcome::Failed(failure)) => {
            let verdict = failure.in_words();
            tracing::info!("build of `{path}' {place} {verdict} after {seconds:.2} s");
        }
        Ok(_) => tracing::info!("hook failed at `{path}' after {seconds:.2} s"),
        Err(error) => tracing::info!(
            "build of `{path}' {place} ended after {seconds:.2} s: {}",
            error.message
        ),
    }
    outcome
}
