//! The steps of a derivation's goal, up to where it can be tried
//! (`doc/spec/build-environment.md`, section 1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use formats::derivation::Derivation;
use formats::store_path::StorePath;
use protocol::trace::{BuildFailure, Trace};
use store::{Closure, Level};

use super::goals::{Build, Goal, Kind, Step};
use super::mailbox::GoalId;
use super::outcome::Failure;
use super::request::{BuildError, Mode};
use super::worker::Worker;

/// A goal whose derivation has been read.
struct Known {
    path: StorePath,
    mode: Mode,
    derivation: Arc<Derivation>,
}

impl Worker<'_> {
    /// One step of a derivation's goal; several, as long as there is nothing to wait for.
    pub(super) fn step_of_build(&mut self, id: GoalId) -> Result<(), BuildError> {
        while let Some(goal) = self.goals.get(id) {
            let go_on = match goal.step {
                Step::Start => self.get_derivation(id)?,
                Step::HaveDerivation => self.look_at_outputs(id)?,
                Step::OutputsSubstituted => self.need_inputs(id)?,
                Step::InputsRealised => self.have_inputs(id)?,
                Step::ClosureRepaired => self.closure_repaired(id)?,
                Step::Ready | Step::ReferencesValid => {
                    self.try_to_build(id)?;
                    false
                }
            };
            if !go_on || self.goals.is_waiting(id) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn set_step(&mut self, id: GoalId, step: Step) {
        if let Some(goal) = self.goals.get_mut(id) {
            goal.step = step;
        }
    }

    fn build_mut(&mut self, id: GoalId) -> Option<&mut Build> {
        match self.goals.get_mut(id)? {
            Goal {
                kind: Kind::Build(build),
                ..
            } => Some(build),
            _ => None,
        }
    }

    fn known(&self, id: GoalId) -> Option<Known> {
        let goal = self.goals.get(id)?;
        let Kind::Build(build) = &goal.kind else {
            return None;
        };
        let derivation = build.derivation.clone()?;
        Some(Known {
            path: goal.path.clone(),
            mode: build.mode,
            derivation,
        })
    }

    /// The `.drv` may have to be substituted itself.
    fn get_derivation(&mut self, id: GoalId) -> Result<bool, BuildError> {
        let Some(goal) = self.goals.get(id) else {
            return Ok(false);
        };
        let path = goal.path.clone();
        self.request.temp_roots.add(&path, &self.progress())?;
        if !self.store().is_valid(&path)? {
            let substitution = self.goals.substitution(&path, false);
            self.goals.wait_for(id, substitution);
        }
        self.set_step(id, Step::HaveDerivation);
        Ok(true)
    }

    fn look_at_outputs(&mut self, id: GoalId) -> Result<bool, BuildError> {
        let Some(goal) = self.goals.get(id) else {
            return Ok(false);
        };
        let path = goal.path.clone();
        if goal.failed > 0 {
            self.say(
                Level::Error,
                format!("cannot build missing derivation ‘{path}’"),
            );
            self.finish(id, Err(Failure::Misc));
            return Ok(false);
        }
        if self.known(id).is_none() {
            let derivation = Arc::new(self.store().read_derivation(&path)?);
            if let Some(build) = self.build_mut(id) {
                build.derivation = Some(derivation);
            }
        }
        let Some(known) = self.known(id) else {
            return Ok(false);
        };
        let outputs = known.derivation.output_paths();
        self.request.temp_roots.add_all(outputs, &self.progress())?;
        let invalid = self.invalid_outputs(id, &known)?;
        if invalid.is_empty() && known.mode == Mode::Normal {
            self.finish(id, Ok(()));
            return Ok(false);
        }
        let session = &self.request.settings;
        if session.cache_failure {
            for output in &invalid {
                if self.store().has_path_failed(output)? {
                    self.say(
                        Level::Error,
                        format!("builder for `{output}' failed previously (cached)"),
                    );
                    let trace = Trace::BuildFailed {
                        derivation: path.as_str(),
                        failure: BuildFailure::Cached,
                    };
                    self.request.log.trace(&trace.to_string());
                    self.finish(id, Err(Failure::Cached));
                    return Ok(false);
                }
            }
        }
        let allowed = known
            .derivation
            .variable("allowSubstitutes")
            .is_none_or(|value| value == "1");
        if session.use_substitutes && allowed {
            for output in &invalid {
                let substitution = self.goals.substitution(output, known.mode == Mode::Repair);
                self.goals.wait_for(id, substitution);
            }
        }
        self.set_step(id, Step::OutputsSubstituted);
        Ok(true)
    }

    /// The wanted outputs that are not valid or, when repairing, not as they were registered.
    fn invalid_outputs(
        &self,
        id: GoalId,
        known: &Known,
    ) -> Result<BTreeSet<StorePath>, BuildError> {
        let wanted = match self.goals.get(id).map(|goal| &goal.kind) {
            Some(Kind::Build(build)) => build.wanted.as_ref(),
            _ => None,
        };
        let outputs = known.derivation.outputs.iter();
        let outputs: BTreeSet<StorePath> = outputs
            .filter(|(name, _)| wanted.is_none_or(|wanted| wanted.contains(*name)))
            .map(|(_, output)| output.path.clone())
            .collect();
        let valid = self.store().query_valid_paths(&outputs)?;
        let mut invalid: BTreeSet<StorePath> = outputs.difference(&valid).cloned().collect();
        if known.mode == Mode::Repair {
            for path in valid {
                if !self.path_contents_good(&path)? {
                    invalid.insert(path);
                }
            }
        }
        Ok(invalid)
    }

    fn need_inputs(&mut self, id: GoalId) -> Result<bool, BuildError> {
        let Some(known) = self.known(id) else {
            return Ok(false);
        };
        let path = &known.path;
        let Some(goal) = self.goals.get_mut(id) else {
            return Ok(false);
        };
        let really_failed = goal.failed > goal.no_substitutes + goal.incomplete;
        let incomplete = goal.incomplete > 0;
        goal.forget_failures();
        if really_failed && !self.request.settings.fallback {
            return Err(BuildError::general(format!(
                "some substitutes for the outputs of derivation `{path}' failed (usually happens \
                 due to networking issues); try `--fallback' to build derivation from source "
            )));
        }
        if let Some(build) = self.build_mut(id) {
            // With what the substitutes refer to built here, they can be used after all.
            build.retry_substitution = incomplete && !build.retried;
            if std::mem::take(&mut build.restart) {
                self.set_step(id, Step::HaveDerivation);
                return Ok(true);
            }
        }
        let invalid = self.invalid_outputs(id, &known)?;
        match (known.mode, invalid.is_empty()) {
            (Mode::Normal, true) => {
                self.finish(id, Ok(()));
                return Ok(false);
            }
            (Mode::Repair, true) => {
                self.repair_closure(id, &known)?;
                return Ok(true);
            }
            (Mode::Check, false) => {
                return Err(BuildError::general(format!(
                    "`{path}' is missing outputs; build it normally before using `--check'"
                )));
            }
            _ => {}
        }
        if let Some(build) = self.build_mut(id) {
            build.wanted = None;
        }
        self.wait_for_inputs(id, &known)?;
        self.set_step(id, Step::InputsRealised);
        Ok(true)
    }

    fn wait_for_inputs(&mut self, id: GoalId, known: &Known) -> Result<(), BuildError> {
        let derivation = &known.derivation;
        let inputs = derivation.sources.iter().chain(derivation.inputs.keys());
        self.request.temp_roots.add_all(inputs, &self.progress())?;
        let mode = if known.mode == Mode::Repair {
            Mode::Repair
        } else {
            Mode::Normal
        };
        for (input, outputs) in &derivation.inputs {
            let goal = self.goals.build(input, Some(outputs.clone()), mode);
            self.goals.wait_for(id, goal);
        }
        let valid = self.store().query_valid_paths(&derivation.sources)?;
        for source in derivation.sources.difference(&valid) {
            let goal = self.goals.substitution(source, false);
            self.goals.wait_for(id, goal);
        }
        Ok(())
    }

    fn have_inputs(&mut self, id: GoalId) -> Result<bool, BuildError> {
        let Some(goal) = self.goals.get(id) else {
            return Ok(false);
        };
        let (path, failed) = (goal.path.clone(), goal.failed);
        if failed > 0 {
            self.say(
                Level::Error,
                format!(
                    "cannot build derivation `{path}': {failed} dependencies couldn't be built"
                ),
            );
            self.finish(id, Err(Failure::Dependency));
            return Ok(false);
        }
        let mut retry = false;
        if let Some(build) = self.build_mut(id) {
            retry = std::mem::take(&mut build.retry_substitution);
            build.retried |= retry;
        }
        self.set_step(
            id,
            if retry {
                Step::HaveDerivation
            } else {
                Step::Ready
            },
        );
        Ok(true)
    }

    /// The outputs are good; what they refer to may not be.
    fn repair_closure(&mut self, id: GoalId, known: &Known) -> Result<(), BuildError> {
        let outputs: BTreeSet<StorePath> = known.derivation.output_paths().cloned().collect();
        let closure = self.store().compute_closure(&outputs, Closure::default())?;
        let with_builders = Closure {
            include_outputs: true,
            ..Closure::default()
        };
        let start: BTreeSet<StorePath> = [known.path.clone()].into();
        let mut builders: BTreeMap<StorePath, StorePath> = BTreeMap::new();
        for path in self.store().compute_closure(&start, with_builders)? {
            if path.is_derivation() {
                for output in self.store().read_derivation(&path)?.output_paths() {
                    builders.insert(output.clone(), path.clone());
                }
            }
        }
        for path in closure.difference(&outputs) {
            if self.path_contents_good(path)? {
                continue;
            }
            self.say(
                Level::Error,
                format!(
                    "found corrupted or missing path `{path}' in the output closure of `{}'",
                    known.path
                ),
            );
            let goal = match builders.get(path) {
                Some(builder) => self.goals.build(builder, None, Mode::Repair),
                None => self.goals.substitution(path, true),
            };
            self.goals.wait_for(id, goal);
        }
        self.set_step(id, Step::ClosureRepaired);
        Ok(())
    }

    fn closure_repaired(&mut self, id: GoalId) -> Result<bool, BuildError> {
        let Some(goal) = self.goals.get(id) else {
            return Ok(false);
        };
        if goal.failed > 0 {
            let text = format!(
                "some paths in the output closure of derivation `{}' could not be repaired",
                goal.path
            );
            return Err(BuildError::general(text));
        }
        self.finish(id, Ok(()));
        Ok(false)
    }
}
