//! The results of attempts and goals, and the resulting status of the request
//! (`doc/spec/build-environment.md`, section 13).

use std::sync::Arc;

use super::prefetched::Prefetched;
use crate::request_error::RequestError;

/// Why a goal failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The builder failed, and would fail again.
    Permanent,
    /// The builder failed, but might succeed another time.
    Transient,
    /// The builder succeeded, but its output was rejected.
    OutputRejected,
    /// The derivation can't be built as it is.
    InputRejected,
    /// The derivation failed before, and the failure was cached.
    Cached,
    /// It timed out, or wrote too much.
    TimedOut,
    /// A hook failed, or something else that the derivation did not cause.
    Misc,
    /// No server delivers the item, or what it delivers is not the item.
    NotDelivered,
    /// A dependency failed.
    Dependency,
    /// There is no substitute for the item.
    NoSubstitute,
    /// There is a substitute, but one of its references can be neither substituted nor built.
    IncompleteClosure,
}

impl Failure {
    /// Whether the failure gives the request the status 100.
    pub(super) fn is_permanent(self) -> bool {
        matches!(
            self,
            Failure::Permanent | Failure::InputRejected | Failure::Cached
        )
    }

    /// The predicate of a sentence about the build.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Failure::TimedOut => "timed out",
            Failure::NotDelivered | Failure::Misc => "was given up",
            _ => "failed",
        }
    }

    /// Whether there is no (complete) substitute. That isn't a failed build: the derivation can
    /// still be built.
    pub(super) fn is_lack_of_substitutes(self) -> bool {
        matches!(self, Failure::NoSubstitute | Failure::IncompleteClosure)
    }
}

/// The result of an attempt.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The outputs, or the item, are valid now.
    Done,
    /// The item has been received, and waits until its references are valid.
    Received(Arc<Prefetched>),
    /// They are not, and will not be.
    Failed(Failure),
    /// Another process holds a lock: try again later.
    Locked,
    /// The hook asked to be asked again later, perhaps with the reason.
    Postponed(Option<String>),
    /// It has to be built locally or fetched after all, for which it needs a slot of the request.
    NeedsSlot,
    /// The hook (not the build) failed: try again, perhaps without it.
    HookFailed,
    /// An error that ends the whole request.
    Error(RequestError),
}

impl Outcome {
    /// Whether something was tried, so that locks and build machines may have become free.
    pub(super) fn is_final(&self) -> bool {
        !matches!(
            self,
            Outcome::Locked | Outcome::Postponed(_) | Outcome::NeedsSlot
        )
    }

    /// Whether another request's settings might have led to another outcome.
    pub(super) fn depends_on_settings(&self) -> bool {
        matches!(
            self,
            Outcome::Failed(Failure::TimedOut | Failure::NotDelivered | Failure::Misc)
                | Outcome::Error(_)
        )
    }
}
