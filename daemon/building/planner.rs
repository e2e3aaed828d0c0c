//! The goals of one request, and what their steps need.
//!
//! Steps run on the request's thread and never block for long: they query the store, ask for
//! substitutes, and add goals to wait for. Long operations are done by attempts.

use std::sync::Arc;

use formats::store_path::StorePath;
use store::{Checked, Level, Progress, Store};

use super::engine::Engine;
use super::goal::GoalResult;
use super::goals::Goals;
use super::request::BuildRequest;
use crate::request_error::RequestError;
use crate::substituter::Agent;

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
    /// Answers what can be substituted; started when first needed.
    pub(super) query_agent: Option<Agent>,
    /// Whether it has failed: the request continues without substitutes.
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
            query_agent: None,
            query_failed: false,
        }
    }

    /// The store.
    pub(super) fn store(&self) -> &'a Store {
        &self.engine.store
    }

    /// For long operations of the store.
    pub(super) fn progress(&self) -> &'a dyn Progress {
        &*self.request.log
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
