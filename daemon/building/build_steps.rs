//! The steps of a derivation's goal, up to the attempt (`doc/spec/build-environment.md`, section 1).
//!
//! ```text
//! New ─▶ DerivationSubstituted ─▶ CheckOutputs ─▶ OutputsSubstituted ─▶ InputsRealised ─▶ Attempt
//!                                      ▲                │     │                │
//!                                      ├── more wanted ─┘     │                │
//!                                      ├── try substitutes once more ──────────┘
//!                                                             └─▶ ClosureRepaired (when repairing)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use formats::derivation::Derivation;
use formats::store_path::StorePath;
use protocol::operations::BuildMode;
use protocol::trace::{BuildFailure, Trace};
use store::Closure;

use super::goal::{BuildId, BuildState, BuildStep, GoalId, GoalResult};
use super::outcome::Failure;
use super::planner::{Advance, Planner};
use crate::request_error::RequestError;

/// The result of a step.
enum Next {
    State(BuildState),
    End(GoalResult),
}

/// A goal whose derivation has been read.
struct Known {
    id: BuildId,
    path: StorePath,
    mode: BuildMode,
    derivation: Arc<Derivation>,
}

impl Known {
    /// The same derivation, with a different next step.
    fn next(&self, step: BuildStep) -> Next {
        Next::State(BuildState::Read(self.derivation.clone(), step))
    }
}

/// Takes steps until the goal waits for others, can be attempted, or has ended.
pub(super) fn advance(
    planner: &mut Planner<'_>,
    id: BuildId,
) -> Result<Advance<Arc<Derivation>>, RequestError> {
    while let Some(goal) = planner.goals.build(id) {
        let path = goal.path.clone();
        let next = match &goal.state {
            BuildState::New => need_derivation(planner, id, &path)?,
            BuildState::DerivationSubstituted => read_derivation(planner, id, &path)?,
            BuildState::Read(derivation, step) => {
                let (step, known) = (
                    *step,
                    Known {
                        id,
                        path,
                        mode: goal.mode,
                        derivation: derivation.clone(),
                    },
                );
                match step {
                    BuildStep::CheckOutputs => check_outputs(planner, &known)?,
                    BuildStep::OutputsSubstituted => need_inputs(planner, &known)?,
                    BuildStep::InputsRealised => have_inputs(planner, &known),
                    BuildStep::ClosureRepaired => closure_repaired(planner, &known)?,
                    BuildStep::Attempt => return Ok(Advance::Ready(known.derivation)),
                }
            }
        };
        match next {
            Next::End(result) => return Ok(Advance::Ended(result)),
            Next::State(state) => {
                if let Some(goal) = planner.goals.build_mut(id) {
                    goal.state = state;
                }
            }
        }
        if planner.goals.is_waiting(id) {
            break;
        }
    }
    Ok(Advance::Waiting)
}

/// The `.drv` may itself have to be substituted.
fn need_derivation(
    planner: &mut Planner<'_>,
    id: BuildId,
    path: &StorePath,
) -> Result<Next, RequestError> {
    let roots = &planner.request.temp_roots;
    roots.add(path, planner.progress())?;
    if !planner.store().is_valid(path)? {
        let substitution = planner.goals.add_substitution(path, false);
        planner.goals.wait_for(id, substitution);
    }
    Ok(Next::State(BuildState::DerivationSubstituted))
}

fn read_derivation(
    planner: &mut Planner<'_>,
    id: BuildId,
    path: &StorePath,
) -> Result<Next, RequestError> {
    if planner.goals.failed(id).total > 0 {
        planner.error(format!("cannot build missing derivation ‘{path}’"));
        return Ok(Next::End(Err(Failure::Misc)));
    }
    let derivation = planner.read_derivation(path)?;
    planner.weigh(id, path, &derivation);
    let state = BuildState::Read(derivation, BuildStep::CheckOutputs);
    Ok(Next::State(state))
}

fn check_outputs(planner: &mut Planner<'_>, known: &Known) -> Result<Next, RequestError> {
    let request = planner.request;
    let outputs = known.derivation.output_paths();
    request.temp_roots.add_all(outputs, planner.progress())?;
    let invalid = invalid_outputs(planner, known)?;
    if invalid.is_empty() && known.mode == BuildMode::Normal {
        return Ok(Next::End(Ok(())));
    }
    if request.settings.cache_failure {
        for output in &invalid {
            if planner.store().has_path_failed(output)? {
                planner.error(format!("builder for `{output}' failed previously (cached)"));
                let trace = Trace::BuildFailed {
                    derivation: known.path.as_str(),
                    failure: BuildFailure::Cached,
                };
                request.log.trace(&trace.to_string());
                return Ok(Next::End(Err(Failure::Cached)));
            }
        }
    }
    let allowed = known
        .derivation
        .variable("allowSubstitutes")
        .is_none_or(|value| value == "1");
    if request.settings.use_substitutes && allowed {
        for output in &invalid {
            let repair = known.mode == BuildMode::Repair;
            let substitution = planner.goals.add_substitution(output, repair);
            planner.goals.wait_for(known.id, substitution);
        }
    }
    Ok(known.next(BuildStep::OutputsSubstituted))
}

/// The wanted outputs that are not valid or, when repairing, do not have their registered contents.
fn invalid_outputs(
    planner: &Planner<'_>,
    known: &Known,
) -> Result<BTreeSet<StorePath>, RequestError> {
    let goal = planner.goals.build(known.id);
    let wanted = goal.and_then(|goal| goal.wanted.as_ref());
    let outputs = known.derivation.outputs.iter();
    let outputs: BTreeSet<StorePath> = outputs
        .filter(|(name, _)| wanted.is_none_or(|wanted| wanted.contains(*name)))
        .map(|(_, output)| output.path.clone())
        .collect();
    let valid = planner.store().query_valid_paths(&outputs)?;
    let mut invalid: BTreeSet<StorePath> = outputs.difference(&valid).cloned().collect();
    if known.mode == BuildMode::Repair {
        for path in valid {
            if !planner.contents_good(&path)? {
                invalid.insert(path);
            }
        }
    }
    Ok(invalid)
}

fn need_inputs(planner: &mut Planner<'_>, known: &Known) -> Result<Next, RequestError> {
    let (id, path) = (known.id, &known.path);
    let failed = planner.goals.take_failed(id);
    let really_failed = failed.total > failed.no_substitute + failed.incomplete_closure;
    if really_failed && !planner.request.settings.fallback {
        return Err(RequestError::new(format!(
            "some substitutes for the outputs of derivation `{path}' failed (usually happens \
             due to networking issues); try `--fallback' to build derivation from source "
        )));
    }
    if let Some(goal) = planner.goals.build_mut(id) {
        // Once the references of the substitutes are built here, they can be used after all.
        goal.retry_substitutes = failed.incomplete_closure > 0 && !goal.substitutes_retried;
        if std::mem::take(&mut goal.more_wanted) {
            return Ok(known.next(BuildStep::CheckOutputs));
        }
    }
    let invalid = invalid_outputs(planner, known)?;
    match (known.mode, invalid.is_empty()) {
        (BuildMode::Normal, true) => return Ok(Next::End(Ok(()))),
        (BuildMode::Repair, true) => {
            repair_closure(planner, known)?;
            return Ok(known.next(BuildStep::ClosureRepaired));
        }
        (BuildMode::Check, false) => {
            return Err(RequestError::new(format!(
                "`{path}' is missing outputs; build it normally before using `--check'"
            )));
        }
        _ => {}
    }
    if let Some(goal) = planner.goals.build_mut(id) {
        // A build makes all outputs.
        goal.wanted = None;
    }
    wait_for_inputs(planner, known)?;
    Ok(known.next(BuildStep::InputsRealised))
}

fn wait_for_inputs(planner: &mut Planner<'_>, known: &Known) -> Result<(), RequestError> {
    let derivation = &known.derivation;
    let inputs = derivation.sources.iter().chain(derivation.inputs.keys());
    let roots = &planner.request.temp_roots;
    roots.add_all(inputs, planner.progress())?;
    let mode = match known.mode {
        BuildMode::Repair => BuildMode::Repair,
        BuildMode::Normal | BuildMode::Check => BuildMode::Normal,
    };
    for (input, outputs) in &derivation.inputs {
        let goal = planner.goals.add_build(input, Some(outputs.clone()), mode);
        planner.goals.wait_for(known.id, goal);
    }
    let valid = planner.store().query_valid_paths(&derivation.sources)?;
    for source in derivation.sources.difference(&valid) {
        let goal = planner.goals.add_substitution(source, false);
        planner.goals.wait_for(known.id, goal);
    }
    Ok(())
}

fn have_inputs(planner: &mut Planner<'_>, known: &Known) -> Next {
    let failed = planner.goals.failed(known.id).total;
    if failed > 0 {
        planner.error(format!(
            "cannot build derivation `{}': {failed} dependencies couldn't be built",
            known.path
        ));
        return Next::End(Err(Failure::Dependency));
    }
    let retry = planner.goals.build_mut(known.id).is_some_and(|goal| {
        let retry = std::mem::take(&mut goal.retry_substitutes);
        goal.substitutes_retried |= retry;
        retry
    });
    known.next(match retry {
        true => BuildStep::CheckOutputs,
        false => BuildStep::Attempt,
    })
}

/// The outputs are intact; items in their closure may not be.
fn repair_closure(planner: &mut Planner<'_>, known: &Known) -> Result<(), RequestError> {
    let store = planner.store();
    let outputs: BTreeSet<StorePath> = known.derivation.output_paths().cloned().collect();
    let closure = store.compute_closure(&outputs, Closure::default())?;
    let with_builders = Closure {
        include_outputs: true,
        ..Closure::default()
    };
    let start: BTreeSet<StorePath> = [known.path.clone()].into();
    let mut builders: BTreeMap<StorePath, StorePath> = BTreeMap::new();
    for path in store.compute_closure(&start, with_builders)? {
        if path.is_derivation() {
            for output in store.read_derivation(&path)?.output_paths() {
                builders.insert(output.clone(), path.clone());
            }
        }
    }
    for path in closure.difference(&outputs) {
        if planner.contents_good(path)? {
            continue;
        }
        planner.error(format!(
            "found corrupted or missing path `{path}' in the output closure of `{}'",
            known.path
        ));
        let goals = &mut planner.goals;
        let goal: GoalId = match builders.get(path) {
            Some(builder) => goals.add_build(builder, None, BuildMode::Repair).into(),
            None => goals.add_substitution(path, true).into(),
        };
        goals.wait_for(known.id, goal);
    }
    Ok(())
}

fn closure_repaired(planner: &Planner<'_>, known: &Known) -> Result<Next, RequestError> {
    if planner.goals.failed(known.id).total > 0 {
        return Err(RequestError::new(format!(
            "some paths in the output closure of derivation `{}' could not be repaired",
            known.path
        )));
    }
    Ok(Next::End(Ok(())))
}
