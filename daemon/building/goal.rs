//! The two kinds of goals, and their states.

use std::collections::BTreeSet;
use std::sync::Arc;

use formats::derivation::Derivation;
use formats::store_path::StorePath;
use protocol::operations::BuildMode;

use super::input_closure::InputClosure;
use super::outcome::Failure;
use super::prefetched::Prefetched;
use crate::substituter::Offer;

/// Identifies a derivation to build, within its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct BuildId(usize);

/// Identifies an item to substitute, within its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SubstitutionId(usize);

/// Makes the ids of a request's goals, each once.
#[derive(Debug, Default)]
pub(super) struct GoalIds {
    last: usize,
}

impl GoalIds {
    /// For a derivation to build.
    pub(super) fn new_build(&mut self) -> BuildId {
        self.last += 1;
        BuildId(self.last)
    }

    /// For an item to substitute.
    pub(super) fn new_substitution(&mut self) -> SubstitutionId {
        self.last += 1;
        SubstitutionId(self.last)
    }
}

#[cfg(test)]
impl BuildId {
    /// The id with this number, without a goal.
    pub(super) fn numbered(number: usize) -> BuildId {
        BuildId(number)
    }
}

#[cfg(test)]
impl SubstitutionId {
    /// The id with this number, without a goal.
    pub(super) fn numbered(number: usize) -> SubstitutionId {
        SubstitutionId(number)
    }
}

/// Identifies a goal of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum GoalId {
    Substitution(SubstitutionId),
    Build(BuildId),
}

impl From<BuildId> for GoalId {
    fn from(id: BuildId) -> GoalId {
        GoalId::Build(id)
    }
}

impl From<SubstitutionId> for GoalId {
    fn from(id: SubstitutionId) -> GoalId {
        GoalId::Substitution(id)
    }
}

/// A goal's place among those that wait for each other, in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weighed {
    /// How long it is expected to take.
    pub(super) weight: u64,
    /// How long one in ten like it takes at least, if that is known.
    pub(super) long: Option<u64>,
    /// The weight of the longest path from it to one that nobody waits for, itself included.
    pub(super) rank: u64,
}

impl Weighed {
    fn new(weight: u64) -> Weighed {
        Weighed {
            weight,
            long: None,
            rank: weight,
        }
    }

    /// A derivation of which nothing is known: all are alike, and depth decides.
    fn build() -> Weighed {
        Weighed::new(1000)
    }

    /// An item: next to a build, it takes next to nothing.
    pub(super) fn fetch() -> Weighed {
        Weighed::new(10)
    }
}

/// How a goal ended.
pub(super) type GoalResult = Result<(), Failure>;

/// A derivation to build.
pub(super) struct BuildGoal {
    /// The derivation's file.
    pub(super) path: StorePath,
    pub(super) mode: BuildMode,
    /// The names of the wanted outputs; `None` for all.
    pub(super) wanted: Option<BTreeSet<String>>,
    /// Whether outputs were added since substitutes were looked for.
    pub(super) more_wanted: bool,
    /// Whether to try substitutes once more when the inputs are valid.
    pub(super) retry_substitutes: bool,
    /// Whether that has been done.
    pub(super) substitutes_retried: bool,
    pub(super) inputs: Arc<InputClosure>,
    /// How often a hook accepted the derivation and then failed.
    pub(super) hook_failures: u32,
    pub(super) state: BuildState,
    pub(super) weighed: Weighed,
}

impl BuildGoal {
    /// A goal in its initial state.
    pub(super) fn new(
        path: StorePath,
        wanted: Option<BTreeSet<String>>,
        mode: BuildMode,
    ) -> BuildGoal {
        BuildGoal {
            path,
            mode,
            wanted,
            more_wanted: false,
            retry_substitutes: false,
            substitutes_retried: false,
            inputs: Arc::default(),
            hook_failures: 0,
            state: BuildState::New,
            weighed: Weighed::build(),
        }
    }

    /// Whether everything that it needs is valid.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, BuildState::Read(_, BuildStep::Attempt))
    }

    /// Adds to the wanted outputs.
    pub(super) fn want(&mut self, more: Option<BTreeSet<String>>) {
        match (&mut self.wanted, more) {
            (None, _) => {}
            (Some(_), None) => (self.wanted, self.more_wanted) = (None, true),
            (Some(old), Some(new)) => {
                let before = old.len();
                old.extend(new);
                self.more_wanted |= old.len() > before;
            }
        }
    }
}

/// How much is known about a derivation to build.
pub(super) enum BuildState {
    /// Nothing.
    New,
    /// The `.drv` is valid, or could not be substituted.
    DerivationSubstituted,
    /// The derivation has been read; this is the next step.
    Read(Arc<Derivation>, BuildStep),
}

/// The next step of a derivation that has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BuildStep {
    /// Check which outputs are missing, and look for substitutes.
    CheckOutputs,
    /// The outputs were substituted as far as possible: check which inputs are needed.
    OutputsSubstituted,
    /// The inputs are valid, or could not be built.
    InputsRealised,
    /// The damaged items in the closure of the outputs are repaired, or could not be.
    ClosureRepaired,
    /// Start an attempt.
    Attempt,
}

/// An item to substitute.
pub(super) struct SubstitutionGoal {
    pub(super) path: StorePath,
    /// Whether the item is valid, but damaged.
    pub(super) repair: bool,
    /// Whether it is known already what servers say of it, so that its next step asks nobody.
    pub(super) is_answered: bool,
    pub(super) state: SubstitutionState,
    pub(super) prefetch: Prefetch,
    pub(super) weighed: Weighed,
}

impl SubstitutionGoal {
    /// Whether nothing is known of the item.
    pub(super) fn is_new(&self) -> bool {
        matches!(self.state, SubstitutionState::New)
    }
}

/// How much is known about an item to substitute.
pub(super) enum SubstitutionState {
    /// Nothing.
    New,
    /// There is a substitute. It is fetched when its references are valid.
    Found(Arc<Offer>),
}

/// What has come of receiving an item before its references are valid.
#[derive(Clone, Debug, Default)]
pub(super) enum Prefetch {
    /// Nothing yet.
    #[default]
    Untried,
    /// It waits.
    Received(Arc<Prefetched>),
    /// It could not be received for a reason that is not the servers'. It is fetched when its references
    /// are valid.
    Postponed,
    /// No server has delivered it, and none is asked once more.
    Failed(Failure),
}
