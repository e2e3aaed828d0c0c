//! Substitutes: store items that somebody else has built, found and fetched by `guix substitute`.
//!
//! The program runs as an [`Agent`]: a child process that answers one request after the other. A
//! session's agent answers questions, a build's fetches items. Where no `guix` is installed, there
//! are no substitutes. Documented in Guix's `guix/scripts/substitute.scm`.

mod agent;
mod conversation;
mod error;
mod reply;

pub use agent::{Agent, AgentMode};
pub use conversation::Conversation;
pub use error::Error;
pub use reply::SubstituteReply;
