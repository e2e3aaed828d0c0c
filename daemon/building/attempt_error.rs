//! Errors of one build: either a failure of the build itself, or an error that ends the whole
//! request.

use protocol::trace::{BuildFailure, Trace};
use store::Level;

use super::attempt::Attempt;
use super::job::Job;
use super::outcome::{Failure, Outcome};
use crate::request_error::RequestError;

/// Why an attempt to build did not succeed.
#[derive(Debug)]
pub(super) enum AttemptError {
    /// The derivation can't be built, for the reason in the text.
    Failed(Failure, String),
    /// It timed out: the text has the limit.
    TimedOut(String),
    /// No request shares the attempt any more.
    Cancelled,
    /// An error that ends the request.
    General(RequestError),
}

impl<E: Into<RequestError>> From<E> for AttemptError {
    fn from(error: E) -> AttemptError {
        AttemptError::General(error.into())
    }
}

/// Rejects an output.
pub(super) fn rejected<T>(reason: String) -> Result<T, AttemptError> {
    Err(AttemptError::Failed(Failure::OutputRejected, reason))
}

impl AttemptError {
    /// Reports a failure to every waiting request, as [`report_failure`] does, and returns the
    /// outcome of the attempt.
    pub(super) fn outcome(self, job: &Job, attempt: &Attempt) -> Result<Outcome, RequestError> {
        match self {
            AttemptError::General(error) => Err(error),
            AttemptError::Cancelled => Ok(Outcome::Failed(Failure::Misc)),
            AttemptError::TimedOut(message) => {
                attempt.fails(&message);
                attempt.message(Level::Error, message);
                attempt.trace(Trace::BuildFailed {
                    derivation: job.path.as_str(),
                    failure: BuildFailure::Timeout,
                });
                Ok(Outcome::Failed(Failure::TimedOut))
            }
            AttemptError::Failed(failure, message) => {
                attempt.message(Level::Error, message.as_str());
                report_failure(job, attempt, failure, &message).map(Outcome::Failed)
            }
        }
    }
}

/// Traces the failure of a build and, if failures are cached, caches it.
pub(super) fn report_failure(
    job: &Job,
    attempt: &Attempt,
    failure: Failure,
    message: &str,
) -> Result<Failure, RequestError> {
    attempt.fails(message);
    attempt.trace(Trace::BuildFailed {
        derivation: job.path.as_str(),
        failure: BuildFailure::Other { status: 1, message },
    });
    // A failure for lack of a network or of space may not happen again.
    let would_repeat = matches!(failure, Failure::Permanent | Failure::OutputRejected);
    if would_repeat && !job.is_fixed_output() && job.session.cache_failure {
        for (_, output) in job.outputs() {
            job.engine.store.register_failed_path(output)?;
        }
    }
    Ok(failure)
}
