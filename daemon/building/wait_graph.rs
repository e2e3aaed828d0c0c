//! Which goals wait for which others.
//!
//! A goal is woken when everything it waits for has ended. A goal without waiters is dropped, with
//! every goal that only it waited for. Nothing here recurses: a chain of any length is processed
//! with a queue.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::goal::{GoalId, GoalResult};
use super::outcome::Failure;

/// The number of failed goals among those that a goal waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FailedDependencies {
    /// In total.
    pub(super) total: u32,
    /// Those with [`Failure::NoSubstitute`].
    pub(super) no_substitute: u32,
    /// Those with [`Failure::IncompleteClosure`].
    pub(super) incomplete_closure: u32,
}

impl FailedDependencies {
    fn count(&mut self, failure: Failure) {
        self.total += 1;
        match failure {
            Failure::NoSubstitute => self.no_substitute += 1,
            Failure::IncompleteClosure => self.incomplete_closure += 1,
            _ => {}
        }
    }
}

#[derive(Default)]
struct Node {
    /// Whether the client itself requested the goal.
    is_top: bool,
    waiters: BTreeSet<GoalId>,
    waits_for: BTreeSet<GoalId>,
    failed: FailedDependencies,
}

/// The consequences of the end of a goal.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Consequences {
    /// Whether the client itself requested the goal.
    pub(super) was_top: bool,
    /// Goals that have nothing left to wait for. Some may also be among the dropped.
    pub(super) woken: Vec<GoalId>,
    /// Goals without waiters; they are no longer in the graph.
    pub(super) dropped: Vec<GoalId>,
}

/// The goals of one request.
pub(super) struct WaitGraph {
    /// Whether goals that are independent of a failed one continue.
    keep_going: bool,
    nodes: HashMap<GoalId, Node>,
    tops: usize,
}

impl WaitGraph {
    /// A graph without goals.
    pub(super) fn new(keep_going: bool) -> WaitGraph {
        WaitGraph {
            keep_going,
            nodes: HashMap::new(),
            tops: 0,
        }
    }

    /// Adds a goal that waits for nothing.
    pub(super) fn add(&mut self, id: GoalId) {
        self.nodes.entry(id).or_default();
    }

    /// Marks a goal as requested by the client: it isn't dropped for lack of waiters.
    pub(super) fn set_top(&mut self, id: GoalId) {
        if let Some(node) = self.nodes.get_mut(&id) {
            if !node.is_top {
                node.is_top = true;
                self.tops += 1;
            }
        }
    }

    /// Whether a goal requested by the client remains.
    pub(super) fn has_tops(&self) -> bool {
        self.tops > 0
    }

    /// Makes `waiter` wait for `dependency`.
    pub(super) fn wait_for(&mut self, waiter: GoalId, dependency: GoalId) {
        if !self.nodes.contains_key(&waiter) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&dependency) {
            node.waiters.insert(waiter);
            if let Some(node) = self.nodes.get_mut(&waiter) {
                node.waits_for.insert(dependency);
            }
        }
    }

    /// All goals.
    pub(super) fn goals(&self) -> impl Iterator<Item = GoalId> {
        self.nodes.keys().copied()
    }

    /// Each goal that waits, with each that it waits for.
    pub(super) fn waits(&self) -> impl Iterator<Item = (GoalId, GoalId)> {
        (self.nodes.iter()).flat_map(|(&id, node)| {
            node.waits_for
                .iter()
                .map(move |&dependency| (id, dependency))
        })
    }

    /// For how many others a goal waits.
    pub(super) fn waits_of(&self, id: GoalId) -> usize {
        self.nodes.get(&id).map_or(0, |node| node.waits_for.len())
    }

    /// Whether a goal waits for others.
    pub(super) fn is_waiting(&self, id: GoalId) -> bool {
        self.waits_of(id) > 0
    }

    /// The failed dependencies of a goal.
    pub(super) fn failed(&self, id: GoalId) -> FailedDependencies {
        self.nodes
            .get(&id)
            .map(|node| node.failed)
            .unwrap_or_default()
    }

    /// Returns and clears the failed dependencies of a goal.
    pub(super) fn take_failed(&mut self, id: GoalId) -> FailedDependencies {
        self.nodes
            .get_mut(&id)
            .map(|node| std::mem::take(&mut node.failed))
            .unwrap_or_default()
    }

    /// Removes a goal that has ended; `None` if it was dropped before.
    pub(super) fn end(&mut self, id: GoalId, result: GoalResult) -> Option<Consequences> {
        let node = self.remove(id)?;
        let mut consequences = Consequences {
            was_top: node.is_top,
            ..Consequences::default()
        };
        // A missing substitute is no reason to give up: the item can be built.
        let is_failure = matches!(result, Err(failure) if !failure.is_lack_of_substitutes());
        let give_up = is_failure && !self.keep_going;
        for waiter in node.waiters {
            let Some(waiting) = self.nodes.get_mut(&waiter) else {
                continue;
            };
            waiting.waits_for.remove(&id);
            if let Err(failure) = result {
                waiting.failed.count(failure);
            }
            if waiting.waits_for.is_empty() || give_up {
                let rest = std::mem::take(&mut waiting.waits_for);
                consequences.woken.push(waiter);
                self.stop_waiting(waiter, rest, &mut consequences.dropped);
            }
        }
        if node.is_top && give_up {
            consequences.dropped.extend(self.nodes.keys());
            self.nodes.clear();
            self.tops = 0;
        }
        Some(consequences)
    }

    /// Drops all goals without waiters, transitively.
    fn stop_waiting(
        &mut self,
        waiter: GoalId,
        dependencies: BTreeSet<GoalId>,
        dropped: &mut Vec<GoalId>,
    ) {
        let mut queue: VecDeque<(GoalId, GoalId)> = dependencies
            .into_iter()
            .map(|dependency| (waiter, dependency))
            .collect();
        while let Some((waiter, dependency)) = queue.pop_front() {
            let Some(node) = self.nodes.get_mut(&dependency) else {
                continue;
            };
            node.waiters.remove(&waiter);
            if !node.waiters.is_empty() || node.is_top {
                continue;
            }
            if let Some(node) = self.remove(dependency) {
                dropped.push(dependency);
                queue.extend(node.waits_for.into_iter().map(|next| (dependency, next)));
            }
        }
    }

    fn remove(&mut self, id: GoalId) -> Option<Node> {
        let node = self.nodes.remove(&id)?;
        self.tops -= usize::from(node.is_top);
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::building::goal::{BuildId, SubstitutionId};

    fn build(number: usize) -> GoalId {
        BuildId::numbered(number).into()
    }

    /// A graph in which the client requested goal 0, and each pair is a waiter and its dependency.
    fn graph(keep_going: bool, goals: usize, waits: &[(usize, usize)]) -> WaitGraph {
        let mut graph = WaitGraph::new(keep_going);
        for number in 0..goals {
            graph.add(build(number));
        }
        graph.set_top(build(0));
        for (waiter, dependency) in waits {
            graph.wait_for(build(*waiter), build(*dependency));
        }
        graph
    }

    fn woken(goals: &[GoalId]) -> Option<Consequences> {
        Some(Consequences {
            woken: goals.to_vec(),
            ..Consequences::default()
        })
    }

    #[test]
    fn the_last_dependency_wakes_the_waiter() {
        let mut graph = graph(false, 3, &[(0, 1), (0, 2)]);
        assert!(graph.is_waiting(build(0)) && !graph.is_waiting(build(1)));
        assert_eq!(graph.end(build(1), Ok(())), woken(&[]));
        assert_eq!(graph.end(build(2), Ok(())), woken(&[build(0)]));
        assert!(!graph.is_waiting(build(0)) && graph.has_tops());
        let last = graph.end(build(0), Ok(())).expect("the client's goal");
        assert!(last.was_top && !graph.has_tops());
        assert_eq!(graph.end(build(0), Ok(())), None);
    }

    #[test]
    fn one_dependency_wakes_all_its_waiters() {
        let mut graph = graph(false, 4, &[(0, 1), (0, 2), (1, 3), (2, 3)]);
        assert_eq!(graph.end(build(3), Ok(())), woken(&[build(1), build(2)]));
    }

    #[test]
    fn a_failure_wakes_its_waiter_and_drops_what_nobody_else_needs() {
        // 0 waits for 1 and 2; 2 waits for 3, for which 4 (also requested by the client) waits as
        // well.
        let mut graph = graph(false, 6, &[(0, 1), (0, 2), (2, 3), (2, 5), (4, 3)]);
        graph.set_top(build(4));
        let end = graph.end(build(1), Err(Failure::Permanent)).expect("goal");
        assert_eq!(end.woken, [build(0)]);
        assert_eq!(end.dropped, [build(2), build(5)]);
        assert_eq!(graph.failed(build(0)).total, 1);
        assert!(graph.is_waiting(build(4)));
    }

    #[test]
    fn with_keep_going_the_waiter_waits_for_the_others() {
        let mut graph = graph(true, 3, &[(0, 1), (0, 2)]);
        assert_eq!(graph.end(build(1), Err(Failure::Permanent)), woken(&[]));
        assert_eq!(graph.end(build(2), Ok(())), woken(&[build(0)]));
        assert_eq!(graph.take_failed(build(0)).total, 1);
        assert_eq!(graph.failed(build(0)), FailedDependencies::default());
    }

    #[test]
    fn a_missing_substitute_is_counted_and_nothing_is_given_up() {
        let mut graph = graph(false, 2, &[(0, 1)]);
        let substitution: GoalId = SubstitutionId::numbered(7).into();
        graph.add(substitution);
        graph.wait_for(build(0), substitution);
        assert_eq!(
            graph.end(substitution, Err(Failure::NoSubstitute)),
            woken(&[])
        );
        let failed = graph.failed(build(0));
        assert_eq!((failed.total, failed.no_substitute), (1, 1));
        assert!(graph.is_waiting(build(0)));
    }

    #[test]
    fn a_failure_of_the_clients_own_goal_drops_everything() {
        let mut graph = graph(false, 3, &[(1, 2)]);
        graph.set_top(build(1));
        let end = graph.end(build(0), Err(Failure::Permanent)).expect("goal");
        assert_eq!(end.dropped.len(), 2);
        assert!(!graph.has_tops());
    }

    #[test]
    fn a_long_chain_is_dropped_without_recursion() {
        let count = 100_000;
        let chain: Vec<(usize, usize)> = (1..count).map(|n| (n - 1, n)).collect();
        let mut graph = graph(false, count + 1, &chain);
        graph.wait_for(build(0), build(count));
        let end = graph.end(build(count), Err(Failure::Misc)).expect("goal");
        assert_eq!(end.dropped.len(), count - 1);
    }
}
