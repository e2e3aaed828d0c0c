//! Starting attempts, each on its own thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::attempt::{Attempt, AttemptKey};
use super::attempts::Joined;
use super::attempts::Participation;
use super::engine::Engine;
use super::event_queue::EventQueue;
use super::goal::GoalId;
use super::outcome::Outcome;
use super::slots::Slot;
use crate::request_error::RequestError;

/// Joins the attempt at `key` or, if there is none, starts one that calls `run` on a new thread.
/// `None` if the attempt is being stopped. A slot that `run` returns is freed when the requests have been
/// told of the outcome: what could follow from that may be more urgent than what waits for a slot.
pub(super) fn join_or_start(
    engine: &Arc<Engine>,
    key: AttemptKey,
    queue: &Arc<EventQueue>,
    goal: GoalId,
    run: impl FnOnce(&Attempt) -> (Outcome, Option<Slot>) + Send + 'static,
) -> Option<Participation> {
    let (participation, attempt) = match engine.attempts.join(key, queue, goal) {
        Joined::Existing(participation) => return Some(participation),
        Joined::Stopping => return None,
        Joined::New(participation, attempt) => (participation, attempt),
    };
    let thread = std::thread::Builder::new().name("build".to_owned());
    let started = thread.spawn({
        let (engine, attempt) = (engine.clone(), attempt.clone());
        move || {
            let run = catch_unwind(AssertUnwindSafe(|| run(&attempt)));
            let (outcome, slot) = run.unwrap_or_else(|_| {
                let text = "internal error: a build's thread panicked";
                (Outcome::Error(RequestError::new(text)), None)
            });
            engine.attempts.end(&attempt, outcome);
            drop(slot);
        }
    });
    if let Err(error) = started {
        let text = format!("cannot start a thread for a build: {error}");
        let outcome = Outcome::Error(RequestError::new(text));
        engine.attempts.end(&attempt, outcome);
    }
    Some(participation)
}
