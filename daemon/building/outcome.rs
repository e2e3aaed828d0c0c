//! How attempts and goals end, and what that means for the status of the request
//! (`doc/spec/build-environment.md`, section 13).

use crate::request_error::RequestError;

/// Why a goal failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The builder failed, and would fail again.
    Permanent,
    /// The builder failed, but might succeed another time.
    Transient,
    /// The builder succeeded, but what it made is not acceptable.
    OutputRejected,
    /// The derivation cannot be built as it is.
    InputRejected,
    /// The derivation failed before, and that was remembered.
    Cached,
    /// It took too long, or wrote too much.
    TimedOut,
    /// A hook failed, or something else that the derivation did not cause.
    Misc,
    /// A dependency failed.
    Dependency,
    /// No substituter has the item.
    NoSubstitute,
    /// A substituter has the item, but something it refers to can be neither found nor built.
    IncompleteClosure,
}

impl Failure {
    /// Whether the failure makes the request's status 100.
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
            Failure::Misc => "was given up",
            _ => "failed",
        }
    }

    /// Whether there is no (complete) substitute. That is no failure of a build: the derivation
    /// can still be built.
    pub(super) fn is_lack_of_substitutes(self) -> bool {
        matches!(self, Failure::NoSubstitute | Failure::IncompleteClosure)
    }
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The outputs, or the item, are valid now.
    Done,
    /// They are not, and will not be.
    Failed(Failure),
    /// Another process holds a lock: try again later.
    Locked,
    /// The hook asked to be asked again later.
    Postponed,
    /// It has to be built here, and all the request's slots are taken.
    NeedsSlot,
    /// The hook (not the build) failed: try again, perhaps otherwise.
    HookFailed,
    /// An error that ends the whole request.
    Error(RequestError),
}

impl Outcome {
    /// Whether something was tried, so that locks and build machines may be free now.
    pub(super) fn is_final(&self) -> bool {
        !matches!(
            self,
            Outcome::Locked | Outcome::Postponed | Outcome::NeedsSlot
        )
    }

    /// Whether the settings of another request might have led to another outcome.
    pub(super) fn depends_on_settings(&self) -> bool {
        matches!(
            self,
            Outcome::Failed(Failure::TimedOut | Failure::Misc) | Outcome::Error(_)
        )
    }
}
