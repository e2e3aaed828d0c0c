//! Items that Guix's program fetches, to a private place.
//!
//! It says what hash they have, and is believed that a trusted server has signed it. Nothing else is
//! believed: what it has left is copied from there as if it came from the network, since a process of
//! the program may still write to it. The copy becomes the item if it has the hash and the size that
//! were said, and mentions no valid item that was not announced as a reference.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bstr::{BString, ByteSlice};
use formats::hash::{Algorithm, Hash};
use formats::store_path::StorePath;
use store::{ExpectedItem, Mentions, Progress, ReceiveOptions, ReceivedItem};
use substitutes::settings;

use super::super::attempt::Attempt;
use super::super::files;
use super::super::outcome::Failure;
use super::Fetch;
use super::idle_agents::FetchAgent;
use crate::request_error::RequestError;
use crate::substituter::{AgentMode, Error, FetchError, SubstituteReply};

impl Fetch {
    /// Has an agent fetch the item, and registers it.
    pub(super) fn fetch_by_guix(
        &self,
        attempt: &Attempt,
    ) -> Result<Result<(), Failure>, RequestError> {
        let mut agent = match self.agent(attempt)? {
            Ok(agent) => agent,
            Err(error) => return Ok(Err(self.stopped(attempt, &error))),
        };
        let path = &self.path;
        let destination = agent.directory.inner().join(path.base_name());
        self.started(attempt);
        let pid = agent.agent.pid().unsigned_abs();
        let reply = self.converse(attempt, pid, |conversation| {
            conversation.show_as(&destination, path.as_path());
            agent.agent.substitute(path, &destination, conversation)
        });
        let reply = match reply.and_then(|reply| reply) {
            Ok(reply) => reply,
            Err(error) => return Ok(Err(self.stopped(attempt, &error))),
        };
        let outcome = self.judge(reply, &destination, attempt)?;
        // Its reply was complete, so it can be reused, unless something still writes there.
        if files::remove(&destination).is_ok() {
            self.agents.put_back(agent);
        }
        Ok(outcome)
    }

    fn judge(
        &self,
        reply: SubstituteReply,
        destination: &Path,
        attempt: &Attempt,
    ) -> Result<Result<(), Failure>, RequestError> {
        let path = &self.path;
        Ok(Err(match reply {
            SubstituteReply::Success { hash, nar_size } if files::exists(destination)? => {
                return self.take(&hash, nar_size, destination, attempt);
            }
            SubstituteReply::Success { .. } => {
                let reason = format!("substitute did not produce path `{path}'");
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

    /// Copies what the agent has left at `destination`, compares that with what was said of it, and
    /// registers it.
    fn take(
        &self,
        said: &BString,
        said_size: u64,
        destination: &Path,
        attempt: &Attempt,
    ) -> Result<Result<(), Failure>, RequestError> {
        let (path, info) = (&self.path, &self.offer.info);
        if info.nar_size != 0 && info.nar_size != said_size {
            let announced = info.nar_size;
            let reason =
                format!("the nar of `{path}' has {said_size} bytes instead of {announced}");
            return Ok(Err(self.failed(attempt, "success", reason)));
        }
        let expected = ExpectedItem {
            path: path.clone(),
            hash: parse_hash(said)?,
            nar_size: said_size,
            may_be_smaller: settings::is_unauthenticated(),
            references: info.references.clone(),
            deriver: info.deriver.clone(),
        };
        let options = self.options(attempt);
        let mut mentions = self.engine.store.mentions();
        let copied = self.copy(destination, &expected, &options, &mut mentions);
        let received = match copied {
            Ok(received) => received,
            Err(store::Error::Interrupted) => return Ok(Err(Failure::Misc)),
            Err(store::Error::WrongHash {
                expected, actual, ..
            }) => {
                return Ok(Err(self.has_wrong_hash(
                    attempt,
                    &expected.algorithm().to_string(),
                    &expected.hex_or_base32(),
                    &actual.hex_or_base32(),
                )));
            }
            Err(error @ (store::Error::BadInput(_) | store::Error::DeepArchive(_))) => {
                return Ok(Err(self.failed(attempt, "success", error.to_string())));
            }
            Err(error) => {
                let error = Error::Fetch(FetchError::Store(error));
                return Ok(Err(self.stopped(attempt, &error)));
            }
        };
        if let Some(reference) = self.unannounced(mentions.finish(attempt)?) {
            let reason =
                format!("`{path}' refers to `{reference}', which its substitute does not announce");
            return Ok(Err(self.failed(attempt, "success", reason)));
        }
        received.register()?;
        Ok(Ok(()))
    }

    /// Receives the tree at `place` as an item.
    fn copy<'a>(
        &'a self,
        place: &Path,
        expected: &'a ExpectedItem,
        options: &ReceiveOptions<'a>,
        mentions: &mut Mentions<'_>,
    ) -> store::Result<ReceivedItem<'a>> {
        let copying = |error| store::Error::io(format!("copying `{}'", expected.path), error);
        let (reader, writer) = system::pipe::pipe().map_err(copying)?;
        let mut source = Observed {
            source: File::from(reader),
            mentions,
            progress: options.progress,
            failure: None,
        };
        let store = &self.engine.store;
        std::thread::scope(|scope| {
            let progress = options.progress;
            let reading = std::thread::Builder::new()
                .name("copy".to_owned())
                .spawn_scoped(scope, move || {
                    store.dump_tree(place, &mut File::from(writer), progress)
                })
                .map_err(copying)?;
            let received = store.receive(&mut source, expected, options);
            let failure = source.failure.take();
            // Who still writes to it is told that nobody reads.
            drop(source);
            let read = reading.join();
            match (received, failure) {
                (Err(_), Some(failure)) => Err(failure),
                // Why there was no more of it.
                (Err(store::Error::BadInput(text)), None) => Err(match read {
                    Ok(Err(error @ store::Error::Interrupted)) => error,
                    Ok(Err(error)) if !is_broken_pipe(&error) => {
                        store::Error::BadInput(error.to_string())
                    }
                    _ => store::Error::BadInput(text),
                }),
                (received, _) => received,
            }
        })
    }

    /// An item that is mentioned, and is not among the announced references.
    fn unannounced(&self, mentioned: BTreeSet<StorePath>) -> Option<StorePath> {
        // A derivation names its outputs, and does not refer to them.
        if self.path.is_derivation() {
            return None;
        }
        let announced = &self.offer.info.references;
        mentioned
            .into_iter()
            .find(|item| !announced.contains(item) && *item != self.path)
    }

    /// An idle agent, or a new one.
    fn agent(&self, attempt: &Attempt) -> Result<Result<FetchAgent, Error>, RequestError> {
        if let Some(agent) = self.agents.take() {
            return Ok(Ok(agent));
        }
        let store = &self.engine.store;
        let directory = store.private_directory(&self.temp_roots, attempt)?;
        // Only the name counts: Guix's program deduplicates even if `deduplicate=no' is said. The
        // daemon does it.
        let options = self.session.pack().map_err(RequestError::new)?;
        let started = self.engine.substituter.start_agent(
            AgentMode::Substitute,
            &options,
            Some(directory.inner()),
        );
        Ok(started.map(|agent| FetchAgent { agent, directory }))
    }
}

fn parse_hash(said: &BString) -> Result<Hash, RequestError> {
    let bad = || RequestError::new(format!("bad hash from substituter: {said}"));
    let text = said.to_str().map_err(|_| bad())?;
    let (algorithm, digest) = text.split_once(':').ok_or_else(bad)?;
    let unknown = |_| RequestError::new(format!("unknown hash algorithm in `{said}'"));
    let algorithm: Algorithm = algorithm.parse().map_err(unknown)?;
    Hash::parse(algorithm, digest).map_err(RequestError::new)
}

fn is_broken_pipe(error: &store::Error) -> bool {
    matches!(error, store::Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// What is read, with the items that it mentions.
struct Observed<'a, 'b> {
    source: File,
    mentions: &'a mut Mentions<'b>,
    progress: &'a dyn Progress,
    /// Why items can't be looked up.
    failure: Option<store::Error>,
}

impl Read for Observed<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        match self.mentions.update(&buffer[..count], self.progress) {
            Ok(()) => Ok(count),
            Err(error) => {
                let text = error.to_string();
                self.failure = Some(error);
                Err(io::Error::other(text))
            }
        }
    }
}
