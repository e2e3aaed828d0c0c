//! Fetches that other requests have started, and that goals of this one wait for.
//!
//! They have the limits and the servers of whoever has started them. So the request's own limits are
//! watched here: a goal that has waited for too long leaves, and the fetch goes on for the others. If
//! such a fetch says nothing or brings next to nothing for a while, or whoever has started it has left,
//! and this request would ask another server, the other one's attempt is ended in favour of its own; the
//! other one waits then. That is done a few times at most, lest two requests end each other's attempts
//! for ever.

use std::time::{Duration, Instant};

use protocol::trace::Trace;
use substitutes::Stop;

use super::super::attempt::Alternative;
use super::super::attempts::Participation;
use super::super::blocked::Blocker;
use super::super::goal::{GoalId, Prefetch, SubstitutionId, SubstitutionState};
use super::super::joined::{Due, Watched, due};
use super::super::log_sink::LogRecord;
use super::super::outcome::Failure;
use super::Worker;
use crate::substituter::Origin;

impl Worker<'_> {
    /// A goal waits for a fetch, which may be another's.
    pub(super) fn note_joined(&mut self, item: SubstitutionId) {
        if self.joined_fetch(item).is_some() {
            self.joined.add(item);
        }
    }

    /// The fetch of another request that a goal waits for.
    fn joined_fetch(&self, item: SubstitutionId) -> Option<&Participation> {
        match self.blocked.get(item.into())? {
            Blocker::Attempt(joined) | Blocker::Prefetch(joined) if !joined.is_starter() => {
                Some(joined)
            }
            _ => None,
        }
    }

    /// Looks after the goals that wait for fetches of others.
    pub(super) fn watch_joined(&mut self) -> Watched {
        let mut next: Option<Duration> = None;
        let mut is_changed = false;
        for (item, may) in self.joined.items() {
            let Some(joined) = self.joined_fetch(item) else {
                continue;
            };
            let own = match may {
                true => self.own_way(item, joined),
                false => Alternative::None,
            };
            match due(joined, &self.planner.request.settings, own) {
                Due::Nothing(after) => next = next.into_iter().chain(after).min(),
                Due::Stop(stop) => {
                    self.stop_waiting(item, stop);
                    is_changed = true;
                }
                Due::TakeOver => {
                    self.take_over(item);
                    is_changed = true;
                }
            }
        }
        match is_changed {
            true => Watched::Changed,
            false => Watched::Until(next.map(|next| Instant::now() + next)),
        }
    }

    /// How the request itself would fetch a goal's item.
    fn own_way(&self, item: SubstitutionId, joined: &Participation) -> Alternative {
        let goal = self.planner.goals.substitution(item);
        match goal.map(|goal| &goal.state) {
            Some(SubstitutionState::Found(offer)) => match &offer.origin {
                Origin::Own(offer) => joined.alternative(offer.first_server(), offer.servers()),
                Origin::Guix => Alternative::None,
            },
            _ => Alternative::None,
        }
    }

    /// A goal has waited for too long.
    fn stop_waiting(&mut self, item: SubstitutionId, stop: Stop) {
        let id = GoalId::from(item);
        let Some(goal) = self.planner.goals.substitution(item) else {
            return;
        };
        let path = goal.path.clone();
        self.planner
            .error(format!("substitution of `{path}' {stop}"));
        let trace = Trace::SubstituterFailed {
            path: path.as_str(),
            reason: "timeout",
        };
        LogRecord::Trace(trace.to_string()).send_to(&*self.planner.request.log);
        let is_prefetch = matches!(self.blocked.get(id), Some(Blocker::Prefetch(_)));
        self.blocked.remove(id);
        match is_prefetch {
            true => {
                self.set_prefetch(item, Prefetch::Failed(Failure::TimedOut));
                self.planner.goals.wake(id);
            }
            false => self.end(id, Err(Failure::TimedOut)),
        }
    }

    /// Has the request's own servers tried instead of those that say nothing.
    fn take_over(&mut self, item: SubstitutionId) {
        let id = GoalId::from(item);
        self.joined.takes_over(item);
        match self.blocked.get(id) {
            // Nothing is in the way of another attempt.
            Some(Blocker::Prefetch(_)) => {
                self.blocked.remove(id);
                self.set_prefetch(item, Prefetch::Postponed);
                self.planner.goals.wake(id);
            }
            // Otherwise, it ends just now.
            Some(Blocker::Attempt(joined)) if joined.end_attempt() => {
                self.blocked.insert(id, Blocker::StoppedAttempt);
            }
            _ => {}
        }
    }
}
