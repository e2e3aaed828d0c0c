//! What is known of an item that can be substituted.

use std::collections::BTreeMap;
use std::sync::Arc;

use formats::store_path::StorePath;
use protocol::operations::Substitutable;
use substitutes::{Choice, Judge, Server};

/// An item that can be substituted.
pub struct Offer {
    /// What clients are told.
    pub info: Substitutable,
    /// Who has found it, and fetches it.
    pub origin: Origin,
}

/// Who has found an item.
pub enum Origin {
    /// The daemon.
    Own(OwnOffer),
    /// Guix's program.
    Guix,
}

/// Items that can be substituted.
pub type Offers = BTreeMap<StorePath, Arc<Offer>>;

impl Offer {
    /// The memory that it takes, in bytes.
    pub fn size_in_memory(&self) -> u64 {
        let references = self.info.references.iter();
        let paths: usize = references.map(|path| path.as_str().len() + 64).sum();
        1024 + 2 * paths as u64
    }
}

/// Whom a question is put to.
pub(super) struct Scope {
    pub(super) servers: Vec<Arc<Server>>,
    pub(super) judge: Judge,
}

/// An item that was found.
pub struct OwnOffer {
    pub(super) choice: Arc<Choice>,
    pub(super) scope: Arc<Scope>,
}

impl OwnOffer {
    /// Where it can be had.
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.scope.servers
    }

    /// Where it is fetched from first.
    pub fn first_server(&self) -> Option<&Arc<Server>> {
        let first = self.choice.sources.first();
        first.map(|narinfo| narinfo.server())
    }

    /// What has to arrive.
    pub fn expected(&self) -> store::ExpectedItem {
        self.choice.expected(&self.scope.judge)
    }
}
