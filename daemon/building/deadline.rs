//! How long a build may go on: until its time is over (`--timeout`), or nobody wants it any more.
//!
//! The time counts from when the build has all that it waits for (locks, a slot, a build user) until
//! its outputs are registered: references graphs, sandbox, builder, and the checking, copying,
//! hashing and scanning of the outputs. All of that can take as long as the author of a derivation
//! likes: an output may be a hole of terabytes. Deduplication, after registration, ends only with
//! the attempt.

use std::time::Instant;

use store::{Level, Progress};

use super::attempt::Attempt;
use super::attempt_error::AttemptError;
use super::job::Job;

/// The limit on one round of a build.
pub(super) struct Deadline<'a> {
    attempt: &'a Attempt,
    /// The subject of the message about it.
    name: String,
    started: Instant,
    /// Zero means no limit.
    seconds: u64,
}

impl<'a> Deadline<'a> {
    /// The time begins now.
    pub(super) fn start(job: &Job, attempt: &'a Attempt) -> Deadline<'a> {
        Deadline {
            attempt,
            name: job.description(),
            started: Instant::now(),
            seconds: u64::try_from(job.session.build_timeout).unwrap_or(0),
        }
    }

    /// When the time began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// The attempt that ends when the time is over.
    pub(super) fn attempt(&self) -> &'a Attempt {
        self.attempt
    }

    fn is_over(&self) -> bool {
        self.seconds != 0 && self.started.elapsed().as_secs() >= self.seconds
    }

    /// Fails if the build must not go on.
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

    /// The reason for an error of the work that this is to stop: if the build must not go on, the
    /// work ended with an error because of that.
    pub(super) fn explain(&self, error: AttemptError) -> AttemptError {
        self.check().err().unwrap_or(error)
    }
}

/// Long operations of the store report to every request, and stop in time.
impl Progress for Deadline<'_> {
    fn message(&self, level: Level, text: &str) {
        self.attempt.message(level, text);
    }

    fn interrupted(&self) -> bool {
        self.is_over() || self.attempt.cancel().is_cancelled()
    }
}
