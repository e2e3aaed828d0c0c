//! Substitutes: store items that were built elsewhere, found and fetched.
//!
//! One [`Substituter`] serves the daemon. It has two forms (`--fetcher`):
//!
//! * ours: the daemon itself looks items up, decides whom to believe, and receives their contents
//!   (crate `substitutes`), from one process of `guix-fetch` that all clients share (`own`);
//! * Guix's: processes of `guix substitute`, each an [`Agent`], which is believed. A session's agent
//!   answers queries, a build's fetches items. Documented in Guix's `guix/scripts/substitute.scm`.
//!
//! Without the program, or while the client wants none, there are no substitutes.

mod agent;
mod asker;
mod conversation;
mod error;
mod offer;
mod own;
mod renamer;
mod reply;
#[expect(clippy::module_inception, reason = "named after what it defines")]
mod substituter;
mod timeouts;

pub use agent::{Agent, AgentMode, AgentProgram, StartAgent};
pub use asker::{Asker, Questions};
pub use conversation::Conversation;
pub use error::Error;
pub use offer::{Offer, Offers, Origin, OwnOffer};
pub use own::FetchError;
pub use reply::SubstituteReply;
pub use substituter::Substituter;
pub use timeouts::Timeouts;
