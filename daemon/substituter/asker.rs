//! Who asks for substitutes, and what is kept between his questions.

use substitutes::Unreachable;

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
    pub(super) unreachable: Unreachable,
    /// Whether the asker knows that nobody is believed, or everybody.
    pub(super) was_warned: bool,
}
