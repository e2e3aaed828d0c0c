//! Fetching an item for which a substitute was found, instead of building it
//! (`doc/spec/build-environment.md`, section 1; Guix's `SubstitutionGoal`).
//!
//! Who has found it fetches it: the daemon (`own`) or Guix's program (`by_guix`). Here is what both
//! have in common: the lock, and what clients are told.
//!
//! The daemon may receive an item before its references are valid. That takes no lock: what is received
//! has a name of its own, and another attempt, which has the lock, registers it later.

mod by_guix;
mod idle_agents;
mod own;

use std::sync::Arc;

use formats::store_path::StorePath;
use protocol::trace::Trace;
use store::{Checked, Level, PathLocks, ReceiveOptions, TempRoots};
use substitutes::Told;

use super::attempt::Attempt;
use super::engine::Engine;
use super::log_sink::LogRecord;
use super::outcome::{Failure, Outcome};
use super::prefetched::Prefetched;
use crate::request_error::RequestError;
use crate::settings::SessionSettings;
use crate::shared_limit::{ClientKey, Share};
use crate::substituter::{Conversation, Error, Offer, Origin, Timeouts};

pub(super) use idle_agents::IdleAgents;

/// An item to fetch; what the attempt's thread needs to know.
pub(super) struct Fetch {
    pub(super) engine: Arc<Engine>,
    /// Who has started it.
    pub(super) client: ClientKey,
    pub(super) session: Arc<SessionSettings>,
    /// What the client has been told of servers.
    pub(super) told: Arc<Told>,
    /// Protect what is received, until it is registered.
    pub(super) temp_roots: Arc<TempRoots>,
    pub(super) agents: Arc<IdleAgents>,
    pub(super) path: StorePath,
    /// Whether the item is valid, but damaged.
    pub(super) repair: bool,
    pub(super) offer: Arc<Offer>,
    /// The item, if it has been received already.
    pub(super) prefetched: Option<Arc<Prefetched>>,
    /// The request's cache of checks of valid items' contents.
    pub(super) checked: Arc<Checked>,
}

impl Fetch {
    /// The attempt: fetches and registers the item.
    pub(super) fn run(&self, attempt: &Attempt) -> Outcome {
        self.with_lock(attempt).unwrap_or_else(Outcome::Error)
    }

    /// Another attempt: receives the item, which is registered later, and has `share` meanwhile.
    pub(super) fn prefetch(&self, attempt: &Attempt, share: Share) -> Outcome {
        let Origin::Own(offer) = &self.offer.origin else {
            return Outcome::Locked;
        };
        match self.engine.store.is_valid(&self.path) {
            Ok(false) => {}
            Ok(true) => return Outcome::Done,
            Err(error) => return Outcome::Error(error.into()),
        }
        self.announce(attempt);
        let expected = offer.expected();
        match self.receive_own(offer, &expected, &self.options(attempt), attempt) {
            Ok(received) => {
                let items = &self.engine.prefetched;
                Outcome::Received(items.add(received.wait(), share))
            }
            Err(failure) => Outcome::Failed(failure),
        }
    }

    fn with_lock(&self, attempt: &Attempt) -> Result<Outcome, RequestError> {
        let (store, path) = (&self.engine.store, &self.path);
        let Some(mut lock) = PathLocks::try_acquire(store, [path])? else {
            return Ok(Outcome::Locked);
        };
        if !self.repair && store.is_valid(path)? {
            lock.set_deletion(true);
            return Ok(Outcome::Done);
        }
        let fetched = match (&self.prefetched, &self.offer.origin) {
            (Some(prefetched), _) => match prefetched.take() {
                Some(item) => self.register(attempt, item.register(attempt)),
                None => return Ok(Outcome::NeedsSlot),
            },
            (None, Origin::Own(offer)) => {
                self.announce(attempt);
                self.fetch_own(offer, attempt)
            }
            (None, Origin::Guix) => {
                self.announce(attempt);
                self.fetch_by_guix(attempt)?
            }
        };
        if let Err(failure) = fetched {
            return Ok(Outcome::Failed(failure));
        }
        lock.set_deletion(true);
        self.checked.mark_good(path);
        attempt.message(
            Level::Chatty,
            format!("substitution of path `{path}' succeeded"),
        );
        attempt.trace(Trace::SubstituterSucceeded {
            path: path.as_str(),
        });
        Ok(Outcome::Done)
    }

    /// Runs `work`, with what is said meanwhile passed on to the clients as output of the process
    /// `pid`, and the client's limits on time.
    fn converse<T>(
        &self,
        attempt: &Attempt,
        pid: u32,
        work: impl FnOnce(&mut Conversation<'_>) -> T,
    ) -> Result<T, Error> {
        let mut log = |text: &[u8]| {
            attempt.log(LogRecord::HelperOutput {
                pid: Some(pid),
                data: text.into(),
            })
        };
        let mut conversation = Conversation::new(&mut log, attempt.cancel())?
            .with_activity(attempt.activity().clone())
            .with_timeouts(Timeouts::of(&self.session));
        Ok(work(&mut conversation))
    }

    fn options<'a>(&'a self, attempt: &'a Attempt) -> ReceiveOptions<'a> {
        ReceiveOptions {
            temp_roots: &self.temp_roots,
            deduplicate: self.session.auto_optimise_store,
            progress: attempt,
        }
    }

    fn announce(&self, attempt: &Attempt) {
        let path = &self.path;
        attempt.message(Level::Info, format!("fetching path `{path}'..."));
    }

    fn started(&self, attempt: &Attempt) {
        attempt.trace(Trace::SubstituterStarted {
            path: self.path.as_str(),
        });
    }

    /// There is no answer.
    fn stopped(&self, attempt: &Attempt, error: &Error) -> Failure {
        let path = &self.path;
        match error {
            error if error.is_interruption() => Failure::Misc,
            // It took too long.
            Error::Stopped(stop) => {
                attempt.message(Level::Error, format!("substitution of `{path}' {stop}"));
                attempt.trace(Trace::SubstituterFailed {
                    path: path.as_str(),
                    reason: "timeout",
                });
                Failure::TimedOut
            }
            // There is no substitute, and the item may be built.
            error => {
                let text = format!("warning: cannot substitute `{path}': {error}");
                attempt.message(Level::Error, text);
                attempt.trace(Trace::SubstituterFailed {
                    path: path.as_str(),
                    reason: &error.to_string(),
                });
                Failure::Misc
            }
        }
    }

    /// There is an answer, but no item.
    fn failed(&self, attempt: &Attempt, status: &str, reason: String) -> Failure {
        attempt.message(Level::Info, reason.as_str());
        attempt.trace(Trace::SubstituterFailed {
            path: self.path.as_str(),
            reason: &format!("{status} {reason}"),
        });
        Failure::NotDelivered
    }

    /// The item has other contents than it has to have.
    fn has_wrong_hash(
        &self,
        attempt: &Attempt,
        algorithm: &str,
        expected: &str,
        actual: &str,
    ) -> Failure {
        let path = &self.path;
        attempt.trace(Trace::HashMismatch {
            path: path.as_str(),
            algorithm,
            expected,
            actual,
        });
        self.failed(
            attempt,
            &format!("hash-mismatch {algorithm} {expected} {actual}"),
            format!("hash mismatch for substituted item `{path}'"),
        )
    }

    /// Nobody has the item.
    fn not_found(&self, attempt: &Attempt) -> Failure {
        let path = &self.path;
        let reason = format!("fetching path `{path}' (status: 'not-found')");
        self.failed(attempt, "not-found", reason)
    }
}
