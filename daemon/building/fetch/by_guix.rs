//! Items that Guix's program fetches to a place in the store.
//!
//! It says what hash they have, and is believed that a trusted server has signed it. What it has left
//! in the store is read once more: hash and size must be those that it has said.

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
                return self.check(&hash, nar_size, destination, attempt);
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

    /// Compares what the agent has left at `destination` with what it says. Returns the hash that is
    /// registered, which is SHA-256, and the size.
    fn check(
        &self,
        said: &BString,
        said_size: u64,
        destination: &Path,
        attempt: &Attempt,
    ) -> Result<Result<(Hash, u64), Failure>, RequestError> {
        let bad = || RequestError::new(format!("bad hash from substituter: {said}"));
        let text = said.to_str().map_err(|_| bad())?;
        let (algorithm, digest) = text.split_once(':').ok_or_else(bad)?;
        let unknown = |_| RequestError::new(format!("unknown hash algorithm in `{said}'"));
        let algorithm: Algorithm = algorithm.parse().map_err(unknown)?;
        let expected = Hash::parse(algorithm, digest).map_err(RequestError::new)?;
        let (hash, size) = self.engine.store.hash_path(destination, attempt)?;
        // Of other hashes, the size has to do.
        if algorithm == Algorithm::Sha256 && hash != expected {
            let [expected, actual] = [expected, hash].map(|hash| hash.base32());
            return Ok(Err(
                self.has_wrong_hash(attempt, "sha256", &expected, &actual)
            ));
        }
        let announced = self.offer.info.nar_size;
        if size != said_size || (announced != 0 && size != announced) {
            let path = &self.path;
            let reason = format!("the nar of `{path}' has {size} bytes instead of {said_size}");
            return Ok(Err(self.failed(attempt, "success", reason)));
        }
        Ok(Ok((hash, size)))
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
