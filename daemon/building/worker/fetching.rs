//! Items that are fetched: those whose turn has come, and others before.
//!
//! An item is registered when its references are valid, but it can be received at any time. So as long
//! as nothing else needs the slots, items are received that still wait for their references: without
//! that, a chain would cost a round trip, and the time to decompress an item, for each of its levels.
//! How many of them wait at a time is limited (`prefetched`). They hold up nothing that is ready: what
//! waits has neither slot nor descriptors, and what is being received ends by itself.

use std::sync::Arc;

use store::TempRoots;

use super::super::attempt::AttemptKey;
use super::super::attempt_thread::join_or_start;
use super::super::blocked::{Blocker, Obstacle};
use super::super::fetch::Fetch;
use super::super::goal::{GoalId, Prefetch, SubstitutionGoal, SubstitutionId, SubstitutionState};
use super::super::outcome::{Failure, Outcome};
use super::super::prefetched::{Prefetched, Room};
use super::{ATTEMPT_LIMIT, Worker};
use crate::substituter::{Offer, Origin};

/// What another request does for an item.
enum Others {
    /// It is receiving the item; the goal waits for that, too.
    Joined,
    /// It has received the item.
    Received(Arc<Prefetched>),
}

/// What was received, if it is still there and what was offered: another request may have been offered
/// something else.
fn usable(prefetched: Arc<Prefetched>, offer: &Offer) -> Option<Arc<Prefetched>> {
    match &offer.origin {
        Origin::Own(offer) => prefetched.is(&offer.expected()).then_some(prefetched),
        Origin::Guix => None,
    }
}

impl Worker<'_> {
    /// Starts to fetch an item whose references are valid, on a new thread; or to register it, if it
    /// has been received.
    pub(super) fn start_fetch(&mut self, item: SubstitutionId, offer: Arc<Offer>) {
        let id = GoalId::Substitution(item);
        if let Some(Blocker::Prefetch(_)) = self.blocked.get(id) {
            return; // it is woken when it has been received
        }
        let Some(goal) = self.planner.goals.substitution(item) else {
            return;
        };
        let mut fetch = self.fetch(goal, &offer, &self.planner.request.temp_roots);
        match goal.prefetch.clone() {
            Prefetch::Received(prefetched) => fetch.prefetched = usable(prefetched, &offer),
            Prefetch::Untried if !goal.repair => match self.others_prefetch(item) {
                Some(Others::Joined) => return,
                Some(Others::Received(prefetched)) => {
                    fetch.prefetched = usable(prefetched, &offer);
                }
                None => {}
            },
            Prefetch::Failed(failure) => {
                self.end(id, Err(failure));
                return;
            }
            Prefetch::Untried | Prefetch::Postponed => {}
        }
        let Some(descriptors) = self.descriptors_of_build(1) else {
            self.postpone(id, Obstacle::Descriptors);
            return;
        };
        let needs_slot = fetch.prefetched.is_none();
        let at_limit = self.blocked.attempts() >= ATTEMPT_LIMIT;
        let slot = (needs_slot && !at_limit).then(|| self.fetch_slots.take(true));
        let slot = slot.flatten();
        if at_limit || needs_slot && slot.is_none() {
            self.block(id, Blocker::Slot);
            return;
        }
        let key = AttemptKey::Substitution {
            path: fetch.path.clone(),
            repair: fetch.repair,
        };
        self.join_or_start(id, key, move |attempt| {
            let outcome = fetch.run(attempt);
            drop(descriptors);
            (outcome, slot)
        });
        self.note_joined(item);
    }

    fn fetch(
        &self,
        goal: &SubstitutionGoal,
        offer: &Arc<Offer>,
        temp_roots: &Arc<TempRoots>,
    ) -> Fetch {
        Fetch {
            engine: self.planner.engine.clone(),
            client: self.planner.request.client.client(),
            session: self.planner.request.settings.clone(),
            told: self.planner.request.told.clone(),
            temp_roots: temp_roots.clone(),
            agents: self.fetch_agents.clone(),
            path: goal.path.clone(),
            repair: goal.repair,
            offer: offer.clone(),
            prefetched: None,
            checked: self.planner.checked.clone(),
        }
    }

    /// Starts to receive items that still wait for their references, if slots are free.
    pub(super) fn start_prefetches(&mut self) {
        while self.fetch_slots.is_free() && self.blocked.attempts() < ATTEMPT_LIMIT {
            let Some(item) = self.planner.goals.next_prefetch() else {
                return;
            };
            if !self.prefetch(item) {
                self.planner.goals.allow_prefetch(item);
                return;
            }
        }
    }

    /// Starts to receive an item, on a new thread, if that makes sense. `false` if there is no room for
    /// it now.
    fn prefetch(&mut self, item: SubstitutionId) -> bool {
        let (engine, goals) = (self.planner.engine, &self.planner.goals);
        let Some(goal) = goals.substitution(item) else {
            return true;
        };
        let SubstitutionState::Found(offer) = &goal.state else {
            return true;
        };
        // If a reference could not be had, this can't either.
        let makes_sense = matches!(goal.prefetch, Prefetch::Untried)
            && self.blocked.get(item.into()).is_none()
            && goals.is_waiting(item)
            && goals.failed(item).total == 0;
        if !makes_sense {
            return true;
        }
        let nar_size = offer.info.nar_size;
        let fetch = self.fetch(goal, offer, &self.prefetch_roots);
        match self.others_prefetch(item) {
            Some(Others::Joined) => return true,
            Some(Others::Received(prefetched)) => {
                self.set_prefetch(item, Prefetch::Received(prefetched));
                return true;
            }
            None => {}
        }
        let client = self.planner.request.client.client();
        let share = match engine.prefetched.room(client, nar_size) {
            Room::Taken(share) => share,
            Room::Full => return false,
            Room::TooLarge => return true,
        };
        // As many descriptors again are left for what is ready.
        let [Some(descriptors), Some(_reserve)] = [(); 2].map(|()| self.descriptors_of_build(1))
        else {
            return false;
        };
        let Some(slot) = self.fetch_slots.take(false) else {
            return false;
        };
        let key = AttemptKey::Prefetch(fetch.path.clone());
        let run = move |attempt: &_| {
            let outcome = fetch.prefetch(attempt, share);
            drop(descriptors);
            (outcome, Some(slot))
        };
        match join_or_start(engine, key, &self.events, item.into(), run) {
            Some(participation) => {
                let blocker = Blocker::Prefetch(participation);
                self.blocked.insert(item.into(), blocker);
                self.note_joined(item);
            }
            None => self.set_prefetch(item, Prefetch::Postponed),
        }
        true
    }

    /// Waits with another request that is receiving an item, or takes what another has received.
    fn others_prefetch(&mut self, item: SubstitutionId) -> Option<Others> {
        let path = &self.planner.goals.substitution(item)?.path;
        let key = AttemptKey::Prefetch(path.clone());
        let engine = self.planner.engine;
        let joined = (engine.attempts).join_existing(&key, &self.events, item.into());
        let Some(participation) = joined else {
            return engine.prefetched.find(path).map(Others::Received);
        };
        let blocker = Blocker::Prefetch(participation);
        self.blocked.insert(item.into(), blocker);
        self.note_joined(item);
        Some(Others::Joined)
    }

    /// An attempt to receive an item has ended. If it has failed, nothing follows from that yet: perhaps a
    /// reference can't be had, and that is the reason to be told; what no server delivers is not asked
    /// for again when its turn comes, anything else is.
    pub(super) fn prefetch_ended(&mut self, id: GoalId, outcome: Outcome) {
        self.blocked.remove(id);
        if let GoalId::Substitution(item) = id {
            let result = match outcome {
                Outcome::Received(received) => Prefetch::Received(received),
                Outcome::Failed(failure @ (Failure::NotDelivered | Failure::TimedOut)) => {
                    Prefetch::Failed(failure)
                }
                _ => Prefetch::Postponed,
            };
            self.set_prefetch(item, result);
        }
        self.planner.goals.wake(id);
    }

    pub(super) fn set_prefetch(&mut self, item: SubstitutionId, prefetch: Prefetch) {
        if let Some(goal) = self.planner.goals.substitution_mut(item) {
            goal.prefetch = prefetch;
        }
    }
}
