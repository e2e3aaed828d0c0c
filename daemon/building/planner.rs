//! The goals of one request, with what their steps need.
//!
//! Steps run on the request's thread and never block for long: they look at the store, ask for
//! substitutes, and add goals to wait for. What takes long is an attempt.

use std::sync::Arc;

use formats::store_path::StorePath;
use store::{Checked, Level, Progress, Store};

use super::engine::Engine;
use super::goal::GoalResult;
use super::goals::Goals;
use super::request::BuildRequest;
use crate::request_error::RequestError;
use crate::substituter::Agent;

/// How far the steps of a goal have come.
pub(super) enum Advance<R> {
    /// The goal waits for others.
    Waiting,
    /// Everything that an attempt needs is there.
    Ready(R),
    /// The goal has ended.
    Ended(GoalResult),
}

/// The goals and their surroundings.
pub(super) struct Planner<'a> {
    pub(super) engine: &'a Arc<Engine>,
    pub(super) request: &'a BuildRequest,
    pub(super) goals: Goals,
    /// What is known of the contents of valid items.
    pub(super) checked: Arc<Checked>,
    /// Answers what can be substituted; started with the first question.
    pub(super) query_agent: Option<Agent>,
    /// Asking has failed: the request does without substitutes.
    pub(super) query_failed: bool,
}

impl<'a> Planner<'a> {
    /// For a request without goals.
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

    /// For operations of the store that take long.
    pub(super) fn progress(&self) -> &'a dyn Progress {
        &*self.request.log
    }

    /// Whether the contents of a valid item are those that were registered.
    pub(super) fn contents_good(&self, path: &StorePath) -> Result<bool, RequestError> {
        let good = self
            .store()
            .path_contents_good(path, &self.checked, self.progress())?;
        Ok(good)
    }

    /// Shows an error to the client, which does not end the request.
    pub(super) fn error(&self, text: impl AsRef<str>) {
        self.request.log.message(Level::Error, text.as_ref());
    }
}
