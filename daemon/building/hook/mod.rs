//! Build hooks: programs that build derivations elsewhere (`doc/spec/hook-protocol.md`).
//!
//! | file | |
//! |---|---|
//! | `mod.rs` | which program is run, and the hooks of one request that wait for a question |
//! | `process.rs` | one hook process and its pipes |
//! | `question.rs` | asking whether it takes a derivation |
//! | `build.rs` | a build that it has taken |
//!
//! A hook serves one request of one client. It is asked about one derivation after the other until
//! it accepts one; then it belongs to that build. Unlike Guix's daemon, which asks one hook and
//! does nothing else meanwhile, ours asks from the thread that tries the derivation, with a limit
//! on the wait, and starts another hook for the next derivation while the first one thinks. A hook
//! that dies, says nothing in time or talks nonsense counts as one that declines.

pub(super) mod build;
mod process;
mod question;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bstr::ByteSlice;
use formats::derivation::Derivation;
use system::sync::{Condvar, Mutex};

use super::Engine;
use super::request::Level;
use super::shared::Attempt;
use crate::hook_program::Convention;
use crate::settings::SessionSettings;
pub(super) use process::Hook;
pub(super) use question::{Answer, Question};

/// How long a hook may think about a derivation, unless `GUIX_BUILD_HOOK_TIMEOUT` (seconds) says
/// otherwise: more than probing a farm of slow machines takes.
const REPLY_LIMIT: Duration = Duration::from_secs(300);

/// Hooks that in a row have failed to reply, before a request does without them.
const PATIENCE: u32 = 3;

/// Questions that one request asks at a time: each has a hook of its own.
const QUESTIONS: usize = 16;

/// How long a hook may think.
fn reply_limit() -> Duration {
    let seconds = std::env::var("GUIX_BUILD_HOOK_TIMEOUT")
        .ok()
        .and_then(|text| text.parse().ok());
    seconds.map_or(REPLY_LIMIT, Duration::from_secs)
}

/// The hooks of one request.
pub(super) struct Hooks {
    engine: Arc<Engine>,
    program: PathBuf,
    /// SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE BUILD-TIMEOUT, after what else the program wants.
    words: Vec<OsString>,
    /// Whether the client wants to know more than usual.
    verbose: bool,
    reply_limit: Duration,
    idle: Mutex<Vec<Hook>>,
    /// How many questions are being asked.
    asking: Mutex<usize>,
    answered: Condvar,
    /// The request has ended: nothing is asked any more.
    closed: AtomicBool,
    /// Hooks that in a row have failed to reply, or could not be started.
    failures: AtomicU32,
}

impl Hooks {
    /// The hooks of a request, if there is a program to ask and the client and the administrator
    /// want it asked. One is started when there is something to ask.
    pub(super) fn for_session(engine: &Arc<Engine>, session: &SessionSettings) -> Option<Hooks> {
        if !cfg!(have_daemon_offload_hook) || !session.hook_allowed || !session.use_build_hook {
            return None;
        }
        let (program, convention) = engine.settings.hook.usable()?;
        let first = match convention {
            Convention::GuixOffload => Some("offload".to_owned()),
            Convention::Plain => None,
        };
        let own = [
            session.system.to_str_lossy().into_owned(),
            session.max_silent_time.max(0).to_string(),
            u8::from(session.print_build_trace).to_string(),
            session.build_timeout.max(0).to_string(),
        ];
        Some(Hooks {
            engine: engine.clone(),
            program: program.to_owned(),
            words: first.into_iter().chain(own).map(OsString::from).collect(),
            verbose: session.verbosity >= Level::Talkative as u32,
            reply_limit: reply_limit(),
            idle: Mutex::default(),
            asking: Mutex::default(),
            answered: Condvar::new(),
            closed: AtomicBool::new(false),
            failures: AtomicU32::new(0),
        })
    }

    /// Whether asking makes sense.
    pub(super) fn are_usable(&self) -> bool {
        !self.closed.load(Ordering::Acquire) && self.failures.load(Ordering::Acquire) < PATIENCE
    }

    /// Asks no more, and ends the hooks that wait for questions.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.idle.lock().clear();
    }

    /// Asks whether a hook takes a derivation; returns it if so. Everything but taking it,
    /// asking for patience, and being stopped meanwhile is a no.
    pub(super) fn ask(&self, attempt: &Attempt, question: &Question) -> Asked {
        let Some(_turn) = self.wait_for_turn(attempt) else {
            return Asked::Stopped;
        };
        let Some(mut hook) = self.take(attempt) else {
            return Asked::Declined;
        };
        let answer = hook.ask(attempt, question, self.reply_limit);
        match answer {
            Answer::Accept => {
                self.failures.store(0, Ordering::Release);
                Asked::Accepted(Box::new(hook))
            }
            Answer::Decline | Answer::Postpone => {
                self.failures.store(0, Ordering::Release);
                self.put_back(hook);
                if matches!(answer, Answer::Postpone) {
                    Asked::Postponed
                } else {
                    Asked::Declined
                }
            }
            Answer::DeclinePermanently => {
                self.failures.store(PATIENCE, Ordering::Release);
                Asked::Declined
            }
            Answer::Failed(reason) => {
                drop(hook); // ends it, if it has not ended
                let failures = self.failures.fetch_add(1, Ordering::AcqRel) + 1;
                let name = self.program.display();
                attempt.message(
                    Level::Error,
                    format!("build hook `{name}' {reason}; going on without it"),
                );
                if failures == PATIENCE {
                    attempt.message(
                        Level::Error,
                        format!("build hook `{name}' failed {failures} times; not asking it again"),
                    );
                }
                Asked::Declined
            }
            Answer::Stopped => Asked::Stopped,
        }
    }

    fn take(&self, attempt: &Attempt) -> Option<Hook> {
        if !self.are_usable() {
            return None;
        }
        let idle = self.idle.lock().pop();
        if let Some(hook) = idle {
            return Some(hook);
        }
        let words = self.words.clone();
        match Hook::start(&self.engine.spawner, &self.program, words, self.verbose) {
            Ok(hook) => Some(hook),
            Err(error) => {
                // Said once, not for every derivation.
                if self.failures.swap(PATIENCE, Ordering::AcqRel) < PATIENCE {
                    let name = self.program.display();
                    let text =
                        format!("cannot start build hook `{name}': {error}; building locally");
                    tracing::warn!("{text}");
                    attempt.message(Level::Error, text);
                }
                None
            }
        }
    }

    /// Waits until few enough questions are being asked.
    fn wait_for_turn(&self, attempt: &Attempt) -> Option<Turn<'_>> {
        let mut asking = self.asking.lock();
        while *asking >= QUESTIONS {
            if attempt.stop().is_thrown() {
                return None;
            }
            let briefly = Duration::from_millis(100);
            let waited = self.answered.wait_timeout(asking, briefly);
            asking = waited;
        }
        *asking += 1;
        Some(Turn(self))
    }

    fn put_back(&self, hook: Hook) {
        let mut idle = self.idle.lock();
        // Checked under the lock: `close` empties the list after it has set the flag.
        if !self.closed.load(Ordering::Acquire) {
            idle.push(hook);
        }
    }
}

/// The right to ask; given back when dropped.
struct Turn<'a>(&'a Hooks);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.asking.lock() -= 1;
        self.0.answered.notify_one();
    }
}

/// What became of a question.
pub(super) enum Asked {
    /// The hook builds it.
    Accepted(Box<Hook>),
    /// Not now.
    Postponed,
    /// No hook builds it.
    Declined,
    /// Nobody wants to know any more.
    Stopped,
}

/// Whether this daemon can run programs for `platform` by itself.
pub(super) fn can_build_locally(platform: &str, system: &str) -> bool {
    platform == system
        || (platform == "i686-linux" && system == "x86_64-linux")
        || (platform == "armhf-linux" && system == "aarch64-linux")
}

/// Whether a derivation asks to be built locally, and can be.
pub(super) fn will_build_locally(derivation: &Derivation, platform: &str, system: &str) -> bool {
    derivation
        .variable("preferLocalBuild")
        .is_some_and(|value| value == "1")
        && can_build_locally(platform, system)
}
