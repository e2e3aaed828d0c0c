//! Fetching an item for which a substitute was found, instead of building it
//! (`doc/spec/build-environment.md`, section 1; Guix's `SubstitutionGoal`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use system::sync::Mutex;

use bstr::{BStr, BString, ByteSlice};
use formats::hash::{Algorithm, Hash};
use formats::store_path::StorePath;
use protocol::operations::Substitutable;
use protocol::trace::Trace;
use store::{Checked, Level, NewPath, PathLocks};

use super::attempt::Attempt;
use super::engine::Engine;
use super::files;
use super::log_sink::LogRecord;
use super::outcome::{Failure, Outcome};
use crate::request_error::RequestError;
use crate::settings::SessionSettings;
use crate::substituter::{Agent, AgentMode, Conversation, Error, SubstituteReply};

/// The idle agents of one request that fetch items.
#[derive(Default)]
pub(super) struct IdleAgents(Mutex<Vec<Agent>>);

impl IdleAgents {
    fn take(&self) -> Option<Agent> {
        self.0.lock().pop()
    }

    fn put_back(&self, agent: Agent) {
        self.0.lock().push(agent);
    }
}

/// An item to fetch; what the attempt's thread needs to know.
pub(super) struct Fetch {
    pub(super) engine: Arc<Engine>,
    pub(super) session: Arc<SessionSettings>,
    pub(super) agents: Arc<IdleAgents>,
    pub(super) path: StorePath,
    /// Whether the item is valid, but damaged.
    pub(super) repair: bool,
    pub(super) found: Arc<Substitutable>,
    /// The request's cache of checks of valid items' contents.
    pub(super) checked: Arc<Checked>,
}

impl Fetch {
    /// The attempt: fetches and registers the item.
    pub(super) fn run(&self, attempt: &Attempt) -> Outcome {
        self.with_lock(attempt).unwrap_or_else(Outcome::Error)
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
        attempt.message(Level::Info, format!("fetching path `{path}'..."));
        let destination = match self.repair {
            true => PathBuf::from(format!("{path}.tmp")),
            false => path.as_path().to_owned(),
        };
        files::remove(&destination)?;
        let (hash, nar_size) = match self.fetch(attempt, &destination)? {
            Ok(fetched) => fetched,
            Err(outcome) => {
                let _ = files::remove(&destination);
                return Ok(outcome);
            }
        };
        if self.repair {
            files::replace(path.as_path(), &destination)?;
        }
        store.register_valid_paths(&[NewPath {
            path: path.clone(),
            hash,
            nar_size,
            references: self.found.references.clone(),
            deriver: self.found.deriver.clone(),
            registration_time: None,
        }])?;
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

    /// Has an agent fetch the item. Returns its hash and size, or the outcome of the attempt.
    fn fetch(
        &self,
        attempt: &Attempt,
        destination: &Path,
    ) -> Result<Result<(Hash, u64), Outcome>, RequestError> {
        let path = &self.path;
        let options = self.options()?;
        let mut agent = match self.agent(options.as_bstr()) {
            Ok(agent) => agent,
            Err(error) => return Ok(Err(self.agent_failed(attempt, &error))),
        };
        attempt.trace(Trace::SubstituterStarted {
            path: path.as_str(),
        });
        let pid = agent.pid().unsigned_abs();
        let mut log = |text: &[u8]| {
            attempt.log(LogRecord::HelperOutput {
                pid: Some(pid),
                data: text.into(),
            })
        };
        let limit = |seconds: i64| u64::try_from(seconds).unwrap_or(0);
        let mut conversation = Conversation::new(&mut log, attempt.cancel())?.with_timeouts(
            limit(self.session.max_silent_time),
            limit(self.session.build_timeout),
        );
        let reply = agent.substitute(path, destination, &mut conversation);
        drop(conversation);
        let reply = match reply {
            Ok(reply) => reply,
            Err(Error::Interrupted) => return Ok(Err(Outcome::Failed(Failure::Misc))),
            Err(error @ (Error::TotalTimeout(_) | Error::SilenceTimeout(_))) => {
                attempt.message(Level::Error, format!("substitution of `{path}' {error}"));
                attempt.trace(Trace::SubstituterFailed {
                    path: path.as_str(),
                    reason: "timeout",
                });
                return Ok(Err(Outcome::Failed(Failure::TimedOut)));
            }
            Err(error) => return Ok(Err(self.agent_failed(attempt, &error))),
        };
        // Its reply was complete, so it can be reused.
        self.agents.put_back(agent);
        let (status, reason) = match reply {
            SubstituteReply::Success { hash, nar_size } if files::exists(destination)? => {
                return self.check(&hash, nar_size, destination, attempt).map(Ok);
            }
            SubstituteReply::Success { .. } => (
                BString::from("success"),
                format!(
                    "substitute did not produce path `{}'",
                    destination.display()
                ),
            ),
            SubstituteReply::HashMismatch {
                algorithm,
                expected,
                actual,
            } => {
                attempt.trace(Trace::HashMismatch {
                    path: path.as_str(),
                    algorithm: &algorithm.to_str_lossy(),
                    expected: &expected.to_str_lossy(),
                    actual: &actual.to_str_lossy(),
                });
                let status = format!("hash-mismatch {algorithm} {expected} {actual}").into();
                (
                    status,
                    format!("hash mismatch for substituted item `{path}'"),
                )
            }
            SubstituteReply::NotFound => (
                "not-found".into(),
                format!("fetching path `{path}' (status: 'not-found')"),
            ),
            SubstituteReply::Other(status) if status.is_empty() => {
                (status, format!("fetching path `{path}' (empty status)"))
            }
            SubstituteReply::Other(status) => {
                let text = format!("fetching path `{path}' (status: '{status}')");
                (status, text)
            }
        };
        attempt.message(Level::Info, reason.as_str());
        attempt.trace(Trace::SubstituterFailed {
            path: path.as_str(),
            reason: &format!("{status} {reason}"),
        });
        Ok(Err(Outcome::Failed(Failure::Misc)))
    }

    /// Checks the agent's hash, and converts it to the one that is registered.
    fn check(
        &self,
        hash: &BString,
        nar_size: u64,
        destination: &Path,
        attempt: &Attempt,
    ) -> Result<(Hash, u64), RequestError> {
        let bad = || RequestError::new(format!("bad hash from substituter: {hash}"));
        let text = hash.to_str().map_err(|_| bad())?;
        let (algorithm, digest) = text.split_once(':').ok_or_else(bad)?;
        let unknown = |_| RequestError::new(format!("unknown hash algorithm in `{hash}'"));
        match algorithm.parse().map_err(unknown)? {
            Algorithm::Sha256 => Ok((
                Hash::parse(Algorithm::Sha256, digest).map_err(RequestError::new)?,
                nar_size,
            )),
            // The database only takes SHA-256.
            _ => Ok(self.engine.store.hash_path(destination, attempt)?),
        }
    }

    /// The agent did not reply: there is no substitute, and the item may be built.
    fn agent_failed(&self, attempt: &Attempt, error: &Error) -> Outcome {
        attempt.message(
            Level::Error,
            format!("warning: cannot substitute `{}': {error}", self.path),
        );
        attempt.trace(Trace::SubstituterFailed {
            path: self.path.as_str(),
            reason: &error.to_string(),
        });
        Outcome::Failed(Failure::Misc)
    }

    /// An idle agent, or a new one.
    fn agent(&self, options: &BStr) -> Result<Agent, Error> {
        if let Some(agent) = self.agents.take() {
            return Ok(agent);
        }
        let guix = &self.engine.settings.directories.guix;
        let spawner = &self.engine.spawner;
        Agent::start(spawner, guix, AgentMode::Substitute, options)
    }

    /// The client's settings, encoded for an agent.
    fn options(&self) -> Result<BString, RequestError> {
        let mut options = self.session.pack().map_err(RequestError::new)?;
        let deduplicate = if self.session.auto_optimise_store {
            "yes"
        } else {
            "no"
        };
        options.extend_from_slice(format!("deduplicate={deduplicate}").as_bytes());
        Ok(options)
    }
}
