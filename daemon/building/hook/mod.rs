//! Build hooks: programs that build derivations elsewhere (`doc/spec/hook-protocol.md`).
//!
//! | file | |
//! |---|---|
//! | `pool` | the hook processes of one request that wait for a question |
//! | `process` | a hook process and its pipes; asking it whether it takes a derivation |
//! | `question` | the question and the answers, as they are written |
//!
//! A hook process serves one request of one client. It is asked about one derivation after another
//! until it accepts one; then it is used for that build ([`super::hook_build`]). Guix's daemon asks
//! one process at a time and does nothing else meanwhile. Ours asks from the thread of the attempt,
//! with a timeout, and starts another process for the next derivation while the first one decides.
//! If a process dies, does not reply in time or sends an invalid reply, that counts as declining.

mod pool;
mod process;
mod question;

pub(super) use pool::{Decision, HookPool};
pub(super) use process::{HookPipes, HookProcess};
pub(super) use question::Question;
