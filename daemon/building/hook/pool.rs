//! The hook processes of one request.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use system::sync::Mutex;

use bstr::ByteSlice;
use store::Level;

use super::super::attempt::Attempt;
use super::super::engine::Engine;
use super::super::semaphore::Semaphore;
use super::super::stage::Stage;
use super::process::HookProcess;
use super::question::{Answer, Question};
use crate::hook_program::{Convention, reply_timeout};
use crate::settings::SessionSettings;

/// After this many consecutive failures (processes that don't reply or can't be started), the
/// request continues without hooks.
const FAILURE_LIMIT: u32 = 3;

/// The number of questions that one request asks at the same time, each to its own process.
const CONCURRENT_QUESTIONS: usize = 16;

/// What the hooks decided about a derivation.
pub(in super::super) enum Decision {
    /// The process builds the derivation.
    Accepted(Box<HookProcess>),
    /// Ask again later, perhaps with the reason.
    Postponed(Option<String>),
    /// No hook builds the derivation.
    Declined,
    /// The attempt was cancelled meanwhile.
    Cancelled,
}

/// Starts hook processes, and keeps idle ones.
pub(in super::super) struct HookPool {
    engine: Arc<Engine>,
    program: PathBuf,
    /// SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE BUILD-TIMEOUT, perhaps after a subcommand.
    arguments: Vec<OsString>,
    /// Whether the client wants to see why machines are chosen or not.
    verbose: bool,
    reply_timeout: Duration,
    idle: Mutex<Vec<HookProcess>>,
    questions: Arc<Semaphore>,
    /// Whether the request has ended: no more questions are asked.
    closed: AtomicBool,
    /// Consecutive failures.
    failures: AtomicU32,
}

impl HookPool {
    /// The hooks of a request, if there is a hook program and it is turned off by neither the
    /// client nor the administrator. Processes are started when needed.
    pub(in super::super) fn for_session(
        engine: &Arc<Engine>,
        session: &SessionSettings,
    ) -> Option<HookPool> {
        if !cfg!(have_daemon_offload_hook) || !session.hook_allowed || !session.use_build_hook {
            return None;
        }
        let (program, convention) = engine.settings.hook.usable()?;
        let subcommand = match convention {
            Convention::GuixOffload => Some("offload".to_owned()),
            Convention::Plain => None,
        };
        let arguments = [
            session.system.to_str_lossy().into_owned(),
            session.max_silent_time.max(0).to_string(),
            u8::from(session.print_build_trace).to_string(),
            session.build_timeout.max(0).to_string(),
        ];
        let arguments = subcommand.into_iter().chain(arguments);
        Some(HookPool {
            engine: engine.clone(),
            program: program.to_owned(),
            arguments: arguments.map(OsString::from).collect(),
            verbose: session.verbosity >= Level::Talkative as u32,
            // A warning was given at the start.
            reply_timeout: reply_timeout().0,
            idle: Mutex::default(),
            questions: Semaphore::new(CONCURRENT_QUESTIONS),
            closed: AtomicBool::new(false),
            failures: AtomicU32::new(0),
        })
    }

    /// Whether hooks can be asked.
    pub(in super::super) fn is_usable(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
            && self.failures.load(Ordering::Acquire) < FAILURE_LIMIT
    }

    /// Asks no more questions, and ends idle processes.
    pub(in super::super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.idle.lock().clear();
    }

    /// Asks a hook whether it builds a derivation. If it fails, that counts as declining. `is_willing` says
    /// whether a local build could be started: it is called when it is the question's turn.
    pub(in super::super) fn ask(
        &self,
        attempt: &Attempt,
        question: &Question,
        is_willing: impl Fn() -> bool,
    ) -> Decision {
        attempt.stage().enter(Stage::HookTurn);
        let Some(_permit) = (self.questions).acquire(question.rank, attempt.cancel()) else {
            return Decision::Cancelled;
        };
        let Some(mut hook) = self.take(attempt) else {
            return Decision::Declined;
        };
        attempt.stage().enter(Stage::HookAnswer);
        let answer = hook.ask(attempt, question, is_willing(), self.reply_timeout);
        match answer {
            Answer::Accept => {
                self.failures.store(0, Ordering::Release);
                Decision::Accepted(Box::new(hook))
            }
            Answer::Decline | Answer::Postpone => {
                self.failures.store(0, Ordering::Release);
                let reason = hook.reason();
                self.put_back(hook);
                match answer {
                    Answer::Postpone => Decision::Postponed(reason),
                    _ => Decision::Declined,
                }
            }
            Answer::DeclinePermanently => {
                self.failures.store(FAILURE_LIMIT, Ordering::Release);
                Decision::Declined
            }
            Answer::Failed(reason) => {
                drop(hook); // ends it, if it has not ended
                self.count_failure(attempt, &reason);
                Decision::Declined
            }
            Answer::Cancelled => Decision::Cancelled,
        }
    }

    fn count_failure(&self, attempt: &Attempt, reason: &str) {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel) + 1;
        let name = self.program.display();
        let text = format!("build hook `{name}' {reason}; going on without it");
        attempt.message(Level::Error, text);
        if failures == FAILURE_LIMIT {
            let text = format!("build hook `{name}' failed {failures} times; not asking it again");
            attempt.message(Level::Error, text);
        }
    }

    /// An idle process, or a new one.
    fn take(&self, attempt: &Attempt) -> Option<HookProcess> {
        if !self.is_usable() {
            return None;
        }
        let idle = self.idle.lock().pop();
        if let Some(hook) = idle {
            return Some(hook);
        }
        let arguments = self.arguments.clone();
        match HookProcess::start(&self.engine, &self.program, arguments, self.verbose) {
            Ok(hook) => Some(hook),
            Err(error) => {
                // Reported once, not for every derivation.
                let failures = self.failures.swap(FAILURE_LIMIT, Ordering::AcqRel);
                if failures < FAILURE_LIMIT {
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

    fn put_back(&self, hook: HookProcess) {
        let mut idle = self.idle.lock();
        // Checked under the lock: `close` empties the list after it has set the flag.
        if !self.closed.load(Ordering::Acquire) {
            idle.push(hook);
        }
    }
}
