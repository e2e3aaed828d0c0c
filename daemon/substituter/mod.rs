//! Substitutes: store items that were built elsewhere, found and fetched by `guix substitute`.
//!
//! The program runs as an [`Agent`]: a child process that answers one request after another. A
//! session's agent answers queries, a build's fetches items. If `guix` isn't installed, there are
//! no substitutes. Documented in Guix's `guix/scripts/substitute.scm`.

mod agent;
mod conversation;
mod error;
mod reply;

pub use agent::{Agent, AgentMode};
pub use conversation::Conversation;
pub use error::Error;
pub use reply::SubstituteReply;
