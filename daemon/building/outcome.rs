//! How an attempt to bring about a goal ends, and what that means for the status of the request
//! (`doc/spec/build-environment.md`, section 13).

use super::request::BuildError;

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
    /// A hook failed, or something else that is no fault of the derivation.
    Misc,
    /// Something it needs failed.
    Dependency,
    /// No substituter has the item.
    NoSubstitute,
    /// A substituter has the item, but something it refers to is nowhere to be had.
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

    /// What became of the build.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Failure::TimedOut => "timed out",
            Failure::Misc => "was given up",
            _ => "failed",
        }
    }

    /// Whether an item could not be substituted because it, or something it refers to, is not to
    /// be had: what is to be built can be built then.
    pub(super) fn is_lack_of_substitutes(self) -> bool {
        matches!(self, Failure::NoSubstitute | Failure::IncompleteClosure)
    }
}

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// What was wanted is valid now.
    Done,
    /// It is not, and will not be.
    Failed(Failure),
    /// Somebody else holds a lock: try again later.
    Locked,
    /// The hook asked to be asked again later.
    Postponed,
    /// It has to be built here, and all the client's slots are taken.
    NeedsSlot,
    /// The hook (not the build) failed: try again, perhaps otherwise.
    HookFailed,
    /// Something is wrong that ends the whole request.
    Error(BuildError),
}

impl Outcome {
    /// Whether another request, with other settings, might have fared better.
    pub(super) fn depends_on_settings(&self) -> bool {
        matches!(
            self,
            Outcome::Failed(Failure::TimedOut | Failure::Misc) | Outcome::Error(_)
        )
    }
}
