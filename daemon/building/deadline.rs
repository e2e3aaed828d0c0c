//! How long a build may run: until its timeout (`--timeout`), or until no request wants it any
//! more.
//!
//! The time is counted from when the build has everything that it waits for (locks, a slot, a build
//! user) until its outputs are registered: references graphs, sandbox, builder, and checking,
//! copying, hashing and scanning the outputs. The author of a derivation can make each of these
//! take arbitrarily long: an output may be a sparse file of terabytes. Deduplication, after
//! registration, only ends with the attempt.

use std::time::Instant;

use store::{Level, Progress};

use super::attempt::Attempt;
use super::attempt_error::AttemptError;
use super::job::Job;
use crate::substituter::Timeouts;

/// The deadline of one round of a build.
pub(super) struct Deadline<'a> {
    attempt: &'a Attempt,
    /// The subject of the timeout message.
    name: String,
    started: Instant,
    /// Zero means no limit.
    seconds: u64,
}

impl<'a> Deadline<'a> {
    /// Starts counting now.
    pub(super) fn start(job: &Job, attempt: &'a Attempt) -> Deadline<'a> {
        Deadline {
            attempt,
            name: job.description(),
            started: Instant::now(),
            seconds: Timeouts::of(&job.session).total,
        }
    }

    /// When counting started.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The attempt, which is ended at the deadline.
    pub(super) fn attempt(&self) -> &'a Attempt {
        self.attempt
    }

    fn is_over(&self) -> bool {
        self.seconds != 0 && self.started.elapsed().as_secs() >= self.seconds
    }

    /// Fails if the build must not continue.
    pub(super) fn check(&self) -> Result<(), AttemptError> {
        if self.attempt.cancel().is_cancelled() {
            return Err(AttemptError::Cancelled);
        }
        if self.is_over() {
            let (name, seconds) = (&self.name, self.seconds);
            let text = format!("{name} timed out after {seconds} seconds");
            return Err(AttemptError::TimedOut(text));
        }
        Ok(())
    }

    /// Replaces an error by its cause: if the build must not continue, interrupting the work caused
    /// the error.
    pub(super) fn explain(&self, error: AttemptError) -> AttemptError {
        self.check().err().unwrap_or(error)
    }
}

/// Long operations of the store report to every request, and are interrupted at the deadline.
impl Progress for Deadline<'_> {
    fn message(&self, level: Level, text: &str) {
        self.attempt.message(level, text);
    }

    fn interrupted(&self) -> bool {
        self.is_over() || self.attempt.cancel().is_cancelled()
    }
}
