//! The goals that wait for something other than goals, and what they wait for.

use std::collections::BTreeMap;

use super::attempts::Participation;
use super::goal::GoalId;

/// What a goal waits for.
pub(super) enum Blocker {
    /// The end of its attempt.
    Attempt(#[expect(dead_code, reason = "leaves the attempt when dropped")] Participation),
    /// The end of an attempt that is being stopped, and can't be joined any more.
    StoppedAttempt,
    /// One of the request's slots, or its limit of attempts.
    Slot,
    /// A retry: another process holds a lock, or the hook has postponed the build.
    Retry,
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
    stopped_attempts: usize,
    slots: usize,
    retries: usize,
}

impl Counts {
    fn of(&mut self, blocker: &Blocker) -> &mut usize {
        match blocker {
            Blocker::Attempt(_) => &mut self.attempts,
            Blocker::StoppedAttempt => &mut self.stopped_attempts,
            Blocker::Slot => &mut self.slots,
            Blocker::Retry => &mut self.retries,
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
        self.counts.attempts
    }

    /// Whether a goal waits for a retry.
    pub(super) fn has_retries(&self) -> bool {
        self.counts.retries > 0
    }

    /// Whether a goal will be unblocked even if no slot becomes free.
    pub(super) fn is_hopeful(&self) -> bool {
        self.counts.slots < self.goals.len()
    }

    /// The goals that wait for a slot.
    pub(super) fn for_slot(&self) -> Vec<GoalId> {
        self.with(|blocker| matches!(blocker, Blocker::Slot))
    }

    /// The goals that wait for a retry.
    pub(super) fn for_retry(&self) -> Vec<GoalId> {
        self.with(|blocker| matches!(blocker, Blocker::Retry))
    }

    fn with(&self, is_wanted: impl Fn(&Blocker) -> bool) -> Vec<GoalId> {
        let wanted = self.goals.iter().filter(|(_, blocker)| is_wanted(blocker));
        wanted.map(|(id, _)| *id).collect()
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
        blocked.insert(two, Blocker::Retry);
        assert!(blocked.is_hopeful());
        assert_eq!(blocked.for_slot(), [one]);
        assert!(blocked.has_retries());
        assert_eq!(blocked.for_retry(), [two]);
        assert!(blocked.remove(two).is_some() && blocked.remove(two).is_none());
        assert!(blocked.get(one).is_some() && blocked.attempts() == 0);
        assert!(!blocked.has_retries());
    }
}
