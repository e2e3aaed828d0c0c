//! The ranks of goals: how long the path is that waits for each ([`farm::order`]).
//!
//! A rank is right at once as long as goals are found from the top down, which is what usually happens.
//! If a goal that waits for others turns out to have a longer way up, the ranks below it are too low,
//! until all are computed anew. That visits every goal, so it is done only when enough steps were taken
//! to pay for it.

use std::collections::HashMap;

use farm::order::Paths;

use super::super::goal::{BuildId, GoalId, Weighed};
use super::Goals;

/// For each step that is taken, so many goals and waits may be visited to compute ranks. So that takes
/// a constant part of the time, however many goals there are.
pub(super) const VISITS_PER_STEP: usize = 64;

impl Goals {
    /// What a goal weighs.
    pub(in super::super) fn weighed(&self, id: GoalId) -> Option<Weighed> {
        match id {
            GoalId::Build(id) => Some(self.builds.get(&id)?.weighed),
            GoalId::Substitution(id) => Some(self.substitutions.get(&id)?.weighed),
        }
    }

    fn weighed_mut(&mut self, id: GoalId) -> Option<&mut Weighed> {
        match id {
            GoalId::Build(id) => Some(&mut self.builds.get_mut(&id)?.weighed),
            GoalId::Substitution(id) => Some(&mut self.substitutions.get_mut(&id)?.weighed),
        }
    }

    /// The weight of the longest path from a goal to one that nobody waits for, as far as it is known.
    pub(in super::super) fn rank(&self, id: impl Into<GoalId>) -> u64 {
        self.weighed(id.into()).unwrap_or_default().rank
    }

    /// Sets the time that a derivation will take, in milliseconds: usually, and one time in ten.
    pub(in super::super) fn set_weight(&mut self, id: BuildId, usual: u64, long: u64) {
        let id = GoalId::from(id);
        if let Some(before) = self.weighed(id) {
            let above = before.rank.saturating_sub(before.weight);
            self.set_rank(id, above.saturating_add(usual));
            if let Some(weighed) = self.weighed_mut(id) {
                (weighed.weight, weighed.long) = (usual, Some(long));
            }
        }
    }

    /// A goal has another way up.
    pub(super) fn lift(&mut self, waiter: GoalId, dependency: GoalId) {
        let own = self.weighed(dependency).unwrap_or_default();
        let rank = self.rank(waiter).saturating_add(own.weight);
        if rank > own.rank {
            self.set_rank(dependency, rank);
        }
    }

    /// Sets a goal's rank; those of what it waits for may have to follow.
    fn set_rank(&mut self, id: GoalId, rank: u64) {
        let old = self.priority(id);
        if let Some(weighed) = self.weighed_mut(id) {
            weighed.rank = rank;
        }
        if let (Some(old), Some(new)) = (old, self.priority(id)) {
            if old != new {
                self.queues.replace(&old, new);
            }
        }
        self.is_unsettled |= self.graph.is_waiting(id);
    }

    /// A step has been taken, which pays for some visits.
    pub(super) fn step_taken(&mut self) {
        self.visits += VISITS_PER_STEP;
    }

    /// Computes all ranks anew, if that is due and enough was done since the last time.
    pub(super) fn settle_ranks(&mut self) {
        if !self.is_unsettled || self.visits < self.added {
            return;
        }
        self.visits -= self.added;
        self.is_unsettled = false;
        let (ids, paths) = self.paths(|_, weighed| weighed.weight);
        let ranks = paths.ranks();
        for (number, id) in ids.into_iter().enumerate() {
            if let Some(weighed) = self.weighed_mut(id) {
                weighed.rank = ranks.rank(number);
            }
        }
        self.sort_queues();
    }

    /// The longest path, if goals have the weights that `weight` gives them, in the order in which they
    /// must be done; and its weight.
    pub(in super::super) fn longest_path(
        &self,
        weight: impl Fn(GoalId, Weighed) -> u64,
    ) -> (Vec<GoalId>, u64) {
        let (ids, paths) = self.paths(weight);
        let ranks = paths.ranks();
        let path = ranks.longest_path();
        let weight = path.first().map_or(0, |&first| ranks.rank(first));
        (path.into_iter().map(|number| ids[number]).collect(), weight)
    }

    /// All goals with these weights, and which waits for which.
    fn paths(&self, weight: impl Fn(GoalId, Weighed) -> u64) -> (Vec<GoalId>, Paths) {
        let ids: Vec<GoalId> = self.graph.goals().collect();
        let mut paths = Paths::default();
        let mut numbers = HashMap::with_capacity(ids.len());
        for &id in &ids {
            let weighed = self.weighed(id).unwrap_or_default();
            numbers.insert(id, paths.add(weight(id, weighed)));
        }
        for (waiter, dependency) in self.graph.waits() {
            if let (Some(&waiter), Some(&dependency)) =
                (numbers.get(&waiter), numbers.get(&dependency))
            {
                paths.wait(waiter, dependency);
            }
        }
        (ids, paths)
    }
}
