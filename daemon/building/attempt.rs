//! One attempt to build one derivation: locks, hook, builder (`doc/spec/build-environment.md`,
//! section 1, "try to build").
//!
//! An attempt runs on a thread of its own, which blocks as it pleases. It begins with nothing held
//! and ends with nothing held, whatever the outcome.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bstr::ByteSlice;
use formats::derivation::Derivation;
use formats::store_path::StorePath;
use protocol::trace::{BuildFailure, Trace};
use store::{Checked, Closure, Level, PathLocks, Progress};
use system::sync::Mutex;

use super::Engine;
use super::files;
use super::hook::{self, Asked, Hooks, Question};
use super::local;
use super::outcome::{Failure, Outcome};
use super::request::{BuildError, ClientIdentity, Mode};
use super::shared::Attempt;
use super::slots::{Slot, Slots};
use crate::settings::SessionSettings;

/// All that a derivation's builder can see: computed once, when its inputs are there.
#[derive(Default)]
pub(super) struct Inputs(Mutex<Option<Arc<BTreeSet<StorePath>>>>);

/// Everything an attempt needs to know.
pub(super) struct Job {
    pub(super) engine: Arc<Engine>,
    pub(super) session: Arc<SessionSettings>,
    pub(super) client: ClientIdentity,
    pub(super) mode: Mode,
    /// The derivation's file.
    pub(super) path: StorePath,
    pub(super) derivation: Arc<Derivation>,
    pub(super) inputs: Arc<Inputs>,
    /// What the request knows to be good, or bad.
    pub(super) checked: Arc<Checked>,
    /// Whom to ask first; `None` asks nobody.
    pub(super) hooks: Option<Arc<Hooks>>,
    /// The client's slots.
    pub(super) slots: Arc<Slots>,
}

/// Passes on what the store has to say, and the wish to stop.
pub(super) struct Listener<'a>(pub(super) &'a Attempt);

impl Progress for Listener<'_> {
    fn message(&self, level: Level, text: &str) {
        self.0.message(level, text);
    }
    fn interrupted(&self) -> bool {
        self.0.stop().is_thrown()
    }
}

impl Job {
    /// The derivation's output paths, by name.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (&str, &StorePath)> {
        self.derivation
            .outputs
            .iter()
            .map(|(name, output)| (name.as_str(), &output.path))
    }

    /// The blank-separated words of a variable of the derivation.
    pub(super) fn words(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let text = self
            .derivation
            .variable(name)
            .map(|value| value.as_bytes())
            .unwrap_or_default();
        text.split(|byte| b" \t\n\r".contains(byte))
            .filter(|word| !word.is_empty())
    }

    /// The derivation's system.
    pub(super) fn platform(&self) -> String {
        self.derivation.system.to_str_lossy().into_owned()
    }

    /// Whether the hash of every output is known beforehand.
    pub(super) fn is_fixed_output(&self) -> bool {
        self.derivation
            .outputs
            .values()
            .all(|output| !output.hash.is_empty())
    }

    /// The closure of the derivation's inputs.
    pub(super) fn input_closure(&self) -> Result<Arc<BTreeSet<StorePath>>, BuildError> {
        let mut known = self.inputs.0.lock();
        if let Some(closure) = &*known {
            return Ok(closure.clone());
        }
        let mut start = self.derivation.sources.clone();
        for (path, names) in &self.derivation.inputs {
            let input = self.engine.store.read_derivation(path)?;
            for name in names {
                let Some(output) = input.outputs.get(name) else {
                    return Err(BuildError::general(format!(
                        "derivation `{}' requires non-existent output `{name}' from input derivation `{path}'",
                        self.path
                    )));
                };
                start.insert(output.path.clone());
            }
        }
        let closure = Arc::new(
            self.engine
                .store
                .compute_closure(&start, Closure::default())?,
        );
        *known = Some(closure.clone());
        Ok(closure)
    }

    /// Remembers the failure, if failures are remembered.
    pub(super) fn cache_failure(&self) -> Result<(), BuildError> {
        if self.session.cache_failure {
            for (_, output) in self.outputs() {
                self.engine.store.register_failed_path(output)?;
            }
        }
        Ok(())
    }

    /// Whether a path is known to have failed, which is then said.
    pub(super) fn has_failed(
        &self,
        output: &StorePath,
        attempt: &Attempt,
    ) -> Result<bool, BuildError> {
        if !self.session.cache_failure || !self.engine.store.has_path_failed(output)? {
            return Ok(false);
        }
        attempt.message(
            Level::Error,
            format!("builder for `{output}' failed previously (cached)"),
        );
        attempt.trace(Trace::BuildFailed {
            derivation: self.path.as_str(),
            failure: BuildFailure::Cached,
        });
        Ok(true)
    }

    /// Makes the attempt.
    pub(super) fn run(&self, attempt: &Attempt, slot: Option<Slot>) -> Outcome {
        self.try_to_build(attempt, slot)
            .unwrap_or_else(Outcome::Error)
    }

    fn try_to_build(&self, attempt: &Attempt, slot: Option<Slot>) -> Result<Outcome, BuildError> {
        let outputs: BTreeSet<StorePath> = self.outputs().map(|(_, path)| path.clone()).collect();
        let Some(mut locks) = PathLocks::try_acquire(&self.engine.store, &outputs)? else {
            return Ok(Outcome::Locked);
        };
        // Another process may have built it meanwhile; now that we have the locks, none will.
        let valid = self.valid_outputs(attempt, &outputs)?;
        if self.mode != Mode::Check && valid.len() == outputs.len() {
            locks.set_deletion(true);
            return Ok(Outcome::Done);
        }
        let missing: BTreeSet<StorePath> = match self.mode {
            Mode::Check => outputs.clone(),
            Mode::Normal | Mode::Repair => outputs.difference(&valid).cloned().collect(),
        };
        for output in &outputs {
            if !self.engine.store.is_valid(output)? {
                files::remove(output.as_path())?;
            }
        }
        for output in &outputs {
            if self.has_failed(output, attempt)? {
                return Ok(Outcome::Failed(Failure::Cached));
            }
        }
        if let Some(outcome) = self.offload(attempt, &missing, &mut locks)? {
            return Ok(outcome);
        }
        let must_be_local = self.mode != Mode::Normal || self.will_build_locally();
        let Some(_slot) = slot.or_else(|| self.slots.take(must_be_local)) else {
            return Ok(Outcome::NeedsSlot);
        };
        let outcome = self.told("here", || local::build(self, attempt, &missing))?;
        if matches!(outcome, Outcome::Done) {
            // Whoever waits for the lock will find the outputs valid, and make no new lock file.
            locks.set_deletion(true);
        }
        Ok(outcome)
    }

    /// Makes a build, of which the administrator gets one line.
    fn told(
        &self,
        place: &str,
        build: impl FnOnce() -> Result<Outcome, BuildError>,
    ) -> Result<Outcome, BuildError> {
        let begin = Instant::now();
        let outcome = build();
        let seconds = begin.elapsed().as_secs_f64();
        let path = &self.path;
        match &outcome {
            Ok(Outcome::Done) => tracing::info!("built `{path}' {place} in {seconds:.2} s"),
            Ok(Outcome::Failed(failure)) => {
                let verdict = failure.in_words();
                tracing::info!("build of `{path}' {place} {verdict} after {seconds:.2} s");
            }
            Ok(_) => tracing::info!("hook failed at `{path}' after {seconds:.2} s"),
            Err(error) => tracing::info!(
                "build of `{path}' {place} ended after {seconds:.2} s: {}",
                error.message
            ),
        }
        outcome
    }

    /// Whether the derivation is to be built here whatever a hook says.
    pub(super) fn will_build_locally(&self) -> bool {
        let system = self.session.system.to_str_lossy();
        hook::will_build_locally(&self.derivation, &self.platform(), &system)
    }

    fn valid_outputs(
        &self,
        attempt: &Attempt,
        outputs: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, BuildError> {
        let mut valid = self.engine.store.query_valid_paths(outputs)?;
        if self.mode == Mode::Repair {
            let mut good = BTreeSet::new();
            for path in valid {
                if self
                    .engine
                    .store
                    .path_contents_good(&path, &self.checked, &Listener(attempt))?
                {
                    good.insert(path);
                }
            }
            valid = good;
        }
        Ok(valid)
    }

    /// Asks a hook, and has it build; `None` if the derivation is to be built here.
    fn offload(
        &self,
        attempt: &Attempt,
        missing: &BTreeSet<StorePath>,
        locks: &mut PathLocks,
    ) -> Result<Option<Outcome>, BuildError> {
        let Some(hooks) = &self.hooks else {
            return Ok(None);
        };
        // It is a word of the question, and the client's: blanks would make it more.
        let platform = self.platform();
        if platform.is_empty() || !platform.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(None);
        }
        let mut features = Vec::new();
        for word in self.words("requiredSystemFeatures") {
            let word = word.to_str_lossy().into_owned();
            self.engine
                .store
                .dir()
                .check_name(&word)
                .map_err(BuildError::general)?;
            features.push(word);
        }
        let question = Question {
            am_willing: self.slots.is_free(),
            platform: &platform,
            derivation: self.path.as_str(),
            features: features.iter().map(String::as_str).collect(),
        };
        match hooks.ask(attempt, &question) {
            Asked::Accepted(hook) => {
                let build = || hook::build::run(self, attempt, *hook, missing);
                let outcome = self.told("by a hook", build)?;
                locks.set_deletion(matches!(outcome, Outcome::Done));
                Ok(Some(outcome))
            }
            Asked::Postponed => Ok(Some(Outcome::Postponed)),
            Asked::Declined => Ok(None),
            Asked::Stopped => Ok(Some(Outcome::Failed(Failure::Misc))),
        }
    }
}
