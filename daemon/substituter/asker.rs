//! Who asks for substitutes, and what is kept between his questions.

use std::sync::Arc;

use substitutes::Told;

use super::agent::Agent;
use crate::settings::SessionSettings;
use crate::shared_limit::ClientKey;

/// Who asks.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// The client's settings.
    pub settings: &'a SessionSettings,
    /// Whether the client may name directories of this machine as servers.
    pub trusted: bool,
    /// Whose share of the network the questions take.
    pub client: ClientKey,
}

/// What is kept from one question of an asker to the next, as long as its settings are the same.
#[derive(Default)]
pub struct Questions {
    pub(super) agent: Option<Agent>,
    /// What the asker has been told in this session.
    pub(super) told: Arc<Told>,
}

impl Questions {
    /// Of an asker that has been told this already.
    pub fn after(told: Arc<Told>) -> Questions {
        Questions { agent: None, told }
    }

    /// What the asker has been told.
    pub fn told(&self) -> Arc<Told> {
        self.told.clone()
    }
}
