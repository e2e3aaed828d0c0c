//! One request, from its targets to the last of its goals.
//!
//! The session's thread does all of it: it takes goals step by step (`realise.rs`,
//! `substitution.rs`), starts attempts on threads of their own when everything a goal needs is
//! there, and then waits in the [`Mailbox`] for what these have to say, which it hands on to the
//! client. So nothing here needs a lock, and the client hears everything in order.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bstr::BString;
use formats::store_path::StorePath;
use store::{Checked, Level, Progress, Store};

use super::Engine;
use super::attempt::Job;
use super::goals::{GoalResult, Goals, Kind};
use super::hook::Hooks;
use super::mailbox::{Event, GoalId, Mailbox};
use super::outcome::{Failure, Outcome};
use super::request::{BuildError, BuildRequest, Mode};
use super::shared::{Attempt, Joined, Key, Participation};
use super::slots::{Slot, Slots};
use super::substitution::{Fetch, Substituter};

/// Hooks that may fail while they build a derivation before it is built without.
const HOOK_FAILURES: u32 = 3;
/// Attempts that one request has going at a time: each has a thread.
const ATTEMPTS: usize = 1024;
/// How long to wait for an attempt that is being given up by others.
const ENDING: Duration = Duration::from_millis(20);

/// A request at work.
pub(super) struct Worker<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) request: &'a BuildRequest,
    pub(super) goals: Goals,
    pub(super) substituter: Substituter,
    checked: Arc<Checked>,
    mailbox: Arc<Mailbox>,
    slots: Arc<Slots>,
    hooks: Option<Arc<Hooks>>,
    running: HashMap<GoalId, Participation>,
    /// Goals to be tried again when the poll interval has passed, and why all of a kind are
    /// there: a hook that has just put one off would put off its like.
    postponed: BTreeSet<GoalId>,
    put_off: HashSet<(BString, BString)>,
    last_wake: Instant,
    said_waiting: bool,
    /// Goals whose attempt is being stopped for others, who have just given it up.
    ending: Vec<GoalId>,
    /// Goals that wait for one of our slots, or for one of [`ATTEMPTS`].
    need_slot: BTreeSet<GoalId>,
    timed_out: bool,
    permanent: bool,
    /// The client's own goals that failed.
    failed: BTreeSet<StorePath>,
    /// The client's own goals that were not brought about, for whatever reason.
    missing: bool,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if let Some(hooks) = &self.hooks {
            hooks.close();
        }
    }
}

impl<'a> Worker<'a> {
    pub(super) fn new(engine: &'a Arc<Engine>, request: &'a BuildRequest) -> Worker<'a> {
        let mailbox = Arc::new(Mailbox::default());
        engine.attempts.listen(&mailbox);
        let session = &request.settings;
        Worker {
            engine,
            request,
            goals: Goals::new(session.keep_going),
            substituter: Substituter::default(),
            checked: Arc::default(),
            slots: Slots::new(session.max_build_jobs, mailbox.clone()),
            mailbox,
            hooks: Hooks::for_session(engine, session).map(Arc::new),
            running: HashMap::new(),
            postponed: BTreeSet::new(),
            put_off: HashSet::new(),
            last_wake: Instant::now(),
            said_waiting: false,
            ending: Vec::new(),
            need_slot: BTreeSet::new(),
            timed_out: false,
            permanent: false,
            failed: BTreeSet::new(),
            missing: false,
        }
    }

    pub(super) fn store(&self) -> &'a Store {
        &self.engine.store
    }

    /// Whether an item is as it was registered.
    pub(super) fn path_contents_good(&self, path: &StorePath) -> Result<bool, BuildError> {
        let progress = self.progress();
        Ok(self
            .store()
            .path_contents_good(path, &self.checked, &progress)?)
    }

    pub(super) fn say(&self, level: Level, text: impl AsRef<str>) {
        self.request.log.message(level, text.as_ref());
    }

    /// Builds or substitutes everything that was asked for.
    pub(super) fn build(mut self) -> Result<(), BuildError> {
        for target in &self.request.targets {
            let id = if target.path.is_derivation() {
                self.goals
                    .build(&target.path, target.outputs.clone(), self.request.mode)
            } else {
                self.goals
                    .substitution(&target.path, self.request.mode == Mode::Repair)
            };
            self.goals.set_top(id);
        }
        self.run()?;
        if self.failed.is_empty() {
            return Ok(());
        }
        let quoted: Vec<String> = self.failed.iter().map(|path| format!("`{path}'")).collect();
        Err(self.failure(format!("build of {} failed", quoted.join(", "))))
    }

    /// Makes one item valid, by substitution or, if `repair`, by rebuilding it in the end.
    pub(super) fn ensure(mut self, path: &StorePath, repair: bool) -> Result<(), BuildError> {
        let id = self.goals.substitution(path, repair);
        self.goals.set_top(id);
        self.run()?;
        if !self.missing {
            return Ok(());
        }
        if !repair {
            let text = format!("path `{path}' does not exist and cannot be created");
            return Err(self.failure(text));
        }
        match self.store().query_deriver(path)? {
            Some(deriver) if self.store().is_valid(&deriver)? => {
                let id = self.goals.build(&deriver, None, Mode::Repair);
                self.goals.set_top(id);
                self.run()
            }
            _ => Err(self.failure(format!("cannot repair path `{path}'"))),
        }
    }

    fn failure(&self, message: String) -> BuildError {
        let status = match (self.timed_out, self.permanent) {
            (true, _) => 101,
            (_, true) => 100,
            _ => 1,
        };
        BuildError { message, status }
    }

    fn run(&mut self) -> Result<(), BuildError> {
        let mailbox = self.mailbox.clone();
        let _guard = self
            .request
            .cancel
            .on_cancel(move || mailbox.push(Event::Cancelled));
        self.last_wake = Instant::now();
        loop {
            while let Some(id) = self.goals.next_awake() {
                self.step(id)?;
                self.drop_unwanted();
                // What happens meanwhile is shown as it happens.
                while let Some(event) = self.mailbox.poll() {
                    self.take(event)?;
                }
            }
            if self.goals.are_done() {
                return Ok(());
            }
            self.look_for_standstill()?;
            let deadline = self.deadline();
            if let Some(event) = self.mailbox.wait(deadline) {
                self.take(event)?;
            }
            self.drop_unwanted();
            self.wake_in_time();
        }
    }

    /// One step of one goal.
    fn step(&mut self, id: GoalId) -> Result<(), BuildError> {
        if self.running.contains_key(&id) {
            return Ok(());
        }
        if let Some(failure) = self.goals.earlier_failure(id) {
            self.finish(id, Err(failure));
            return Ok(());
        }
        match self.goals.get(id).map(|goal| &goal.kind) {
            Some(Kind::Build(_)) => self.step_of_build(id),
            Some(Kind::Substitute { .. }) => self.step_of_substitution(id),
            None => Ok(()),
        }
    }

    /// Ends what runs for goals that nobody waits for any more.
    fn drop_unwanted(&mut self) {
        for id in self.goals.take_dropped() {
            self.running.remove(&id);
            self.forget(id);
        }
    }

    fn forget(&mut self, id: GoalId) {
        self.postponed.remove(&id);
        self.need_slot.remove(&id);
        self.ending.retain(|other| *other != id);
    }

    pub(super) fn finish(&mut self, id: GoalId, result: GoalResult) {
        self.forget(id);
        if let Err(failure) = result {
            self.timed_out |= failure == Failure::TimedOut;
            self.permanent |= failure.is_permanent();
        }
        let Some(path) = self.goals.get(id).map(|goal| goal.path.clone()) else {
            return;
        };
        let of_client = self.goals.finish(id, result);
        if let (true, Err(failure)) = (of_client, result) {
            self.missing = true;
            // That nobody has a substitute is no failure of a build.
            if !failure.is_lack_of_substitutes() {
                self.failed.insert(path);
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<(), BuildError> {
        match event {
            Event::Said(said) => said.tell(&*self.request.log),
            Event::Finished { goal, outcome } => self.ended(goal, outcome)?,
            Event::SlotFreed => self.wake_for_slots(),
            // Somebody's build has ended: there may be room for one that was put off.
            Event::BuildEnded => {
                self.put_off.clear();
                let turns = self.postponed.iter().filter_map(|id| self.goals.turn(*id));
                if let Some(first) = turns.min() {
                    self.postponed.remove(&first.3);
                    self.goals.wake(first.3);
                }
            }
            Event::Cancelled => return Err(BuildError::general("interrupted by the user")),
        }
        Ok(())
    }

    /// An attempt has ended.
    fn ended(&mut self, id: GoalId, outcome: Outcome) -> Result<(), BuildError> {
        let Some(participation) = self.running.remove(&id) else {
            return Ok(());
        };
        drop(participation);
        match outcome {
            Outcome::Done => self.finish(id, Ok(())),
            Outcome::Failed(failure) => self.finish(id, Err(failure)),
            Outcome::Locked => self.postpone(id),
            Outcome::Postponed => {
                if let Some(kind) = self.kind(id) {
                    self.put_off.insert(kind);
                }
                self.postpone(id);
            }
            Outcome::NeedsSlot => {
                self.need_slot.insert(id);
                if self.slots.is_free() {
                    self.wake_for_slots();
                }
            }
            Outcome::HookFailed => {
                if let Some(Kind::Build(build)) = self.goals.get_mut(id).map(|goal| &mut goal.kind)
                {
                    build.hook_failures += 1;
                }
                self.goals.wake(id);
            }
            Outcome::Error(error) => return Err(error),
        }
        if !self.need_slot.is_empty() && self.running.len() + 1 == ATTEMPTS {
            self.wake_for_slots();
        }
        Ok(())
    }

    fn postpone(&mut self, id: GoalId) {
        if self.postponed.is_empty() && !self.said_waiting {
            self.said_waiting = true;
            self.last_wake = Instant::now();
            self.say(Level::Error, "waiting for locks or build slots...");
        }
        self.postponed.insert(id);
    }

    /// What a hook goes by.
    fn kind(&self, id: GoalId) -> Option<(BString, BString)> {
        let Kind::Build(build) = &self.goals.get(id)?.kind else {
            return None;
        };
        let derivation = build.derivation.as_ref()?;
        let features = derivation
            .variable("requiredSystemFeatures")
            .unwrap_or_default();
        Some((derivation.system.clone(), features.into()))
    }

    fn wake_for_slots(&mut self) {
        let free = if self.slots.none_allowed() {
            usize::MAX
        } else {
            self.slots.free().max(1)
        };
        let mut turns: Vec<_> = self
            .need_slot
            .iter()
            .filter_map(|id| self.goals.turn(*id))
            .collect();
        turns.sort_unstable();
        for turn in turns.into_iter().take(free) {
            self.need_slot.remove(&turn.3);
            self.goals.wake(turn.3);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        if !self.ending.is_empty() {
            return Some(Instant::now() + ENDING);
        }
        (!self.postponed.is_empty()).then(|| self.last_wake + self.interval())
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(u64::from(self.request.settings.poll_interval.max(1)))
    }

    fn wake_in_time(&mut self) {
        for id in std::mem::take(&mut self.ending) {
            self.goals.wake(id);
        }
        if self.postponed.is_empty() {
            self.said_waiting = !self.put_off.is_empty() && self.said_waiting;
        } else if self.last_wake.elapsed() >= self.interval() {
            self.last_wake = Instant::now();
            self.put_off.clear();
            for id in std::mem::take(&mut self.postponed) {
                self.goals.wake(id);
            }
        }
    }

    /// Nothing runs, nothing will happen by itself, and yet there is work: it needs slots that
    /// nobody will ever free.
    fn look_for_standstill(&mut self) -> Result<(), BuildError> {
        let idle = self.running.is_empty() && self.postponed.is_empty() && self.ending.is_empty();
        if !idle || self.mailbox.has_events() {
            return Ok(());
        }
        let text = if self.need_slot.is_empty() {
            "the goals of this request wait for each other"
        } else {
            "unable to start any build; either increase `--max-jobs' or enable distributed builds"
        };
        Err(BuildError::general(text))
    }

    /// Everything is there: has the derivation built, on a thread of its own.
    pub(super) fn try_to_build(&mut self, id: GoalId) -> Result<(), BuildError> {
        let Some(goal) = self.goals.get(id) else {
            return Ok(());
        };
        let Kind::Build(build) = &goal.kind else {
            return Ok(());
        };
        let Some(derivation) = build.derivation.clone() else {
            return Ok(());
        };
        let key = Key::Build(goal.path.clone(), build.mode);
        let mut job = Job {
            engine: self.engine.clone(),
            session: self.request.settings.clone(),
            client: self.request.client,
            mode: build.mode,
            path: goal.path.clone(),
            derivation,
            inputs: build.inputs.clone(),
            checked: self.checked.clone(),
            hooks: None,
            slots: self.slots.clone(),
        };
        let must_be_local = build.mode != Mode::Normal || job.will_build_locally();
        let patient = build.hook_failures < HOOK_FAILURES;
        let hooks = self
            .hooks
            .as_ref()
            .filter(|hooks| patient && !must_be_local && hooks.are_usable());
        job.hooks = hooks.cloned();
        if job.hooks.is_some()
            && self
                .kind(id)
                .is_some_and(|kind| self.put_off.contains(&kind))
        {
            self.postpone(id);
            return Ok(());
        }
        // Where no hook will be asked, nothing needs to be tried before there is a slot.
        let slot = match &job.hooks {
            Some(_) => None,
            None => match self.slots.take(must_be_local) {
                None => {
                    self.need_slot.insert(id);
                    return Ok(());
                }
                slot => slot,
            },
        };
        self.start(id, key, slot, move |attempt, slot| job.run(attempt, slot))
    }

    /// The same for an item that can be fetched.
    pub(super) fn try_to_fetch(&mut self, id: GoalId) -> Result<(), BuildError> {
        let Some(goal) = self.goals.get(id) else {
            return Ok(());
        };
        let Kind::Substitute {
            repair,
            found: Some(found),
        } = &goal.kind
        else {
            return Ok(());
        };
        let (path, repair, found) = (goal.path.clone(), *repair, found.clone());
        let key = Key::Substitute(path.clone(), repair);
        let Some(slot) = self.slots.take(true) else {
            self.need_slot.insert(id);
            return Ok(());
        };
        let fetch = Fetch {
            engine: self.engine.clone(),
            session: self.request.settings.clone(),
            agents: self.substituter.fetchers(),
            path,
            repair,
            found,
            checked: self.checked.clone(),
        };
        self.start(id, key, Some(slot), move |attempt, slot| {
            let outcome = fetch.run(attempt).unwrap_or_else(Outcome::Error);
            drop(slot);
            outcome
        })
    }

    /// Joins the attempt of that key, or runs it if there is none.
    fn start(
        &mut self,
        id: GoalId,
        key: Key,
        slot: Option<Slot>,
        run: impl FnOnce(&Attempt, Option<Slot>) -> Outcome + Send + 'static,
    ) -> Result<(), BuildError> {
        if self.running.len() >= ATTEMPTS {
            self.need_slot.insert(id);
            return Ok(());
        }
        match self.engine.attempts.join(key, &self.mailbox, id)? {
            Joined::Existing(participation) => {
                self.running.insert(id, participation);
            }
            Joined::Ending => self.ending.push(id),
            Joined::New(participation, attempt) => {
                self.running.insert(id, participation);
                let engine = self.engine.clone();
                let thread = std::thread::Builder::new().name("build".to_owned());
                let started = thread.spawn({
                    let attempt = attempt.clone();
                    move || {
                        let run = std::panic::AssertUnwindSafe(|| run(&attempt, slot));
                        let outcome = std::panic::catch_unwind(run).unwrap_or_else(|_| {
                            Outcome::Error(BuildError::general(
                                "internal error: a build's thread panicked",
                            ))
                        });
                        engine.attempts.finish(&attempt, outcome);
                    }
                });
                if let Err(error) = started {
                    let error =
                        BuildError::general(format!("cannot start a thread for a build: {error}"));
                    self.engine.attempts.finish(&attempt, Outcome::Error(error));
                }
            }
        }
        Ok(())
    }

    /// For operations of the store that take long.
    pub(super) fn progress(&self) -> RequestProgress<'a> {
        RequestProgress(self.request)
    }
}

/// Passes the store's words on to the client, and the client's going away to the store.
pub(super) struct RequestProgress<'a>(&'a BuildRequest);

impl Progress for RequestProgress<'_> {
    fn message(&self, level: Level, text: &str) {
        self.0.log.message(level, text);
    }
    fn interrupted(&self) -> bool {
        self.0.cancel.is_cancelled()
    }
}
