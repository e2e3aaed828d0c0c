//! Substituting an item: fetching it ready-made instead of building it
//! (`doc/spec/build-environment.md`, section 1; Guix's `SubstitutionGoal`).

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bstr::{BString, ByteSlice};
use formats::hash::{Algorithm, Hash};
use formats::store_path::StorePath;
use protocol::operations::Substitutable;
use protocol::trace::Trace;
use store::{Checked, Level, NewPath, PathLocks};
use system::sync::Mutex;

use super::Engine;
use super::files;
use super::goals::{Kind, Step};
use super::mailbox::{GoalId, Said};
use super::outcome::{Failure, Outcome};
use super::request::BuildError;
use super::shared::Attempt;
use super::worker::Worker;
use crate::settings::SessionSettings;
use crate::substituter::{Agent, AgentMode, Conversation, Error, SubstituteReply};

/// Agents that can be asked to fetch something.
type Fetchers = Arc<Mutex<Vec<Agent>>>;

/// What one request knows of substitutes.
#[derive(Default)]
pub(super) struct Substituter {
    /// Whom it asks; started with the first question.
    agent: Option<Agent>,
    fetchers: Fetchers,
}

impl Substituter {
    /// Those that fetch for this request, when they have nothing to do.
    pub(super) fn fetchers(&self) -> Fetchers {
        self.fetchers.clone()
    }
}

impl Worker<'_> {
    /// One step of the goal of an item; several, as long as there is nothing to wait for.
    pub(super) fn step_of_substitution(&mut self, id: GoalId) -> Result<(), BuildError> {
        while let Some(goal) = self.goals.get(id) {
            let Kind::Substitute { repair, .. } = goal.kind else {
                return Ok(());
            };
            let path = goal.path.clone();
            match goal.step {
                Step::Start => {
                    self.request.temp_roots.add(&path, &self.progress())?;
                    if !repair && self.store().is_valid(&path)? {
                        self.finish(id, Ok(()));
                        return Ok(());
                    }
                    self.look_for_substitute(id, &path)?;
                }
                Step::ReferencesValid if goal.failed > 0 => {
                    let lacking = goal.no_substitutes > 0 || goal.incomplete > 0;
                    let failure = if lacking {
                        Failure::IncompleteClosure
                    } else {
                        Failure::Misc
                    };
                    self.finish(id, Err(failure));
                    return Ok(());
                }
                _ => return self.try_to_fetch(id),
            }
            if self.goals.is_waiting(id) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn look_for_substitute(&mut self, id: GoalId, path: &StorePath) -> Result<(), BuildError> {
        let Some(info) = self.substitute_info(path)? else {
            self.finish(id, Err(Failure::NoSubstitute));
            return Ok(());
        };
        // A closure is complete at any time: first what the item refers to.
        for reference in info
            .references
            .iter()
            .filter(|reference| *reference != path)
        {
            let goal = self.goals.substitution(reference, false);
            self.goals.wait_for(id, goal);
        }
        if let Some(goal) = self.goals.get_mut(id) {
            goal.step = Step::ReferencesValid;
            if let Kind::Substitute { found, .. } = &mut goal.kind {
                *found = Some(Arc::new(info));
            }
        }
        Ok(())
    }

    fn substitute_info(&mut self, path: &StorePath) -> Result<Option<Substitutable>, BuildError> {
        let (engine, session) = (self.engine, &self.request.settings);
        let guix = &engine.settings.directories.guix;
        if !session.use_substitutes || !Agent::available(guix) {
            return Ok(None);
        }
        let mut agent = match self.substituter.agent.take() {
            Some(agent) => agent,
            None => {
                let options = session.pack().map_err(BuildError::general)?;
                Agent::start(&engine.spawner, guix, AgentMode::Query, options.as_bstr())
                    .map_err(BuildError::general)?
            }
        };
        let mut hear = |words: &[u8]| self.request.log.chatter(None, words);
        let mut conversation = Conversation::new(&mut hear, &self.request.cancel)
            .map_err(BuildError::general)?
            .with_prefixed_lines();
        let paths = [path.clone()].into();
        let mut found: BTreeMap<StorePath, Substitutable> = agent
            .info(&paths, engine.store.dir(), &mut conversation)
            .map_err(BuildError::general)?;
        drop(conversation);
        self.substituter.agent = Some(agent);
        Ok(found.remove(path))
    }
}

/// An item that is to be fetched: all that the thread which does it has to know.
pub(super) struct Fetch {
    pub(super) engine: Arc<Engine>,
    pub(super) session: Arc<SessionSettings>,
    pub(super) agents: Fetchers,
    pub(super) path: StorePath,
    /// It is there, but damaged.
    pub(super) repair: bool,
    pub(super) found: Arc<Substitutable>,
    /// What the request knows to be good, or bad.
    pub(super) checked: Arc<Checked>,
}

impl Fetch {
    /// Fetches and registers the item.
    pub(super) fn run(&self, attempt: &Attempt) -> Result<Outcome, BuildError> {
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

    /// Has an agent fetch the item; its hash and size, or how the attempt ends.
    fn fetch(
        &self,
        attempt: &Attempt,
        destination: &Path,
    ) -> Result<Result<(Hash, u64), Outcome>, BuildError> {
        let path = &self.path;
        let mut agent = self.agent()?;
        attempt.trace(Trace::SubstituterStarted {
            path: path.as_str(),
        });
        let pid = agent.pid().unsigned_abs();
        let mut hear = |words: &[u8]| {
            attempt.say(Said::Chatter {
                pid: Some(pid),
                data: words.into(),
            })
        };
        let limit = |seconds: i64| u64::try_from(seconds).unwrap_or(0);
        let mut conversation = Conversation::until(
            &mut hear,
            || attempt.stop().is_thrown(),
            attempt.stop().as_fd(),
        )
        .with_timeouts(
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
            Err(error) => return Err(BuildError::general(error)),
        };
        // It is at the end of its answer, and good for the next.
        self.agents.lock().push(agent);
        let (status, reason) = match reply {
            SubstituteReply::Success { hash, nar_size } if files::exists(destination)? => {
                return self.check(&hash, nar_size, destination).map(Ok);
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

    /// What the agent says of the nar, in the terms of the database.
    fn check(
        &self,
        hash: &BString,
        nar_size: u64,
        destination: &Path,
    ) -> Result<(Hash, u64), BuildError> {
        let bad = || BuildError::general(format!("bad hash from substituter: {hash}"));
        let text = hash.to_str().map_err(|_| bad())?;
        let (algorithm, digest) = text.split_once(':').ok_or_else(bad)?;
        let unknown = |_| BuildError::general(format!("unknown hash algorithm in `{hash}'"));
        match algorithm.parse().map_err(unknown)? {
            Algorithm::Sha256 => Ok((
                Hash::parse(Algorithm::Sha256, digest).map_err(BuildError::general)?,
                nar_size,
            )),
            // The database has nothing but SHA-256.
            _ => Ok(self.engine.store.hash_path(destination)?),
        }
    }

    fn agent(&self) -> Result<Agent, BuildError> {
        let idle = self.agents.lock().pop();
        if let Some(agent) = idle {
            return Ok(agent);
        }
        let mut options = self.session.pack().map_err(BuildError::general)?;
        let deduplicate = if self.session.auto_optimise_store {
            "yes"
        } else {
            "no"
        };
        options.extend_from_slice(format!("deduplicate={deduplicate}").as_bytes());
        let guix = &self.engine.settings.directories.guix;
        Agent::start(
            &self.engine.spawner,
            guix,
            AgentMode::Substitute,
            options.as_bstr(),
        )
        .map_err(BuildError::general)
    }
}
