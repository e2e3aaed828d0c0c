//! Items that Guix's program fetches to a place in the store, and vouches for.

use std::path::{Path, PathBuf};

use bstr::{BString, ByteSlice};
use formats::hash::{Algorithm, Hash};
use store::NewPath;

use super::super::attempt::Attempt;
use super::super::files;
use super::super::outcome::Failure;
use super::Fetch;
use crate::request_error::RequestError;
use crate::substituter::{Agent, AgentMode, Error, SubstituteReply};

impl Fetch {
    /// Has an agent fetch the item, and registers it.
    pub(super) fn fetch_by_guix(
        &self,
        attempt: &Attempt,
    ) -> Result<Result<(), Failure>, RequestError> {
        let (store, path) = (&self.engine.store, &self.path);
        let destination = match self.repair {
            true => PathBuf::from(format!("{path}.tmp")),
            false => path.as_path().to_owned(),
        };
        files::remove(&destination)?;
        let (hash, nar_size) = match self.ask_agent(attempt, &destination)? {
            Ok(fetched) => fetched,
            Err(failure) => {
                let _ = files::remove(&destination);
                return Ok(Err(failure));
            }
        };
        if self.repair {
            files::replace(path.as_path(), &destination)?;
        }
        store.register_valid_paths(&[NewPath {
            path: path.clone(),
            hash,
            nar_size,
            references: self.offer.info.references.clone(),
            deriver: self.offer.info.deriver.clone(),
            registration_time: None,
        }])?;
        Ok(Ok(()))
    }

    /// Has an agent fetch the item. Returns its hash and size.
    fn ask_agent(
        &self,
        attempt: &Attempt,
        destination: &Path,
    ) -> Result<Result<(Hash, u64), Failure>, RequestError> {
        let path = &self.path;
        let options = self.options()?;
        let mut agent = match self.agent(&options) {
            Ok(agent) => agent,
            Err(error) => return Ok(Err(self.stopped(attempt, &error))),
        };
        self.started(attempt);
        let pid = agent.pid().unsigned_abs();
        let reply = self.converse(attempt, pid, |conversation| {
            agent.substitute(path, destination, conversation)
        });
        let reply = match reply.and_then(|reply| reply) {
            Ok(reply) => reply,
            Err(error) => return Ok(Err(self.stopped(attempt, &error))),
        };
        // Its reply was complete, so it can be reused.
        self.agents.put_back(agent);
        Ok(Err(match reply {
            SubstituteReply::Success { hash, nar_size } if files::exists(destination)? => {
                return self.check(&hash, nar_size, destination, attempt).map(Ok);
            }
            SubstituteReply::Success { .. } => {
                let destination = destination.display();
                let reason = format!("substitute did not produce path `{destination}'");
                self.failed(attempt, "success", reason)
            }
            SubstituteReply::HashMismatch {
                algorithm,
                expected,
                actual,
            } => {
                let [algorithm, expected, actual] =
                    [&algorithm, &expected, &actual].map(|text| text.to_str_lossy());
                self.has_wrong_hash(attempt, &algorithm, &expected, &actual)
            }
            SubstituteReply::NotFound => self.not_found(attempt),
            SubstituteReply::Other(status) => {
                let shown = match status.is_empty() {
                    true => "empty status".to_owned(),
                    false => format!("status: '{status}'"),
                };
                let reason = format!("fetching path `{path}' ({shown})");
                self.failed(attempt, &status.to_str_lossy(), reason)
            }
        }))
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

    /// An idle agent, or a new one.
    fn agent(&self, options: &[u8]) -> Result<Agent, Error> {
        if let Some(agent) = self.agents.take() {
            return Ok(agent);
        }
        let substituter = &self.engine.substituter;
        substituter.start_agent(AgentMode::Substitute, options)
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
