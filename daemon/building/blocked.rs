//! The goals that wait for something other than goals, and what they wait for.

use std::collections::BTreeMap;

use farm::waiting::Waiting;

use super::attempts::Participation;
use super::goal::GoalId;

/// What a goal waits for.
pub(super) enum Blocker {
    /// The end of its attempt.
    Attempt(Participation),
    /// The same of an attempt to receive its item beforehand. The goal may still wait for others.
    Prefetch(Participation),
    /// The end of an attempt that is being stopped, and can't be joined any more.
    StoppedAttempt,
    /// One of the request's slots, or its limit of attempts.
    Slot,
    /// A retry.
    Retry(Obstacle),
}

/// Why a build has to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Obstacle {
    /// Another process holds the lock of an output.
    Lock,
    /// The hook has postponed the build.
    Machine,
    /// All descriptors that this client may use are in use.
    Descriptors,
}

impl Obstacle {
    /// What it makes a goal wait for; `reason` is what the hook said.
    pub(super) fn waiting(self, reason: Option<&str>) -> Waiting {
        match self {
            Obstacle::Lock => Waiting::Lock,
            Obstacle::Machine => Waiting::Machine(reason.map(str::to_owned)),
            Obstacle::Descriptors => Waiting::Limit,
        }
    }
}

/// The blocked goals of a request, each with one blocker.
#[derive(Default)]
pub(super) struct Blocked {
    goals: BTreeMap<GoalId, Blocker>,
    counts: Counts,
}

/// The number of goals with each blocker.
#[derive(Default)]
struct Counts {
    attempts: usize,
    prefetches: usize,
    stopped_attempts: usize,
    slots: usize,
    retries: usize,
}

impl Counts {
    fn of(&mut self, blocker: &Blocker) -> &mut usize {
        match blocker {
            Blocker::Attempt(_) => &mut self.attempts,
            Blocker::Prefetch(_) => &mut self.prefetches,
            Blocker::StoppedAttempt => &mut self.stopped_attempts,
            Blocker::Slot => &mut self.slots,
            Blocker::Retry(_) => &mut self.retries,
        }
    }
}

impl Blocked {
    /// Blocks a goal.
    pub(super) fn insert(&mut self, id: GoalId, blocker: Blocker) {
        self.remove(id);
        *self.counts.of(&blocker) += 1;
        self.goals.insert(id, blocker);
    }

    /// Unblocks a goal; if it shares an attempt, leaves that.
    pub(super) fn remove(&mut self, id: GoalId) -> Option<Blocker> {
        let blocker = self.goals.remove(&id)?;
        *self.counts.of(&blocker) -= 1;
        Some(blocker)
    }

    /// What a goal waits for.
    pub(super) fn get(&self, id: GoalId) -> Option<&Blocker> {
        self.goals.get(&id)
    }

    /// The number of attempts that the request shares.
    pub(super) fn attempts(&self) -> usize {
        self.counts.attempts + self.counts.prefetches
    }

    /// Whether a goal waits for a retry.
    pub(super) fn has_retries(&self) -> bool {
        self.counts.retries > 0
    }

    /// Whether a goal will be unblocked even if no slot becomes free.
    pub(super) fn is_hopeful(&self) -> bool {
        self.counts.slots < self.goals.len()
    }

    /// Whether a goal waits for a slot.
    pub(super) fn has_for_slot(&self) -> bool {
        self.counts.slots > 0
    }

    /// What goals wait to be retried for, with the first of each kind.
    pub(super) fn obstacles(&self) -> BTreeMap<Obstacle, GoalId> {
        let mut found = BTreeMap::new();
        for (id, blocker) in &self.goals {
            if let Blocker::Retry(obstacle) = blocker {
                found.entry(*obstacle).or_insert(*id);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::building::goal::BuildId;

    #[test]
    fn a_goal_has_one_blocker() {
        let mut blocked = Blocked::default();
        let [one, two]: [GoalId; 2] = [BuildId::numbered(1).into(), BuildId::numbered(2).into()];
        blocked.insert(one, Blocker::Slot);
        blocked.insert(two, Blocker::Slot);
        assert!(!blocked.is_hopeful());
        blocked.insert(two, Blocker::Retry(Obstacle::Lock));
        assert!(blocked.is_hopeful());
        assert_eq!(blocked.obstacles(), BTreeMap::from([(Obstacle::Lock, two)]));
        assert!(blocked.has_for_slot() && blocked.has_retries());
        assert!(blocked.remove(two).is_some() && blocked.remove(two).is_none());
        assert!(blocked.get(one).is_some() && blocked.attempts() == 0);
        assert!(!blocked.has_retries());
    }
}
