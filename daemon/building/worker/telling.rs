//! What a request does, for those who ask ([`farm::status`]).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use farm::status::{End, GOALS_SHOWN, PATH_SHOWN, Request, Running, Wait};
use farm::waiting::Waiting;

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
    /// What the request does now.
    pub(super) fn status(&self) -> Request {
        let goals = &self.planner.goals;
        let mut running: Vec<(GoalId, Stage, Duration)> = Vec::new();
        let mut waiting: Vec<(GoalId, Waiting)> = Vec::new();
        let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
        for id in goals.all() {
            match self.doing(id) {
                Doing::Running(stage, elapsed) => running.push((id, stage, elapsed)),
                Doing::Waiting(why) => {
                    *reasons.entry(why.name().to_owned()).or_default() += 1;
                    waiting.push((id, why));
                }
            }
        }
        let elapsed: HashMap<GoalId, Duration> = (running.iter())
            .map(|(id, _, elapsed)| (*id, *elapsed))
            .collect();
        let (running_count, waiting_count) = (running.len() as u64, waiting.len() as u64);
        running.sort_unstable_by_key(|(id, _, elapsed)| (std::cmp::Reverse(*elapsed), *id));
        running.truncate(GOALS_SHOWN);
        // Those that wait for something else than their inputs first, by rank.
        waiting.sort_by_cached_key(|(id, why)| {
            let is_usual = matches!(why, Waiting::Inputs(_));
            (is_usual, std::cmp::Reverse(goals.rank(*id)), *id)
        });
        waiting.truncate(GOALS_SHOWN);
        let left = |id: GoalId, all: u64| match elapsed.get(&id) {
            None => all,
            // What takes longer than usual isn't done yet, either.
            Some(past) => all
                .saturating_sub(u64::try_from(past.as_millis()).unwrap_or(u64::MAX))
                .max(1),
        };
        let (path, shortest) = goals.longest_path(|id, weighed| left(id, weighed.weight));
        let path: Vec<String> = (path.into_iter())
            .filter(|id| matches!(id, GoalId::Build(_)))
            .filter_map(|id| goals.path(id).map(ToString::to_string))
            .collect();
        Request {
            done: self.done,
            running: running_count,
            waiting: waiting_count,
            failed: self.failures.count,
            unlisted_path: path.len().saturating_sub(PATH_SHOWN) as u64,
            critical_path: path.into_iter().take(PATH_SHOWN).collect(),
            end: self.expected_end(left, shortest, running_count),
            builds: (running.into_iter())
                .filter_map(|(id, stage, elapsed)| self.running(id, stage, elapsed))
                .collect(),
            waits: (waiting.into_iter())
                .filter_map(|(id, why)| self.waiting(id, &why))
                .collect(),
            reasons,
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

    fn waiting(&self, id: GoalId, why: &Waiting) -> Option<Wait> {
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
