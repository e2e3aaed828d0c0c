//! Building: from a client's request to registered outputs.
//!
//! One [`Scheduler`] serves the whole daemon. The behaviour is that of
//! `doc/spec/build-environment.md` and `doc/spec/hook-protocol.md`; where it is not Guix's,
//! `doc/src/design.md` says why.
//!
//! | file | |
//! |---|---|
//! | `request`, `mailbox` | what a session asks, and what it is told |
//! | `worker`, `goals`, `realise` | one request: its goals, and their steps |
//! | `shared`, `attempt`, `slots` | one attempt to build one derivation, for all who want it |
//! | `hook` | having it built elsewhere |
//! | `local`, `references_graph`, `sandbox`, `outputs` | building it here |
//! | `substitution` | having an item fetched instead |
//! | `monitor`, `log_file`, `stop`, `files` | what these need |
//! | `outcome`, `trouble` | how attempts end |

mod attempt;
mod files;
mod goals;
mod hook;
mod local;
mod log_file;
mod mailbox;
mod monitor;
mod outcome;
mod outputs;
mod realise;
mod references_graph;
pub mod request;
pub mod sandbox;
mod shared;
mod slots;
mod stop;
mod substitution;
mod trouble;
mod worker;

use std::sync::Arc;

use formats::store_path::StorePath;
use store::Store;

use crate::settings::Settings;
use crate::spawner::Spawner;
pub use request::{BuildError, BuildRequest, ClientIdentity, Level, LogSink, Mode, Target};

/// What all requests share.
struct Engine {
    store: Store,
    settings: Arc<Settings>,
    spawner: Spawner,
    fork_server: sandbox::ForkServer,
    attempts: shared::Attempts,
}

/// The daemon's one scheduler; clones share it.
#[derive(Clone)]
pub struct Scheduler(Arc<Engine>);

impl Scheduler {
    /// A scheduler of builds in `store`.
    pub fn new(store: Store, settings: Arc<Settings>) -> Self {
        let spawner = Spawner::default();
        let starting = spawner.clone();
        Scheduler(Arc::new(Engine {
            store,
            settings,
            spawner,
            fork_server: sandbox::ForkServer::new(move |program| starting.start(program)),
            attempts: shared::Attempts::default(),
        }))
    }

    /// What starts programs that are to die with the daemon.
    pub fn spawner(&self) -> &Spawner {
        &self.0.spawner
    }

    /// Builds or substitutes the targets of a request; returns when all are done, or when the
    /// request has failed or was cancelled.
    pub fn build(&self, request: BuildRequest) -> Result<(), BuildError> {
        worker::Worker::new(&self.0, &request).build()
    }

    /// Makes `path` valid, by substitution if need be (`EnsurePath`); in mode
    /// [`Mode::Repair`] makes it what it was registered as, if need be by building it again. The
    /// request's targets are ignored.
    pub fn ensure_path(&self, path: &StorePath, request: BuildRequest) -> Result<(), BuildError> {
        let repair = request.mode == Mode::Repair;
        if !repair && self.0.store.is_valid(path)? {
            return Ok(());
        }
        worker::Worker::new(&self.0, &request).ensure(path, repair)
    }
}
