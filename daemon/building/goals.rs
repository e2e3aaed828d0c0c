//! The goals of one request and who waits for whom.
//!
//! A goal is a derivation to build or an item to substitute. Goals wait for others and are woken
//! when these are done; a goal that nobody waits for any more is dropped, with all that only it
//! waited for. Nothing here recurses: a chain of any length is a queue.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use formats::derivation::Derivation;
use formats::store_path::StorePath;
use protocol::operations::Substitutable;

use super::attempt::Inputs;
use super::mailbox::GoalId;
use super::outcome::Failure;
use super::request::Mode;

/// How a goal ended.
pub(super) type GoalResult = Result<(), Failure>;

/// The step that a goal takes when it is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing done yet.
    Start,
    /// The `.drv` is valid, or can't be had.
    HaveDerivation,
    /// Its outputs were substituted, as far as possible.
    OutputsSubstituted,
    /// Its inputs are valid, or can't be had.
    InputsRealised,
    /// What was bad in the closure of its outputs is repaired, or can't be.
    ClosureRepaired,
    /// What an item to substitute refers to is valid, or can't be had.
    ReferencesValid,
    /// Everything is there: to be tried as soon as possible.
    Ready,
}

/// A derivation to build.
pub(super) struct Build {
    /// The outputs that somebody wants; `None` for all.
    pub(super) wanted: Option<BTreeSet<String>>,
    /// More outputs are wanted than when substitutes were looked for.
    pub(super) restart: bool,
    /// Once the inputs are there, try substitutes once more.
    pub(super) retry_substitution: bool,
    /// That has happened.
    pub(super) retried: bool,
    /// What is to be done.
    pub(super) mode: Mode,
    /// The derivation, once read.
    pub(super) derivation: Option<Arc<Derivation>>,
    /// Its inputs, as far as computed.
    pub(super) inputs: Arc<Inputs>,
    /// Hooks that accepted it and then failed.
    pub(super) hook_failures: u32,
}

/// What a goal is about.
pub(super) enum Kind {
    /// Building a derivation.
    Build(Build),
    /// Substituting an item (perhaps one that is damaged), once it was found how.
    Substitute {
        repair: bool,
        found: Option<Arc<Substitutable>>,
    },
}

/// A goal.
pub(super) struct Goal {
    /// The derivation, or the item.
    pub(super) path: StorePath,
    /// What about it.
    pub(super) kind: Kind,
    /// What to do next.
    pub(super) step: Step,
    /// Asked for by the client itself.
    pub(super) top: bool,
    waiters: BTreeSet<GoalId>,
    waits_for: BTreeSet<GoalId>,
    /// How many of those it waited for have failed, for each way of failing that matters.
    pub(super) failed: u32,
    pub(super) no_substitutes: u32,
    pub(super) incomplete: u32,
}

impl Goal {
    fn key(&self) -> (bool, &str, &StorePath) {
        // Substitutions first, then by name, so that the order is the same everywhere.
        (
            matches!(self.kind, Kind::Build(_)),
            self.path.name(),
            &self.path,
        )
    }

    /// Forgets how those it waited for have ended.
    pub(super) fn forget_failures(&mut self) {
        (self.failed, self.no_substitutes, self.incomplete) = (0, 0, 0);
    }
}

/// Orders goals as they are to be worked on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(bool, String, StorePath, pub(super) GoalId);

/// All goals of a request.
pub(super) struct Goals {
    keep_going: bool,
    next: GoalId,
    goals: HashMap<GoalId, Goal>,
    builds: HashMap<StorePath, GoalId>,
    substitutions: HashMap<StorePath, GoalId>,
    /// What has failed is not tried again in the same request.
    failures: HashMap<(StorePath, bool), Failure>,
    awake: BTreeSet<Turn>,
    /// Goals dropped since [`Goals::take_dropped`].
    dropped: Vec<GoalId>,
    tops: usize,
}

impl Goals {
    /// No goals yet.
    pub(super) fn new(keep_going: bool) -> Goals {
        Goals {
            keep_going,
            next: 0,
            goals: HashMap::new(),
            builds: HashMap::new(),
            substitutions: HashMap::new(),
            failures: HashMap::new(),
            awake: BTreeSet::new(),
            dropped: Vec::new(),
            tops: 0,
        }
    }

    /// A goal, unless it has been dropped or is done.
    pub(super) fn get(&self, id: GoalId) -> Option<&Goal> {
        self.goals.get(&id)
    }

    /// The same, to be changed.
    pub(super) fn get_mut(&mut self, id: GoalId) -> Option<&mut Goal> {
        self.goals.get_mut(&id)
    }

    /// Whether what the client asked for is all done, or given up.
    pub(super) fn are_done(&self) -> bool {
        self.tops == 0
    }

    /// The goal's place in the order of work.
    pub(super) fn turn(&self, id: GoalId) -> Option<Turn> {
        let (build, name, path) = self.goals.get(&id)?.key();
        Some(Turn(build, name.to_owned(), path.clone(), id))
    }

    /// Has a goal worked on.
    pub(super) fn wake(&mut self, id: GoalId) {
        if let Some(turn) = self.turn(id) {
            self.awake.insert(turn);
        }
    }

    /// The next goal to work on.
    pub(super) fn next_awake(&mut self) -> Option<GoalId> {
        self.awake.pop_first().map(|turn| turn.3)
    }

    /// The goals that were dropped since the last call: whatever runs for them is to be ended.
    pub(super) fn take_dropped(&mut self) -> Vec<GoalId> {
        std::mem::take(&mut self.dropped)
    }

    /// The goal of building (the wanted outputs of) a derivation; made if there is none.
    pub(super) fn build(
        &mut self,
        path: &StorePath,
        wanted: Option<BTreeSet<String>>,
        mode: Mode,
    ) -> GoalId {
        if let Some(&id) = self.builds.get(path) {
            if let Some(Goal {
                kind: Kind::Build(build),
                ..
            }) = self.goals.get_mut(&id)
            {
                match (&mut build.wanted, wanted) {
                    (None, _) => {}
                    (Some(_), None) => (build.wanted, build.restart) = (None, true),
                    (Some(old), Some(new)) => {
                        let before = old.len();
                        old.extend(new);
                        build.restart |= old.len() > before;
                    }
                }
            }
            return id;
        }
        let build = Build {
            wanted,
            restart: false,
            retry_substitution: false,
            retried: false,
            mode,
            derivation: None,
            inputs: Arc::default(),
            hook_failures: 0,
        };
        let id = self.add(path, Kind::Build(build));
        self.builds.insert(path.clone(), id);
        id
    }

    /// The goal of substituting an item; made if there is none.
    pub(super) fn substitution(&mut self, path: &StorePath, repair: bool) -> GoalId {
        if let Some(&id) = self.substitutions.get(path) {
            return id;
        }
        let id = self.add(
            path,
            Kind::Substitute {
                repair,
                found: None,
            },
        );
        self.substitutions.insert(path.clone(), id);
        id
    }

    fn add(&mut self, path: &StorePath, kind: Kind) -> GoalId {
        let id = self.next;
        self.next += 1;
        let goal = Goal {
            path: path.clone(),
            kind,
            step: Step::Start,
            top: false,
            waiters: BTreeSet::new(),
            waits_for: BTreeSet::new(),
            failed: 0,
            no_substitutes: 0,
            incomplete: 0,
        };
        self.goals.insert(id, goal);
        self.wake(id);
        id
    }

    /// Marks a goal as asked for by the client.
    pub(super) fn set_top(&mut self, id: GoalId) {
        if let Some(goal) = self.goals.get_mut(&id)
            && !goal.top
        {
            goal.top = true;
            self.tops += 1;
        }
    }

    /// What is remembered of an earlier failure of the same kind in this request. That there was
    /// no substitute is not: there may be by now.
    pub(super) fn earlier_failure(&self, id: GoalId) -> Option<Failure> {
        let goal = self.goals.get(&id)?;
        let key = (goal.path.clone(), matches!(goal.kind, Kind::Build(_)));
        self.failures
            .get(&key)
            .copied()
            .filter(|failure| !failure.is_lack_of_substitutes())
    }

    /// Has `waiter` wait for `other`.
    pub(super) fn wait_for(&mut self, waiter: GoalId, other: GoalId) {
        if let Some(goal) = self.goals.get_mut(&other) {
            goal.waiters.insert(waiter);
            if let Some(goal) = self.goals.get_mut(&waiter) {
                goal.waits_for.insert(other);
            }
        }
    }

    /// Whether a goal waits for others.
    pub(super) fn is_waiting(&self, id: GoalId) -> bool {
        self.goals
            .get(&id)
            .is_some_and(|goal| !goal.waits_for.is_empty())
    }

    /// Ends a goal and tells those who wait for it. Returns whether it was one of the client's.
    pub(super) fn finish(&mut self, id: GoalId, result: GoalResult) -> bool {
        let Some(goal) = self.remove(id) else {
            return false;
        };
        if let Err(failure) = result {
            self.failures.insert(
                (goal.path.clone(), matches!(goal.kind, Kind::Build(_))),
                failure,
            );
        }
        let counts_as_failed = matches!(result, Err(failure) if !failure.is_lack_of_substitutes());
        for waiter in goal.waiters {
            self.one_less(waiter, id, result, counts_as_failed);
        }
        if goal.top && counts_as_failed && !self.keep_going {
            let all: Vec<GoalId> = self.goals.keys().copied().collect();
            for id in all {
                if self.remove(id).is_some() {
                    self.dropped.push(id);
                }
            }
        }
        goal.top
    }

    /// `waiter` no longer has to wait for `other`.
    fn one_less(
        &mut self,
        waiter: GoalId,
        other: GoalId,
        result: GoalResult,
        counts_as_failed: bool,
    ) {
        let Some(goal) = self.goals.get_mut(&waiter) else {
            return;
        };
        goal.waits_for.remove(&other);
        if let Err(failure) = result {
            goal.failed += 1;
            match failure {
                Failure::NoSubstitute => goal.no_substitutes += 1,
                Failure::IncompleteClosure => goal.incomplete += 1,
                _ => {}
            }
        }
        let give_up = counts_as_failed && !self.keep_going;
        if goal.waits_for.is_empty() || give_up {
            let rest = std::mem::take(&mut goal.waits_for);
            self.wake(waiter);
            self.stop_waiting(waiter, rest);
        }
    }

    /// Drops, one after the other, all goals that nobody waits for any more.
    fn stop_waiting(&mut self, waiter: GoalId, others: BTreeSet<GoalId>) {
        let mut queue: VecDeque<(GoalId, GoalId)> =
            others.into_iter().map(|other| (waiter, other)).collect();
        while let Some((waiter, other)) = queue.pop_front() {
            let Some(goal) = self.goals.get_mut(&other) else {
                continue;
            };
            goal.waiters.remove(&waiter);
            if !goal.waiters.is_empty() || goal.top {
                continue;
            }
            if let Some(goal) = self.remove(other) {
                self.dropped.push(other);
                queue.extend(goal.waits_for.into_iter().map(|next| (other, next)));
            }
        }
    }

    fn remove(&mut self, id: GoalId) -> Option<Goal> {
        if let Some(turn) = self.turn(id) {
            self.awake.remove(&turn);
        }
        let goal = self.goals.remove(&id)?;
        let map = match goal.kind {
            Kind::Build(_) => &mut self.builds,
            Kind::Substitute { .. } => &mut self.substitutions,
        };
        map.remove(&goal.path);
        self.tops -= usize::from(goal.top);
        Some(goal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use formats::store_path::StoreDir;

    fn path(name: &str) -> StorePath {
        let text = format!("/gnu/store/{}-{name}.drv", "a".repeat(32));
        StoreDir::new("/gnu/store")
            .expect("store")
            .parse(text)
            .expect("path")
    }

    fn awake(goals: &mut Goals) -> Vec<GoalId> {
        std::iter::from_fn(|| goals.next_awake()).collect()
    }

    #[test]
    fn goals_are_made_once_and_wake_those_who_wait() {
        let mut goals = Goals::new(false);
        let top = goals.build(&path("a"), None, Mode::Normal);
        let low = goals.build(&path("b"), Some(["out".to_owned()].into()), Mode::Normal);
        assert_eq!(
            low,
            goals.build(&path("b"), Some(["lib".to_owned()].into()), Mode::Normal)
        );
        let Some(Goal {
            kind: Kind::Build(build),
            ..
        }) = goals.get(low)
        else {
            panic!("no build")
        };
        assert!(build.restart);
        assert_eq!(build.wanted.as_ref().map(BTreeSet::len), Some(2));
        goals.set_top(top);
        goals.wait_for(top, low);
        assert_eq!(awake(&mut goals), [top, low]);
        assert!(!goals.finish(low, Ok(())));
        assert_eq!(awake(&mut goals), [top]);
        assert!(goals.finish(top, Ok(())) && goals.are_done());
    }

    #[test]
    fn a_failure_drops_what_nobody_else_needs() {
        let mut goals = Goals::new(false);
        let [top, bad, other, below] =
            ["top", "bad", "other", "below"].map(|n| goals.build(&path(n), None, Mode::Normal));
        goals.set_top(top);
        goals.wait_for(top, bad);
        goals.wait_for(top, other);
        goals.wait_for(other, below);
        awake(&mut goals);
        goals.finish(bad, Err(Failure::Permanent));
        assert_eq!(goals.take_dropped(), [other, below]);
        assert_eq!(awake(&mut goals), [top]);
        assert_eq!(goals.get(top).map(|goal| goal.failed), Some(1));
        let again = goals.build(&path("bad"), None, Mode::Normal);
        assert_eq!(goals.earlier_failure(again), Some(Failure::Permanent));
    }

    #[test]
    fn keep_going_keeps_going() {
        let mut goals = Goals::new(true);
        let [top, bad, other] =
            ["top", "bad", "other"].map(|n| goals.build(&path(n), None, Mode::Normal));
        goals.set_top(top);
        goals.wait_for(top, bad);
        goals.wait_for(top, other);
        awake(&mut goals);
        goals.finish(bad, Err(Failure::Permanent));
        assert!(goals.take_dropped().is_empty() && awake(&mut goals).is_empty());
        goals.finish(other, Ok(()));
        assert_eq!(awake(&mut goals), [top]);
    }

    #[test]
    fn a_long_chain_is_no_problem() {
        let mut goals = Goals::new(false);
        let chain: Vec<GoalId> = (0..100_000)
            .map(|n| goals.build(&path(&format!("n{n}")), None, Mode::Normal))
            .collect();
        goals.set_top(chain[0]);
        for pair in chain.windows(2) {
            goals.wait_for(pair[0], pair[1]);
        }
        let bad = goals.build(&path("bad"), None, Mode::Normal);
        goals.wait_for(chain[0], bad);
        goals.finish(bad, Err(Failure::Misc));
        assert_eq!(goals.take_dropped().len(), chain.len() - 1);
    }
}
