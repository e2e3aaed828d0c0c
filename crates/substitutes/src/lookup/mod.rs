//! Looking up items at substitute servers: many at once, and everything that they refer to.
//!
//! For each item, the servers are asked in order until one gives a narinfo that is believed
//! (`doc/spec/substitutes.md`, section 3). No item waits for another: as soon as one is found, the
//! items that it refers to are looked up, and what the first server doesn't have is asked for at
//! the second while the first still answers. A server that is late is overtaken
//! (`contacts`): then an item may be asked for at several servers at once, and the
//! first narinfo that is believed decides. Answers come from the cache where it has them, and go there.
//!
//! ```text
//!        ┌──────── not believed, or late: next server ◀───────┐
//!        ▼                                                    │
//! items to ask for ─▶ cache, directory ─────────▶ answers ─▶ judge ─▶ found ─▶ references
//!                └──▶ network ─▶ asked ─▶ cache ──▶┘                              │
//!        ▲                                                                        │
//!        └────────────────────────────────────────────────────────────────────────┘
//! ```

mod contacts;
mod item;
mod overtaking;
mod search;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use formats::store_path::{StoreDir, StorePath};

use crate::cache::Cache;
use crate::choice::Choice;
use crate::health::UserHealth;
use crate::network::{Network, NetworkError};
use crate::servers::Server;
use crate::told::Told;
use crate::trust::Judge;
use crate::waiter::Stop;

/// What was found: for each item, what is believed of it.
pub type Found = HashMap<StorePath, Arc<Choice>>;

/// Why a lookup ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Waiting ended.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// There is no program that touches the network, or it keeps dying.
    #[error("{0}")]
    Network(NetworkError),
    /// The system has no descriptors left, or so.
    #[error("cannot look for substitutes: {0}")]
    Io(#[from] io::Error),
}

/// Where and how to look things up.
pub struct Lookup<'a> {
    /// The store whose items are looked up.
    pub store: &'a StoreDir,
    /// The servers, in the order in which to ask them.
    pub servers: &'a [Arc<Server>],
    /// What they said before.
    pub cache: &'a Cache,
    /// Which of them were trouble lately.
    pub health: UserHealth<'a>,
    /// What the client has been told of them.
    pub told: &'a Told,
    /// Who is believed.
    pub judge: &'a Judge,
    /// Asks them.
    pub network: &'a Network,
}
