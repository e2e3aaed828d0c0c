use std::collections::BTreeMap;
use std::sync::Arc;

use super::ranks::VISITS_PER_STEP;
use super::*;
use crate::building::goal::{BuildState, BuildStep};
use formats::derivation::Derivation;
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

/// Takes the step after which a derivation can be built.
fn ready(goals: &mut Goals, id: BuildId) {
    let derivation = Derivation {
        outputs: BTreeMap::new(),
        inputs: BTreeMap::new(),
        sources: BTreeSet::new(),
        system: "".into(),
        builder: "".into(),
        arguments: Vec::new(),
        environment: BTreeMap::new(),
    };
    let state = BuildState::Read(Arc::new(derivation), BuildStep::Attempt);
    goals.build_mut(id).expect("goal").state = state;
    goals.wake(id.into());
}

#[test]
fn what_the_longest_path_waits_for_is_built_first() {
    let mut goals = Goals::new(false);
    let [mut top, quick, slow, low] = ["top", "a", "b", "z"].map(|name| build(&mut goals, name));
    goals.wait_for(top, quick);
    goals.wait_for(top, slow);
    goals.wait_for(top, low);
    awake(&mut goals);
    for name in ["x1", "x2", "x3", "x4"] {
        let next = build(&mut goals, name);
        goals.wait_for(top, next);
        goals.wait_for(next, slow);
        top = next;
    }
    awake(&mut goals);
    // A longer way up is found after what is below was.
    goals.wait_for(quick, low);
    let mut last = low;
    for name in ["y1", "y2", "y3"] {
        let next = build(&mut goals, name);
        goals.wait_for(last, next);
        last = next;
    }
    goals.wait_for(slow, low);
    awake(&mut goals);
    for id in [quick, slow, last] {
        ready(&mut goals, id);
    }
    let order: [GoalId; 3] = [last.into(), slow.into(), quick.into()];
    assert_eq!(awake(&mut goals), order);
    // Top, four, the slow one, the low one, and three: the last one's rank has followed.
    assert_eq!(goals.rank(last), 10_000);
}

#[test]
fn a_goal_waits_in_one_queue_and_leaves_it_when_it_ends() {
    let mut goals = Goals::new(false);
    let [one, two] = ["one", "two"].map(|name| build(&mut goals, name));
    awake(&mut goals);
    ready(&mut goals, one);
    ready(&mut goals, two);
    goals.enqueue(one.into(), Queue::BuildSlot);
    assert_eq!(goals.next_of(Queue::Ready), Some(two.into()));
    assert_eq!(goals.next_of(Queue::Ready), None);
    goals.enqueue(two.into(), Queue::Retry);
    goals.end(two.into(), Err(Failure::Misc));
    assert_eq!(goals.next_of(Queue::Retry), None);
    assert_eq!(goals.next_of(Queue::BuildSlot), Some(one.into()));
}

#[test]
fn a_build_does_not_wait_until_everything_has_been_looked_at() {
    let mut goals = Goals::new(false);
    let first = build(&mut goals, "0");
    goals.next_awake();
    ready(&mut goals, first);
    for number in 0..1000 {
        build(&mut goals, &format!("{number}"));
    }
    goals.add_substitution(&path("item"), false);
    let before = awake(&mut goals).iter().position(|id| *id == first.into());
    assert_eq!(before, Some(STEPS_BEFORE_BUILD as usize));
    // What can be built doesn't wait for a server's answer.
    let question = goals.add_substitution(&path("other"), false);
    ready(&mut goals, first);
    assert_eq!(awake(&mut goals), [first.into(), question.into()]);
}

#[test]
fn ranks_are_not_computed_anew_for_every_goal() {
    let mut goals = Goals::new(false);
    let top = build(&mut goals, "top");
    // Each goal is found first near the top, and later deeper down: the worst that can be.
    let ids: Vec<_> = (0..2000)
        .map(|number| build(&mut goals, &format!("{number:04}")))
        .collect();
    for id in &ids {
        goals.wait_for(top, *id);
    }
    let (mut computed, mut visits) = (0, 0);
    for pair in ids.windows(2).rev() {
        goals.wait_for(pair[0], pair[1]);
        goals.next_awake();
        let was_due = goals.is_unsettled;
        goals.settle_ranks();
        if was_due && !goals.is_unsettled {
            computed += 1;
            visits += goals.added;
        }
    }
    assert!(visits <= ids.len() * VISITS_PER_STEP, "{computed} times");
    assert!(computed > 1, "never");
    while goals.is_unsettled {
        goals.next_awake();
        goals.settle_ranks();
    }
    let low = ids.last().copied().expect("goals");
    assert_eq!(goals.rank(low), 2_001_000);
}

#[test]
fn what_takes_long_comes_before_a_longer_chain_of_quick_things() {
    let mut goals = Goals::new(false);
    let [quick, slow, above] = ["a", "slow", "above"].map(|name| build(&mut goals, name));
    goals.wait_for(above, quick);
    awake(&mut goals);
    ready(&mut goals, quick);
    ready(&mut goals, slow);
    // A goal that waits for its turn gets another place.
    goals.set_weight(slow, 60_000, 90_000);
    goals.set_weight(above, 10, 20);
    assert_eq!(goals.rank(slow), 60_000);
    assert_eq!(awake(&mut goals), [slow.into(), quick.into()]);
    let (path, time) = goals.longest_path(|_, weighed| weighed.long.unwrap_or(weighed.weight));
    assert_eq!((path, time), (vec![slow.into()], 90_000));
}

#[test]
fn a_build_waits_for_what_follows_from_an_answer_and_not_for_the_next_question() {
    let mut goals = Goals::new(false);
    let quick = build(&mut goals, "quick");
    let [first, second] = ["a", "b"].map(|name| goals.add_substitution(&path(name), false));
    awake(&mut goals);
    ready(&mut goals, quick);
    goals.wake(first.into());
    goals.are_answered();
    goals.wake(second.into());
    let asked = goals.add_substitution(&path("c"), false);
    let order: [GoalId; 4] = [first.into(), second.into(), quick.into(), asked.into()];
    assert_eq!(awake(&mut goals), order);
    goals.wake(quick.into());
    goals.wake(asked.into());
    goals.ask_nobody();
    assert_eq!(awake(&mut goals), [asked.into(), quick.into()]);
}
