//! What a request does, for those who ask ([`farm::status`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use farm::status::{End, GOALS_SHOWN, PATH_SHOWN, Request, Room, Running, Wait, text_size};
use farm::waiting::Waiting;
use formats::store_path::StorePath;

use super::super::blocked::Blocker;
use super::super::goal::{GoalId, Weighed};
use super::super::stage::Stage;
use super::Worker;

/// What a goal does.
enum Doing {
    Running(Stage, Duration),
    Waiting(Waiting),
}

impl Worker<'_> {
    /// What the request does now; as much of it is listed as there is room for.
    pub(super) fn status(&self, mut room: Room) -> Request {
        let goals = &self.planner.goals;
        let mut running: Vec<(GoalId, Stage, Duration)> = Vec::new();
        // Those that wait for something else than their inputs come first, then by rank.
        let mut waiting: Vec<(bool, Reverse<u64>, GoalId)> = Vec::new();
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for id in goals.all() {
            match self.doing(id) {
                Doing::Running(stage, elapsed) => running.push((id, stage, elapsed)),
                Doing::Waiting(why) => {
                    *reasons.entry(why.name()).or_default() += 1;
                    let is_usual = matches!(why, Waiting::Inputs(_));
                    waiting.push((is_usual, Reverse(goals.rank(id)), id));
                }
            }
        }
        let elapsed: HashMap<GoalId, Duration> = (running.iter())
            .map(|(id, _, elapsed)| (*id, *elapsed))
            .collect();
        let (running_count, waiting_count) = (running.len() as u64, waiting.len() as u64);
        running.sort_unstable_by_key(|(id, _, elapsed)| (Reverse(*elapsed), *id));
        running.truncate(GOALS_SHOWN);
        waiting.sort_unstable();
        waiting.truncate(GOALS_SHOWN);
        let left = |id: GoalId, all: u64| match elapsed.get(&id) {
            None => all,
            // What takes longer than usual isn't done yet, either.
            Some(past) => all
                .saturating_sub(u64::try_from(past.as_millis()).unwrap_or(u64::MAX))
                .max(1),
        };
        let (path, shortest) = goals.longest_path(|id, weighed| left(id, weighed.weight));
        let path: Vec<&StorePath> = (path.into_iter())
            .filter(|id| matches!(id, GoalId::Build(_)))
            .filter_map(|id| goals.path(id))
            .collect();
        let shown = path.iter().take(PATH_SHOWN).map(ToString::to_string);
        let critical_path = room.fill(4, shown, |path| text_size(path));
        let builds = (running.into_iter())
            .filter_map(|(id, stage, elapsed)| self.running(id, stage, elapsed));
        let builds = room.fill(2, builds, Running::size);
        let waits = waiting
            .into_iter()
            .filter_map(|(_, _, id)| self.waiting(id));
        let waits = room.fill(1, waits, Wait::size);
        Request {
            done: self.done,
            running: running_count,
            waiting: waiting_count,
            failed: self.failures.count,
            unlisted_path: (path.len() - critical_path.len()) as u64,
            critical_path,
            end: self.expected_end(left, shortest, running_count),
            builds,
            waits,
            reasons: (reasons.into_iter())
                .map(|(reason, count)| (reason.to_owned(), count))
                .collect(),
            ..Request::default()
        }
    }

    fn doing(&self, id: GoalId) -> Doing {
        let waiting = match self.blocked.get(id) {
            Some(Blocker::Attempt(joined) | Blocker::Prefetch(joined)) => {
                let (stage, elapsed) = joined.stage();
                match stage.waiting() {
                    None if joined.is_starter() => return Doing::Running(stage, elapsed),
                    None => Waiting::OtherClient,
                    Some(waiting) => waiting,
                }
            }
            Some(Blocker::StoppedAttempt) => Waiting::Stopping,
            Some(Blocker::Slot) => Waiting::Slot,
            Some(Blocker::Retry(obstacle)) => obstacle.waiting(self.reason_of_hook(id)),
            None => match self.planner.goals.waits(id) {
                0 => Waiting::Turn,
                count => Waiting::Inputs(count as u64),
            },
        };
        Doing::Waiting(waiting)
    }

    fn running(&self, id: GoalId, stage: Stage, elapsed: Duration) -> Option<Running> {
        let Weighed { weight, long, .. } = self.planner.goals.weighed(id)?;
        let seconds = |milliseconds: u64| milliseconds.div_ceil(1000);
        Some(Running {
            path: self.planner.goals.path(id)?.to_string(),
            place: match stage {
                Stage::Fetch => "fetch",
                Stage::ByHook => "hook",
                _ => "here",
            }
            .to_owned(),
            elapsed_s: elapsed.as_secs(),
            usual_s: long.map(|_| seconds(weight)),
            long_s: long.map(seconds),
        })
    }

    fn waiting(&self, id: GoalId) -> Option<Wait> {
        let Doing::Waiting(why) = self.doing(id) else {
            return None; // it has begun a moment ago
        };
        let path = self.planner.goals.path(id)?.to_string();
        let retry = match self.blocked.get(id) {
            Some(Blocker::Retry(_)) => {
                let next = self.postponement.next_try();
                let left = next.saturating_duration_since(std::time::Instant::now());
                Some(left.as_secs())
            }
            _ => None,
        };
        Some(Wait {
            path,
            why: why.name().to_owned(),
            text: why.about("it"),
            retry_s: retry,
        })
    }

    /// When everything will probably be done, if the longest path usually takes `shortest`. Unknown, if of
    /// some derivation it isn't known how long its like takes.
    fn expected_end(
        &self,
        left: impl Fn(GoalId, u64) -> u64,
        shortest: u64,
        running: u64,
    ) -> Option<End> {
        let goals = &self.planner.goals;
        let builds = || goals.all().filter(|id| matches!(id, GoalId::Build(_)));
        let long = |id| goals.weighed(id).and_then(|weighed: Weighed| weighed.long);
        let mut all: u64 = 0;
        for id in builds() {
            all = all.saturating_add(left(id, long(id)?));
        }
        let (_, longest) =
            goals.longest_path(|id, weighed| left(id, weighed.long.unwrap_or(weighed.weight)));
        // No schedule that leaves nothing idle takes longer (Graham 1966).
        let at_a_time = running
            .max(u64::from(self.planner.request.settings.max_build_jobs))
            .max(1);
        let latest = longest.saturating_add(all / at_a_time);
        Some(End {
            earliest_s: shortest.div_ceil(1000),
            latest_s: latest.div_ceil(1000),
        })
    }
}
