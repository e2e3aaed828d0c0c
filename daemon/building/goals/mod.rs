//! The goals of one request, and the order in which they are worked on.

mod ranks;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use formats::store_path::StorePath;
use protocol::operations::BuildMode;

use super::goal::{
    BuildGoal, BuildId, GoalId, GoalIds, GoalResult, Prefetch, SubstitutionGoal, SubstitutionId,
    SubstitutionState, Weighed,
};
use super::outcome::Failure;
use super::queues::{Priority, Queue, Queues, Urgency};
use super::wait_graph::{FailedDependencies, WaitGraph};

/// How many steps are taken at most, while a derivation can be built, to find what is more urgent.
const STEPS_BEFORE_BUILD: u32 = 128;

/// The kinds of goals, in the order in which they are worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum GoalKind {
    Substitution,
    Build,
}

/// All goals of a request that have not ended. There is at most one for each derivation and item.
pub(super) struct Goals {
    ids: GoalIds,
    builds: HashMap<BuildId, BuildGoal>,
    build_ids: HashMap<StorePath, BuildId>,
    substitutions: HashMap<SubstitutionId, SubstitutionGoal>,
    substitution_ids: HashMap<StorePath, SubstitutionId>,
    graph: WaitGraph,
    queues: Queues,
    /// How many steps were taken since a goal was begun to be built.
    steps: u32,
    /// The goals and waits that were added.
    added: usize,
    /// How many of them may be visited to compute ranks.
    visits: usize,
    /// Whether some goals have a longer way up than their rank says.
    is_unsettled: bool,
    /// Whether no server will be asked for anything.
    asks_nobody: bool,
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
            queues: Queues::default(),
            steps: 0,
            added: 0,
            visits: 0,
            is_unsettled: false,
            asks_nobody: false,
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
        self.added += 1;
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
            is_answered: false,
            state: SubstitutionState::New,
            prefetch: Prefetch::default(),
            weighed: Weighed::fetch(),
        };
        self.substitutions.insert(id, goal);
        self.substitution_ids.insert(path.clone(), id);
        self.graph.add(id.into());
        self.added += 1;
        self.wake(id.into());
        id
    }

    /// The items to substitute of which nothing is known.
    pub(super) fn new_substitutions(&self) -> impl Iterator<Item = &SubstitutionGoal> {
        self.substitutions.values().filter(|goal| goal.is_new())
    }

    /// Servers have been asked for all items to substitute. What follows from the answers, such as what has
    /// to be built, is found out before anything is begun.
    pub(super) fn are_answered(&mut self) {
        for goal in self.substitutions.values_mut() {
            goal.is_answered = true;
        }
        self.sort_queues();
    }

    /// No server is asked for anything any more.
    pub(super) fn ask_nobody(&mut self) {
        if !self.asks_nobody {
            self.asks_nobody = true;
            self.sort_queues();
        }
    }

    fn sort_queues(&mut self) {
        let mut queues = std::mem::take(&mut self.queues);
        queues.sort_anew(|id| self.priority(id));
        self.queues = queues;
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
            GoalId::Build(id) if self.is_ready(id) => Urgency::Build,
            GoalId::Build(_) => Urgency::Look,
            GoalId::Substitution(id) => match self.substitutions.get(&id)? {
                goal if !goal.is_new() => Urgency::Fetch,
                goal if goal.is_answered || self.asks_nobody => Urgency::Look,
                _ => Urgency::Question,
            },
        };
        let rank = match urgency {
            Urgency::Fetch | Urgency::Build => self.rank(id),
            Urgency::Look | Urgency::Question => 0,
        };
        Some(Priority {
            urgency,
            rank: Reverse(rank),
            name: path.name().to_owned(),
            path: path.clone(),
            id,
        })
    }

    /// Whether a derivation can be built: everything it needs is valid.
    pub(super) fn is_ready(&self, id: BuildId) -> bool {
        self.builds.get(&id).is_some_and(BuildGoal::is_ready)
    }

    /// Makes a goal awake.
    pub(super) fn wake(&mut self, id: GoalId) {
        let queue = match id {
            GoalId::Build(id) if self.is_ready(id) => Queue::Ready,
            _ => Queue::Awake,
        };
        self.enqueue(id, queue);
    }

    /// Puts a goal into a queue, and into no other.
    pub(super) fn enqueue(&mut self, id: GoalId, queue: Queue) {
        if let Some(priority) = self.priority(id) {
            self.queues.remove(&priority);
            self.queues.insert(queue, priority);
        }
    }

    /// Takes the first goal out of a queue.
    pub(super) fn next_of(&mut self, queue: Queue) -> Option<GoalId> {
        self.settle_ranks();
        self.queues.pop(queue)
    }

    /// The next goal to work on. As long as that is not a question, steps come before builds: they may
    /// find a derivation that is more urgent. But nothing waits until everything has been looked at.
    pub(super) fn next_awake(&mut self) -> Option<GoalId> {
        self.step_taken();
        let can_build = self.queues.first(Queue::Ready).is_some();
        let next = self.queues.first(Queue::Awake);
        let is_question = next.is_some_and(|next| next.urgency == Urgency::Question);
        let has_waited = next.is_none() || is_question || self.steps >= STEPS_BEFORE_BUILD;
        if can_build && has_waited {
            self.steps = 0;
            return self.next_of(Queue::Ready);
        }
        self.steps += u32::from(can_build);
        self.queues.pop(Queue::Awake)
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
        let (waiter, dependency) = (waiter.into(), dependency.into());
        self.graph.wait_for(waiter, dependency);
        self.added += 1;
        self.lift(waiter, dependency);
    }

    /// All goals.
    pub(super) fn all(&self) -> impl Iterator<Item = GoalId> {
        self.graph.goals()
    }

    /// For how many others a goal waits.
    pub(super) fn waits(&self, id: GoalId) -> usize {
        self.graph.waits_of(id)
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
            self.queues.remove(&priority);
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
mod tests;
