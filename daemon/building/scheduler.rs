//! The scheduler of builds, which all sessions share.

use std::sync::Arc;

use authority::Keys;
use formats::store_path::StorePath;
use protocol::operations::BuildMode;
use store::Store;

use super::engine::Engine;
use super::request::{BuildRequest, ClientIdentity};
use super::status::status;
use super::worker::Worker;
use crate::client_limits::ClientLimits;
use crate::request_error::RequestError;
use crate::settings::Settings;
use crate::substituter::Substituter;

/// Builds and substitutes for all sessions; clones share it.
#[derive(Clone)]
pub struct Scheduler(Arc<Engine>);

impl Scheduler {
    /// A scheduler of builds in `store`, within `limits`.
    pub fn new(
        store: Store,
        settings: Arc<Settings>,
        keys: Arc<Keys>,
        limits: &ClientLimits,
    ) -> Self {
        let engine = Engine::new(store, settings, keys, limits);
        engine.durations.refresh();
        Scheduler(Arc::new(engine))
    }

    /// Waits until everything is in the history.
    pub fn finish_history(&self) {
        if let Some(history) = &self.0.history {
            history.finish();
        }
    }

    /// Finds and fetches substitutes.
    pub fn substituter(&self) -> &Substituter {
        &self.0.substituter
    }

    /// Builds or substitutes the targets of a request. Returns when all are valid, or when the
    /// request has failed or was cancelled.
    pub fn build(&self, request: BuildRequest) -> Result<(), RequestError> {
        self.0.durations.refresh();
        Worker::new(&self.0, &request).build()
    }

    /// Makes `path` valid, by substitution if necessary (`EnsurePath`). In mode
    /// [`BuildMode::Repair`], restores the registered contents, if necessary by rebuilding the
    /// item. The request's targets are ignored.
    pub fn ensure_path(&self, path: &StorePath, request: BuildRequest) -> Result<(), RequestError> {
        let repair = request.mode == BuildMode::Repair;
        if !repair && self.0.store.is_valid(path)? {
            return Ok(());
        }
        let request = BuildRequest {
            targets: vec![path.clone().into()],
            ..request
        };
        Worker::new(&self.0, &request).ensure(path, repair)
    }

    /// What is being built and what waits, for everybody, as JSON for this client.
    pub fn status(&self, client: &ClientIdentity) -> Arc<String> {
        status(&self.0, client)
    }
}
