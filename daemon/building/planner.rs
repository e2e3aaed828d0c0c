//! The goals of one request, and what their steps need.
//!
//! Steps run on the request's thread and never block for long: they query the store, ask for
//! substitutes, and add goals to wait for. Long operations are done by attempts.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bstr::ByteSlice;
use formats::derivation::{self, Derivation};
use formats::store_path::StorePath;
use store::{Checked, Level, Progress, Store};

use super::engine::Engine;
use super::goal::{BuildId, GoalResult};
use super::goals::Goals;
use super::request::BuildRequest;
use crate::request_error::RequestError;
use crate::shared_limit::{LimitReached, Share};
use crate::substituter::{Offers, Questions};

/// What a goal takes besides its derivation, in bytes.
const GOAL_MEMORY: u64 = 1 << 10;

fn too_large(exceeded: LimitReached) -> RequestError {
    RequestError::new(exceeded.of_request_memory())
}

/// The result of advancing a goal.
pub(super) enum Advance<R> {
    /// The goal waits for others.
    Waiting,
    /// Everything that an attempt needs is available.
    Ready(R),
    /// The goal has ended.
    Ended(GoalResult),
}

/// The goals, and what their steps need.
pub(super) struct Planner<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) request: &'a BuildRequest,
    pub(super) goals: Goals,
    /// The cache of checks of valid items' contents.
    pub(super) checked: Arc<Checked>,
    /// What is kept between questions for substitutes.
    pub(super) questions: Questions,
    /// The substitutes that were found.
    pub(super) offers: Offers,
    /// The items without substitutes whose goals don't know that yet.
    pub(super) unavailable: HashSet<StorePath>,
    /// The memory of the goals.
    memory: Share,
    /// Whether a question has failed: the request continues without substitutes.
    pub(super) query_failed: bool,
}

impl<'a> Planner<'a> {
    /// A planner without goals.
    pub(super) fn new(engine: &'a Arc<Engine>, request: &'a BuildRequest) -> Planner<'a> {
        Planner {
            engine,
            request,
            goals: Goals::new(request.settings.keep_going),
            checked: Arc::default(),
            questions: Questions::after(request.told.clone()),
            offers: Offers::new(),
            unavailable: HashSet::new(),
            memory: engine.request_memory.share(request.client.client()),
            query_failed: false,
        }
    }

    /// The store.
    pub(super) fn store(&self) -> &'a Store {
        &self.engine.store
    }

    /// Counts so many goals as memory of the client.
    pub(super) fn count_goals(&mut self, goals: usize) -> Result<(), RequestError> {
        self.take_memory(GOAL_MEMORY.saturating_mul(goals as u64))
    }

    /// Reads a derivation, which counts as memory of the client as long as the request lasts.
    pub(super) fn read_derivation(
        &mut self,
        path: &StorePath,
    ) -> Result<Arc<Derivation>, RequestError> {
        let text = self.store().derivation_size(path)?;
        let mut parsing = (self.engine.request_memory).share(self.request.client.client());
        let taken = parsing.take(text.saturating_mul(derivation::PARSING_FACTOR));
        taken.map_err(too_large)?;
        let derivation = self.store().read_derivation(path)?;
        drop(parsing);
        self.take_memory(GOAL_MEMORY.saturating_add(derivation.size_in_memory()))?;
        Ok(Arc::new(derivation))
    }

    /// Finds out how long a derivation will take.
    pub(super) fn weigh(&mut self, id: BuildId, path: &StorePath, derivation: &Derivation) {
        let system = derivation.system.to_str_lossy();
        if let Some(estimate) = self.engine.durations.of(path, derivation, &system) {
            let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let usual = milliseconds(estimate.usual).max(1);
            let long = milliseconds(estimate.long).max(usual);
            self.goals.set_weight(id, usual, long);
        }
    }

    pub(super) fn take_memory(&mut self, bytes: u64) -> Result<(), RequestError> {
        self.memory.take(bytes).map_err(too_large)
    }

    /// For long operations of the store.
    pub(super) fn progress(&self) -> &'a dyn Progress {
        self.request.log.progress()
    }

    /// Whether a valid item has its registered contents.
    pub(super) fn contents_good(&self, path: &StorePath) -> Result<bool, RequestError> {
        let good = self
            .store()
            .path_contents_good(path, &self.checked, self.progress())?;
        Ok(good)
    }

    /// Shows an error that does not end the request to the client.
    pub(super) fn error(&self, text: impl AsRef<str>) {
        self.request.log.message(Level::Error, text.as_ref());
    }
}
