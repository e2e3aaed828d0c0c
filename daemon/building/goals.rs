//! The goals of one request, and the order in which they are worked on.

use std::collections::{BTreeSet, HashMap};

use formats::store_path::StorePath;
use protocol::operations::BuildMode;

use super::goal::{
    BuildGoal, BuildId, GoalId, GoalIds, GoalResult, Prefetch, SubstitutionGoal, SubstitutionId,
    SubstitutionState,
};
use super::outcome::Failure;
use super::wait_graph::{FailedDependencies, WaitGraph};

/// The kinds of goals, in the order in which they are worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum GoalKind {
    Substitution,
    Build,
}

/// The priority of a goal: by urgency, then by name, so that the order is the same in every run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Priority {
    urgency: Urgency,
    name: String,
    path: StorePath,
    id: GoalId,
}

/// What is worked on first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// Items that can be fetched.
    Fetch,
    Build,
    /// Substitutes are looked for at last, so that one question is asked for all of them.
    Question,
}

/// All goals of a request that have not ended. There is at most one for each derivation and item.
pub(super) struct Goals {
    ids: GoalIds,
    builds: HashMap<BuildId, BuildGoal>,
    build_ids: HashMap<StorePath, BuildId>,
    substitutions: HashMap<SubstitutionId, SubstitutionGoal>,
    substitution_ids: HashMap<StorePath, SubstitutionId>,
    graph: WaitGraph,
    awake: BTreeSet<Priority>,
    /// The items that may be received while they wait for their references.
    prefetchable: BTreeSet<SubstitutionId>,
    /// Failed goals, which are not tried again in the same request.
    failures: HashMap<(GoalKind, StorePath), Failure>,
    /// Goals dropped since [`Goals::take_dropped`].
    dropped: Vec<GoalId>,
}

impl Goals {
    /// An empty set; with `keep_going`, independent goals continue after a failure.
    pub(super) fn new(keep_going: bool) -> Goals {
        Goals {
            ids: GoalIds::default(),
            builds: HashMap::new(),
            build_ids: HashMap::new(),
            substitutions: HashMap::new(),
            substitution_ids: HashMap::new(),
            graph: WaitGraph::new(keep_going),
            awake: BTreeSet::new(),
            prefetchable: BTreeSet::new(),
            failures: HashMap::new(),
            dropped: Vec::new(),
        }
    }

    /// The goal of building (the wanted outputs of) a derivation; created, and awake, if it is new.
    pub(super) fn add_build(
        &mut self,
        path: &StorePath,
        wanted: Option<BTreeSet<String>>,
        mode: BuildMode,
    ) -> BuildId {
        if let Some(id) = self.build_ids.get(path).copied() {
            if let Some(goal) = self.builds.get_mut(&id) {
                goal.want(wanted);
                return id;
            }
        }
        let id = self.ids.new_build();
        let goal = BuildGoal::new(path.clone(), wanted, mode);
        self.builds.insert(id, goal);
        self.build_ids.insert(path.clone(), id);
        self.graph.add(id.into());
        self.wake(id.into());
        id
    }

    /// The goal of substituting an item; created, and awake, if it is new.
    pub(super) fn add_substitution(&mut self, path: &StorePath, repair: bool) -> SubstitutionId {
        if let Some(id) = self.substitution_ids.get(path) {
            return *id;
        }
        let id = self.ids.new_substitution();
        let goal = SubstitutionGoal {
            path: path.clone(),
            repair,
            state: SubstitutionState::New,
            prefetch: Prefetch::default(),
        };
        self.substitutions.insert(id, goal);
        self.substitution_ids.insert(path.clone(), id);
        self.graph.add(id.into());
        self.wake(id.into());
        id
    }

    /// The items to substitute of which nothing is known.
    pub(super) fn new_substitutions(&self) -> impl Iterator<Item = &SubstitutionGoal> {
        self.substitutions.values().filter(|goal| goal.is_new())
    }

    /// A derivation to build; `None` if the goal was dropped or has ended.
    pub(super) fn build(&self, id: BuildId) -> Option<&BuildGoal> {
        self.builds.get(&id)
    }

    /// Like [`Goals::build`], mutable.
    pub(super) fn build_mut(&mut self, id: BuildId) -> Option<&mut BuildGoal> {
        self.builds.get_mut(&id)
    }

    /// An item to substitute; `None` if the goal was dropped or has ended.
    pub(super) fn substitution(&self, id: SubstitutionId) -> Option<&SubstitutionGoal> {
        self.substitutions.get(&id)
    }

    /// Like [`Goals::substitution`], mutable.
    pub(super) fn substitution_mut(&mut self, id: SubstitutionId) -> Option<&mut SubstitutionGoal> {
        self.substitutions.get_mut(&id)
    }

    fn key(&self, id: GoalId) -> Option<(GoalKind, &StorePath)> {
        match id {
            GoalId::Build(id) => Some((GoalKind::Build, &self.builds.get(&id)?.path)),
            GoalId::Substitution(id) => {
                Some((GoalKind::Substitution, &self.substitutions.get(&id)?.path))
            }
        }
    }

    /// The derivation or the item of a goal.
    pub(super) fn path(&self, id: GoalId) -> Option<&StorePath> {
        self.key(id).map(|(_, path)| path)
    }

    fn priority(&self, id: GoalId) -> Option<Priority> {
        let path = self.path(id)?;
        let urgency = match id {
            GoalId::Build(_) => Urgency::Build,
            GoalId::Substitution(id) if self.substitutions.get(&id)?.is_new() => Urgency::Question,
            GoalId::Substitution(_) => Urgency::Fetch,
        };
        Some(Priority {
            urgency,
            name: path.name().to_owned(),
            path: path.clone(),
            id,
        })
    }

    /// The first `count` of some goals, by priority.
    pub(super) fn first(
        &self,
        goals: impl IntoIterator<Item = GoalId>,
        count: usize,
    ) -> Vec<GoalId> {
        let mut order: Vec<Priority> = goals
            .into_iter()
            .filter_map(|id| self.priority(id))
            .collect();
        order.sort_unstable();
        order.into_iter().take(count).map(|one| one.id).collect()
    }

    /// Makes a goal awake.
    pub(super) fn wake(&mut self, id: GoalId) {
        if let Some(priority) = self.priority(id) {
            self.awake.insert(priority);
        }
    }

    /// The next goal to work on.
    pub(super) fn next_awake(&mut self) -> Option<GoalId> {
        self.awake.pop_first().map(|priority| priority.id)
    }

    /// Allows that an item is received while it waits for its references.
    pub(super) fn allow_prefetch(&mut self, id: SubstitutionId) {
        self.prefetchable.insert(id);
    }

    /// Takes the next item that may be received while it waits for its references: the last that was
    /// found to be needed, which in a chain is the first that is needed.
    pub(super) fn next_prefetch(&mut self) -> Option<SubstitutionId> {
        self.prefetchable.pop_last()
    }

    /// Marks a goal as requested by the client.
    pub(super) fn set_top(&mut self, id: impl Into<GoalId>) {
        self.graph.set_top(id.into());
    }

    /// Whether all goals requested by the client have ended.
    pub(super) fn are_done(&self) -> bool {
        !self.graph.has_tops()
    }

    /// Makes `waiter` wait for `dependency`.
    pub(super) fn wait_for(&mut self, waiter: impl Into<GoalId>, dependency: impl Into<GoalId>) {
        self.graph.wait_for(waiter.into(), dependency.into());
    }

    /// Whether a goal waits for others.
    pub(super) fn is_waiting(&self, id: impl Into<GoalId>) -> bool {
        self.graph.is_waiting(id.into())
    }

    /// The failed dependencies of a goal.
    pub(super) fn failed(&self, id: impl Into<GoalId>) -> FailedDependencies {
        self.graph.failed(id.into())
    }

    /// Returns and clears the failed dependencies of a goal.
    pub(super) fn take_failed(&mut self, id: impl Into<GoalId>) -> FailedDependencies {
        self.graph.take_failed(id.into())
    }

    /// An earlier failure of the same goal in this request. A missing substitute is not remembered,
    /// since there may be one by now.
    pub(super) fn earlier_failure(&self, id: GoalId) -> Option<Failure> {
        let (kind, path) = self.key(id)?;
        self.failures
            .get(&(kind, path.clone()))
            .copied()
            .filter(|failure| !failure.is_lack_of_substitutes())
    }

    /// Ends a goal and wakes those that waited for it. Returns whether the client requested it.
    pub(super) fn end(&mut self, id: GoalId, result: GoalResult) -> bool {
        if let (Err(failure), Some((kind, path))) = (result, self.key(id)) {
            self.failures.insert((kind, path.clone()), failure);
        }
        self.remove(id);
        let Some(consequences) = self.graph.end(id, result) else {
            return false;
        };
        for waiter in consequences.woken {
            self.wake(waiter);
        }
        for dropped in consequences.dropped {
            self.remove(dropped);
            self.dropped.push(dropped);
        }
        consequences.was_top
    }

    /// The goals that were dropped since the last call, whose attempts have to be left.
    pub(super) fn take_dropped(&mut self) -> Vec<GoalId> {
        std::mem::take(&mut self.dropped)
    }

    fn remove(&mut self, id: GoalId) {
        if let Some(priority) = self.priority(id) {
            self.awake.remove(&priority);
        }
        match id {
            GoalId::Build(id) => {
                if let Some(goal) = self.builds.remove(&id) {
                    self.build_ids.remove(&goal.path);
                }
            }
            GoalId::Substitution(id) => {
                self.prefetchable.remove(&id);
                if let Some(goal) = self.substitutions.remove(&id) {
                    self.substitution_ids.remove(&goal.path);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::store_path::StoreDir;

    fn path(name: &str) -> StorePath {
        let text = format!("/gnu/store/{}-{name}", "a".repeat(32));
        StoreDir::new("/gnu/store")
            .expect("store")
            .parse(text)
            .expect("path")
    }

    fn build(goals: &mut Goals, name: &str) -> BuildId {
        goals.add_build(&path(&format!("{name}.drv")), None, BuildMode::Normal)
    }

    fn awake(goals: &mut Goals) -> Vec<GoalId> {
        std::iter::from_fn(|| goals.next_awake()).collect()
    }

    #[test]
    fn questions_come_last_and_names_decide() {
        let mut goals = Goals::new(false);
        let z = goals.add_substitution(&path("z"), false);
        let b = build(&mut goals, "b");
        let a = build(&mut goals, "a");
        let c = goals.add_substitution(&path("c"), false);
        let order: [GoalId; 4] = [a.into(), b.into(), c.into(), z.into()];
        assert_eq!(goals.first(order.into_iter().rev(), 3), order[..3]);
        assert_eq!(awake(&mut goals), order);
        goals.wake(b.into());
        goals.wake(b.into());
        assert_eq!(awake(&mut goals), [b.into()], "awake once, not twice");
    }

    #[test]
    fn a_derivation_has_one_goal_which_collects_the_wanted_outputs() {
        let mut goals = Goals::new(false);
        let want = |goals: &mut Goals, output: &str| {
            let wanted = Some([output.to_owned()].into());
            goals.add_build(&path("x.drv"), wanted, BuildMode::Normal)
        };
        let id = want(&mut goals, "out");
        assert_eq!(want(&mut goals, "out"), id);
        assert!(goals.build(id).is_some_and(|goal| !goal.more_wanted));
        assert_eq!(want(&mut goals, "lib"), id);
        let goal = goals.build(id).expect("goal");
        assert!(goal.more_wanted);
        assert_eq!(goal.wanted.as_ref().map(BTreeSet::len), Some(2));
    }

    #[test]
    fn the_end_of_a_goal_wakes_those_that_wait() {
        let mut goals = Goals::new(false);
        let top = build(&mut goals, "a");
        let low = build(&mut goals, "b");
        goals.set_top(top);
        goals.wait_for(top, low);
        assert_eq!(awake(&mut goals), [top.into(), low.into()]);
        assert!(!goals.end(low.into(), Ok(())));
        assert_eq!(awake(&mut goals), [top.into()]);
        assert!(goals.end(top.into(), Ok(())) && goals.are_done());
        assert!(!goals.end(top.into(), Ok(())), "it has ended before");
    }

    #[test]
    fn dropped_goals_are_told_and_never_awake() {
        let mut goals = Goals::new(false);
        let [top, bad, other] = ["top", "bad", "other"].map(|name| build(&mut goals, name));
        goals.set_top(top);
        goals.wait_for(top, bad);
        goals.wait_for(top, other);
        goals.end(bad.into(), Err(Failure::Permanent));
        assert_eq!(goals.take_dropped(), [other.into()]);
        assert!(goals.take_dropped().is_empty());
        assert_eq!(awake(&mut goals), [top.into()]);
        assert!(goals.build(other).is_none());
    }

    #[test]
    fn the_last_item_is_received_first_unless_it_was_dropped() {
        let mut goals = Goals::new(false);
        let items = ["top", "middle", "low"].map(|name| goals.add_substitution(&path(name), false));
        goals.set_top(items[0]);
        goals.wait_for(items[0], items[1]);
        goals.wait_for(items[1], items[2]);
        for item in items {
            goals.allow_prefetch(item);
        }
        assert_eq!(goals.next_prefetch(), Some(items[2]));
        goals.end(items[1].into(), Err(Failure::Misc));
        assert_eq!(goals.next_prefetch(), Some(items[0]));
        assert_eq!(goals.next_prefetch(), None);
    }

    #[test]
    fn failures_are_remembered_and_missing_substitutes_are_not() {
        let mut goals = Goals::new(true);
        let bad = build(&mut goals, "x");
        let missing = goals.add_substitution(&path("x.drv"), false);
        goals.end(bad.into(), Err(Failure::Permanent));
        goals.end(missing.into(), Err(Failure::NoSubstitute));
        let again = build(&mut goals, "x").into();
        assert_eq!(goals.earlier_failure(again), Some(Failure::Permanent));
        let again = goals.add_substitution(&path("x.drv"), false).into();
        assert_eq!(goals.earlier_failure(again), None);
    }
}
