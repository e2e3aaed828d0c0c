//! The goals of a request that could go on, or wait for room to do so, each queue in its order.
//!
//! What the longest remaining path waits for comes first ([`farm::order`]), and then whatever has
//! the first name, so that the order is the same in every run.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use formats::store_path::StorePath;

use super::goal::GoalId;

/// The place of a goal in a queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Priority {
    pub(super) urgency: Urgency,
    /// The weight of the longest path from the goal to one that nobody waits for.
    pub(super) rank: Reverse<u64>,
    pub(super) name: String,
    pub(super) path: StorePath,
    pub(super) id: GoalId,
}

/// What is worked on first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Items that can be fetched.
    Fetch,
    /// Derivations of which it isn't known yet what they wait for.
    Look,
    /// Derivations that can be built.
    Build,
    /// Substitutes are looked for at last, so that one question is asked for all of them.
    Question,
}

/// Where a goal waits. It is in one queue at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// For its next step.
    Awake,
    /// To be built, unless there are steps to take that may find something more urgent.
    Ready,
    /// For one of the request's slots for builds.
    BuildSlot,
    /// For one of those for fetches.
    FetchSlot,
    /// To be tried again.
    Retry,
}

/// All queues.
#[derive(Default)]
pub(super) struct Queues([BTreeSet<Priority>; 5]);

impl Queues {
    /// Adds a goal.
    pub(super) fn insert(&mut self, queue: Queue, priority: Priority) {
        self.0[queue as usize].insert(priority);
    }

    /// The first goal of a queue.
    pub(super) fn first(&self, queue: Queue) -> Option<&Priority> {
        self.0[queue as usize].first()
    }

    /// Takes the first goal out of a queue.
    pub(super) fn pop(&mut self, queue: Queue) -> Option<GoalId> {
        self.0[queue as usize].pop_first().map(|first| first.id)
    }

    /// Takes a goal out of the queue that it is in.
    pub(super) fn remove(&mut self, priority: &Priority) {
        for queue in &mut self.0 {
            if queue.remove(priority) {
                return;
            }
        }
    }

    /// Gives a goal another place in the queue that it is in.
    pub(super) fn replace(&mut self, old: &Priority, new: Priority) {
        if let Some(queue) =
            (self.0.iter_mut()).find_map(|queue| queue.remove(old).then_some(queue))
        {
            queue.insert(new);
        }
    }

    /// Sorts all queues anew; `None` takes a goal out.
    pub(super) fn sort_anew(&mut self, priority: impl Fn(GoalId) -> Option<Priority>) {
        for queue in &mut self.0 {
            let goals = std::mem::take(queue);
            queue.extend(goals.into_iter().filter_map(|one| priority(one.id)));
        }
    }
}
