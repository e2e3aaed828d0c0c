//! What goes wrong with one build: either its own fault, which fails the derivation, or a general
//! error, which ends the whole request.

use protocol::trace::{BuildFailure, Trace};

use super::attempt::Job;
use super::outcome::{Failure, Outcome};
use super::request::{BuildError, Level};
use super::shared::Attempt;

/// What went wrong.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The derivation cannot be built.
    Failed(Failure, String),
    /// Nothing can.
    General(BuildError),
}

impl<E: Into<BuildError>> From<E> for Trouble {
    fn from(error: E) -> Trouble {
        Trouble::General(error.into())
    }
}

/// An output that is not acceptable.
pub(super) fn rejected<T>(reason: String) -> Result<T, Trouble> {
    Err(Trouble::Failed(Failure::OutputRejected, reason))
}

impl Trouble {
    /// Tells everybody who waits, remembers the failure if failures are remembered, and says how
    /// the attempt ends.
    pub(super) fn outcome(self, job: &Job, attempt: &Attempt) -> Result<Outcome, BuildError> {
        match self {
            Trouble::General(error) => Err(error),
            Trouble::Failed(failure, message) => {
                attempt.message(Level::Error, message.as_str());
                job.failed(attempt, failure, &message).map(Outcome::Failed)
            }
        }
    }
}

impl Job {
    /// What is always done when the build itself has failed.
    pub(super) fn failed(
        &self,
        attempt: &Attempt,
        failure: Failure,
        message: &str,
    ) -> Result<Failure, BuildError> {
        attempt.trace(Trace::BuildFailed {
            derivation: self.path.as_str(),
            failure: BuildFailure::Other { status: 1, message },
        });
        // What fails for want of a network or of space may succeed another time.
        if matches!(failure, Failure::Permanent | Failure::OutputRejected)
            && !self.is_fixed_output()
        {
            self.cache_failure()?;
        }
        Ok(failure)
    }
}
