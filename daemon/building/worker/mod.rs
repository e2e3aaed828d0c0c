//! One request, from its targets to the last of its goals: the event loop of the session's thread.
//!
//! The loop runs the steps of goals that are awake, then waits for an event. All state of the
//! request belongs to this one thread, so nothing here needs a lock, and the client sees everything
//! in order. The documentation of [`super`] describes how goals, attempts and events interact.

mod fetching;
mod joining;
mod telling;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use formats::derivation::Derivation;
use formats::store_path::StorePath;
use protocol::frames::status;
use protocol::operations::BuildMode;
use store::TempRoots;

use super::attempt::{Attempt, AttemptKey};
use super::attempt_thread::join_or_start;
use super::blocked::{Blocked, Blocker, Obstacle};
use super::engine::Engine;
use super::event_queue::{Event, EventQueue};
use super::fetch::IdleAgents;
use super::goal::{BuildId, BuildState, GoalId, GoalResult};
use super::hook::HookPool;
use super::job::Job;
use super::joined::{Joined, Watched};
use super::outcome::{Failure, Outcome};
use super::planner::{Advance, Planner};
use super::postponement::{Postponement, Requirements};
use super::queues::Queue;
use super::request::BuildRequest;
use super::requests::Registration;
use super::slots::{Slot, Slots};
use super::try_build::try_build;
use super::turns::{Postponed, Turn};
use super::{build_steps, substitution_steps};
use crate::client_limits::ClientLimits;
use crate::request_error::RequestError;
use crate::shared_limit::Share;

/// After this many failures of hooks while they build a derivation, it is built without hooks.
const HOOK_FAILURE_LIMIT: u32 = 3;
/// The number of attempts that one request shares at a time: each has a thread.
const ATTEMPT_LIMIT: usize = 1024;

/// A request in progress.
pub(super) struct Worker<'a> {
    planner: Planner<'a>,
    /// The goals that wait for something other than goals.
    blocked: Blocked,
    postponement: Postponement,
    events: Arc<EventQueue>,
    slots: Arc<Slots>,
    /// Those of items that are fetched.
    fetch_slots: Arc<Slots>,
    hooks: Option<Arc<HookPool>>,
    fetch_agents: Arc<IdleAgents>,
    /// Protect items that were received before their turn, as long as a request may register them.
    prefetch_roots: Arc<TempRoots>,
    /// What the hook has postponed.
    postponed: Arc<Postponed>,
    /// The request's turn to ask the hook, for the next build that is begun.
    turn: Option<Turn>,
    failures: Failures,
    /// How many goals were attempted and have succeeded.
    done: u64,
    joined: Joined,
    /// What the client knows that it waits for.
    explained: BTreeSet<Obstacle>,
    /// As long as it lives, others can ask what the request does.
    _registration: Registration<'a>,
}

/// The failures that determine the message and the status of the request.
#[derive(Default)]
struct Failures {
    timed_out: bool,
    permanent: bool,
    /// The failed goals that the client requested.
    tops: BTreeSet<StorePath>,
    /// Whether a goal requested by the client did not succeed, even if only for lack of a
    /// substitute.
    any_top: bool,
    /// How many goals have failed, not counting those for lack of a substitute.
    count: u64,
}

impl Failures {
    fn error(&self, message: String) -> RequestError {
        let status = match (self.timed_out, self.permanent) {
            (true, _) => status::TIMED_OUT,
            (_, true) => status::BUILD_FAILED,
            _ => status::FAILURE,
        };
        RequestError { message, status }
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        // Nobody waits for its turns any more.
        self.postponed.clear();
        // Whoever has asked finds nothing left in the store: of attempts that it leaves, of what they
        // have received meanwhile, and of agents.
        drop(std::mem::take(&mut self.blocked));
        while self.events.poll().is_some() {}
        self.fetch_agents.end_all();
        if let Some(hooks) = &self.hooks {
            hooks.close();
        }
    }
}

impl<'a> Worker<'a> {
    /// A worker without goals.
    pub(super) fn new(engine: &'a Arc<Engine>, request: &'a BuildRequest) -> Worker<'a> {
        let events = Arc::new(EventQueue::default());
        let postponed: Arc<Postponed> = Arc::default();
        let client = request.client.client();
        engine.attempts.register(&events, client, &postponed);
        let session = &request.settings;
        let interval = Duration::from_secs(u64::from(session.poll_interval.max(1)));
        let client = request.client;
        let registration = engine.requests.register(client, &request.targets, &events);
        Worker {
            _registration: registration,
            planner: Planner::new(engine, request),
            blocked: Blocked::default(),
            postponement: Postponement::new(interval, Instant::now()),
            slots: Slots::new(session.max_build_jobs, events.clone()),
            fetch_slots: Slots::new(engine.settings.max_substitutions, events.clone()),
            events,
            hooks: HookPool::for_session(engine, session).map(Arc::new),
            fetch_agents: Arc::default(),
            prefetch_roots: Arc::new(engine.store.temp_roots()),
            postponed,
            turn: None,
            failures: Failures::default(),
            done: 0,
            joined: Joined::default(),
            explained: BTreeSet::new(),
        }
    }

    /// Builds or substitutes all targets.
    pub(super) fn build(mut self) -> Result<(), RequestError> {
        let request = self.planner.request;
        self.planner.count_goals(request.targets.len())?;
        let goals = &mut self.planner.goals;
        for target in &request.targets {
            let id: GoalId = if target.path.is_derivation() {
                let wanted = (!target.outputs.is_empty()).then(|| target.outputs.clone());
                goals.add_build(&target.path, wanted, request.mode).into()
            } else {
                let repair = request.mode == BuildMode::Repair;
                goals.add_substitution(&target.path, repair).into()
            };
            goals.set_top(id);
        }
        self.run()?;
        let failed = &self.failures.tops;
        if failed.is_empty() {
            return Ok(());
        }
        let quoted: Vec<String> = failed.iter().map(|path| format!("`{path}'")).collect();
        let text = format!("build of {} failed", quoted.join(", "));
        Err(self.failures.error(text))
    }

    /// Makes one item valid, by substitution or, if `repair`, by rebuilding it as a last resort.
    pub(super) fn ensure(mut self, path: &StorePath, repair: bool) -> Result<(), RequestError> {
        let id = self.planner.goals.add_substitution(path, repair);
        self.planner.goals.set_top(id);
        self.run()?;
        if !self.failures.any_top {
            return Ok(());
        }
        if !repair {
            let text = format!("path `{path}' does not exist and cannot be created");
            return Err(self.failures.error(text));
        }
        let store = self.planner.store();
        match store.query_deriver(path)? {
            Some(deriver) if store.is_valid(&deriver)? => {
                let goals = &mut self.planner.goals;
                let id = goals.add_build(&deriver, None, BuildMode::Repair);
                goals.set_top(id);
                self.run()
            }
            _ => Err(self.failures.error(format!("cannot repair path `{path}'"))),
        }
    }

    /// The event loop.
    fn run(&mut self) -> Result<(), RequestError> {
        let (events, cancel) = (self.events.clone(), &self.planner.request.cancel);
        let _guard = cancel.on_cancel(move || events.push(Event::Cancelled));
        loop {
            while let Some(id) = self.planner.goals.next_awake() {
                self.advance(id)?;
                self.leave_dropped();
                // Events are handled between steps, so that the client sees them as they happen.
                while let Some(event) = self.events.poll() {
                    self.handle(event)?;
                }
            }
            // Nothing that is ready needs it.
            self.turn = None;
            if !self.blocked.has_retries() && self.blocked.attempts() == 0 {
                self.postponed.clear();
            }
            if self.planner.goals.are_done() {
                return Ok(());
            }
            self.start_prefetches();
            if self.wake_overlooked() {
                continue;
            }
            self.check_standstill()?;
            let is_postponed = self.blocked.has_retries();
            let retry = is_postponed.then(|| self.postponement.next_try());
            let watch = match self.watch_joined() {
                Watched::Changed => continue,
                Watched::Until(time) => time,
            };
            let deadline = retry.into_iter().chain(watch).min();
            if let Some(event) = self.events.wait(deadline) {
                self.handle(event)?;
            }
            self.leave_dropped();
            self.retry_in_time();
        }
    }

    /// Runs the steps of one goal, as far as possible, and starts its attempt if it is ready.
    fn advance(&mut self, id: GoalId) -> Result<(), RequestError> {
        if let Some(Blocker::Attempt(_)) = self.blocked.get(id) {
            return Ok(());
        }
        if let Some(failure) = self.planner.goals.earlier_failure(id) {
            self.end(id, Err(failure));
            return Ok(());
        }
        match id {
            GoalId::Build(build) => {
                let is_its_turn = self.planner.goals.is_ready(build);
                match build_steps::advance(&mut self.planner, build)? {
                    Advance::Waiting => {}
                    Advance::Ready(derivation) if is_its_turn => {
                        self.start_build(build, derivation)?;
                    }
                    // Something more urgent may be found before.
                    Advance::Ready(_) => self.planner.goals.wake(id),
                    Advance::Ended(result) => self.end(id, result),
                }
            }
            GoalId::Substitution(item) => {
                match substitution_steps::advance(&mut self.planner, item)? {
                    Advance::Waiting => {}
                    Advance::Ready(offer) => self.start_fetch(item, offer),
                    Advance::Ended(result) => self.end(id, result),
                }
            }
        }
        Ok(())
    }

    /// Leaves the attempts of goals without waiters.
    fn leave_dropped(&mut self) {
        for id in self.planner.goals.take_dropped() {
            self.blocked.remove(id);
        }
    }

    /// Ends a goal.
    fn end(&mut self, id: GoalId, result: GoalResult) {
        self.blocked.remove(id);
        if let Err(failure) = result {
            self.failures.timed_out |= failure == Failure::TimedOut;
            self.failures.permanent |= failure.is_permanent();
            self.failures.count += u64::from(!failure.is_lack_of_substitutes());
        }
        let path = self.planner.goals.path(id).cloned();
        let was_top = self.planner.goals.end(id, result);
        if let (true, Err(failure)) = (was_top, result) {
            self.failures.any_top = true;
            if !failure.is_lack_of_substitutes() {
                self.failures.tops.extend(path);
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), RequestError> {
        match event {
            Event::Log(record) => record.send_to(&*self.planner.request.log),
            Event::AttemptEnded { goal, outcome } => self.attempt_ended(goal, outcome)?,
            Event::StoppedAttemptEnded { goal } => {
                if let Some(Blocker::StoppedAttempt) = self.blocked.get(goal) {
                    self.unblock(goal);
                }
            }
            Event::SlotFreed => self.wake_for_slots(),
            // There may be capacity for a build that was postponed.
            Event::BuildEnded(turn) => {
                self.turn = turn.or(self.turn.take());
                self.postponement.build_ended();
                if let Some(id) = self.planner.goals.next_of(Queue::Retry) {
                    self.unblock(id);
                }
            }
            Event::StatusAsked(question) => {
                let told = self.status(question.room);
                question.answer(told);
            }
            Event::Cancelled => return Err(RequestError::new("interrupted by the user")),
        }
        Ok(())
    }

    /// Blocks a goal.
    fn block(&mut self, id: GoalId, blocker: Blocker) {
        let queue = match (&blocker, id) {
            (Blocker::Slot, GoalId::Build(_)) => Some(Queue::BuildSlot),
            (Blocker::Slot, GoalId::Substitution(_)) => Some(Queue::FetchSlot),
            (Blocker::Retry(_), _) => Some(Queue::Retry),
            _ => None,
        };
        if let Some(queue) = queue {
            self.planner.goals.enqueue(id, queue);
        }
        self.blocked.insert(id, blocker);
    }

    /// Makes a blocked goal try again.
    fn unblock(&mut self, id: GoalId) {
        self.blocked.remove(id);
        self.planner.goals.wake(id);
    }

    fn attempt_ended(&mut self, id: GoalId, outcome: Outcome) -> Result<(), RequestError> {
        let was_at_limit = self.blocked.attempts() >= ATTEMPT_LIMIT;
        match self.blocked.get(id) {
            Some(Blocker::Attempt(_)) => self.settle(id, outcome)?,
            Some(Blocker::Prefetch(_)) => self.prefetch_ended(id, outcome),
            _ => return Ok(()),
        }
        if was_at_limit {
            self.wake_for_slots();
        }
        Ok(())
    }

    /// The attempt that the goal was for has ended.
    fn settle(&mut self, id: GoalId, outcome: Outcome) -> Result<(), RequestError> {
        self.blocked.remove(id);
        match outcome {
            Outcome::Done | Outcome::Received(_) => {
                self.done += 1;
                self.end(id, Ok(()));
            }
            Outcome::Failed(failure) => self.end(id, Err(failure)),
            Outcome::Locked => self.postpone(id, Obstacle::Lock),
            Outcome::Postponed(reason) => {
                if let Some(requirements) = self.requirements(id) {
                    self.postponed.insert(requirements.clone());
                    self.postponement.postponed_by_hook(requirements, reason);
                }
                self.postpone(id, Obstacle::Machine);
            }
            // What was received has gone to an attempt that has failed.
            Outcome::NeedsSlot if matches!(id, GoalId::Substitution(_)) => {
                self.planner.goals.wake(id);
            }
            Outcome::NeedsSlot => {
                self.block(id, Blocker::Slot);
                if self.slots.is_free() {
                    self.wake_for_slots();
                }
            }
            Outcome::HookFailed => {
                if let GoalId::Build(build) = id {
                    if let Some(goal) = self.planner.goals.build_mut(build) {
                        goal.hook_failures += 1;
                    }
                }
                self.planner.goals.wake(id);
            }
            Outcome::Error(error) => return Err(error),
        }
        Ok(())
    }

    fn postpone(&mut self, id: GoalId, obstacle: Obstacle) {
        let is_first = !self.blocked.has_retries();
        if self.postponement.begin(is_first, Instant::now()) {
            self.planner.error("waiting for locks or build slots...");
        }
        self.block(id, Blocker::Retry(obstacle));
    }

    /// Tells the client what it still waits for, when that is new.
    fn explain_wait(&mut self) {
        let obstacles = self.blocked.obstacles();
        let is_new = |obstacle: &Obstacle| !self.explained.contains(obstacle);
        for (&obstacle, &id) in obstacles.iter().filter(|(obstacle, _)| is_new(obstacle)) {
            if let Some(path) = self.planner.goals.path(id) {
                let waiting = obstacle.waiting(self.reason_of_hook(id));
                self.planner.error(waiting.about(&format!("`{path}'")));
            }
        }
        self.explained = obstacles.into_keys().collect();
    }

    /// Why the hook has last postponed derivations with the same requirements, if it said so.
    fn reason_of_hook(&self, id: GoalId) -> Option<&str> {
        self.postponement.reason(&self.requirements(id)?)
    }

    /// What a derivation requires of a build machine.
    fn requirements(&self, id: GoalId) -> Option<Requirements> {
        let GoalId::Build(id) = id else {
            return None;
        };
        let BuildState::Read(derivation, _) = &self.planner.goals.build(id)?.state else {
            return None;
        };
        Some(Requirements::of(derivation))
    }

    /// Wakes as many goals as there are free slots.
    fn wake_for_slots(&mut self) {
        self.wake_waiting(|slots| match slots.none_allowed() {
            true => usize::MAX,
            false => slots.free().max(1),
        });
    }

    /// Wakes so many of the goals that wait for slots of each kind. Returns whether there were any.
    fn wake_waiting(&mut self, count: impl Fn(&Slots) -> usize) -> bool {
        let mut woken = false;
        for (queue, count) in [
            (Queue::BuildSlot, count(&self.slots)),
            (Queue::FetchSlot, count(&self.fetch_slots)),
        ] {
            for _ in 0..count {
                let Some(id) = self.planner.goals.next_of(queue) else {
                    break;
                };
                self.unblock(id);
                woken = true;
            }
        }
        woken
    }

    /// Wakes the postponed goals if it is time.
    fn retry_in_time(&mut self) {
        if !self.blocked.has_retries() {
            self.postponement.none_left();
            self.explained.clear();
        } else if self.postponement.try_now(Instant::now()) {
            self.explain_wait();
            while let Some(id) = self.planner.goals.next_of(Queue::Retry) {
                self.unblock(id);
            }
        }
    }

    /// Wakes goals that wait for slots that are free, if nothing else will. Returns whether there were any.
    fn wake_overlooked(&mut self) -> bool {
        !self.blocked.is_hopeful() && self.wake_waiting(|slots| usize::from(slots.is_free()))
    }

    /// Fails if no event will ever come: goals wait for slots that won't become free, or for each
    /// other.
    fn check_standstill(&self) -> Result<(), RequestError> {
        let is_slot_used = self.slots.is_used() || self.fetch_slots.is_used();
        if self.blocked.is_hopeful() || is_slot_used || self.events.has_events() {
            return Ok(());
        }
        let text = match self.blocked.has_for_slot() {
            false => "the goals of this request wait for each other",
            true => {
                "unable to start any build; either increase `--max-jobs' or enable distributed builds"
            }
        };
        Err(RequestError::new(text))
    }

    /// Starts to build a derivation whose inputs are valid, on a new thread.
    fn start_build(
        &mut self,
        build: BuildId,
        derivation: Arc<Derivation>,
    ) -> Result<(), RequestError> {
        let id = GoalId::Build(build);
        let Some(goal) = self.planner.goals.build(build) else {
            return Ok(());
        };
        self.check_outputs(&goal.path, derivation.outputs.len())?;
        let mut job = Job {
            engine: self.planner.engine.clone(),
            session: self.planner.request.settings.clone(),
            client: self.planner.request.client,
            mode: goal.mode,
            path: goal.path.clone(),
            derivation,
            inputs: goal.inputs.clone(),
            checked: self.planner.checked.clone(),
            hooks: None,
            slots: self.slots.clone(),
            rank: self.planner.goals.rank(build),
            postponed: self.postponed.clone(),
        };
        if goal.hook_failures < HOOK_FAILURE_LIMIT && !job.must_be_local() {
            job.hooks = self.hooks.clone().filter(|hooks| hooks.is_usable());
        }
        let requirements = Requirements::of(&job.derivation);
        if job.hooks.is_some() && self.postponement.would_be_postponed(&requirements) {
            self.postpone(id, Obstacle::Machine);
            return Ok(());
        }
        if self.blocked.attempts() >= ATTEMPT_LIMIT {
            self.block(id, Blocker::Slot);
            return Ok(());
        }
        let Some(descriptors) = self.descriptors_of_build(job.derivation.outputs.len()) else {
            self.postpone(id, Obstacle::Descriptors);
            return Ok(());
        };
        // If no hook will be asked, nothing can be tried before a slot is free.
        let mut slot = None;
        if job.hooks.is_none() {
            slot = self.slots.take(job.must_be_local());
            if slot.is_none() {
                self.block(id, Blocker::Slot);
                return Ok(());
            }
        }
        let key = AttemptKey::Build(job.path.clone(), job.mode);
        let turn = self.turn.take();
        self.join_or_start(id, key, move |attempt| {
            let outcome = try_build(&job, attempt, &mut slot, turn);
            drop(descriptors);
            (outcome, slot)
        });
        Ok(())
    }

    /// An error if a derivation has more outputs than this client can have locked at a time.
    fn check_outputs(&self, path: &StorePath, outputs: usize) -> Result<(), RequestError> {
        let most = (self.planner.engine.descriptors).most_for(self.planner.request.client.client());
        let needed = ClientLimits::descriptors_of_build(outputs);
        if needed <= most {
            return Ok(());
        }
        let most = most.saturating_sub(ClientLimits::descriptors_of_build(0));
        Err(RequestError::new(format!(
            "derivation `{path}' has {outputs} outputs, of which this daemon can lock {most} at a time"
        )))
    }

    /// The descriptors for an attempt to build something with so many outputs, if they are free.
    fn descriptors_of_build(&self, outputs: usize) -> Option<Share> {
        let client = self.planner.request.client.client();
        let mut share = self.planner.engine.descriptors.share(client);
        let needed = ClientLimits::descriptors_of_build(outputs);
        share.take(needed).ok().map(|()| share)
    }

    fn join_or_start(
        &mut self,
        id: GoalId,
        key: AttemptKey,
        run: impl FnOnce(&Attempt) -> (Outcome, Option<Slot>) + Send + 'static,
    ) {
        let blocker = match join_or_start(self.planner.engine, key, &self.events, id, run) {
            Some(participation) => Blocker::Attempt(participation),
            None => Blocker::StoppedAttempt,
        };
        self.blocked.insert(id, blocker);
    }
}
