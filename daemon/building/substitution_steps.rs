//! The steps of an item's goal, up to the attempt (`doc/spec/build-environment.md`, section 1).
//!
//! There are two steps: find out whether there is a substitute for the item, and wait for its
//! references. Then it can be fetched.

use std::sync::Arc;

use bstr::{BStr, ByteSlice};
use formats::store_path::StorePath;
use protocol::operations::Substitutable;

use super::goal::{SubstitutionId, SubstitutionState};
use super::outcome::Failure;
use super::planner::{Advance, Planner};
use crate::request_error::RequestError;
use crate::substituter::{Agent, AgentMode, Conversation, Error};

/// Takes steps until the goal waits for others, can be attempted, or has ended.
pub(super) fn advance(
    planner: &mut Planner<'_>,
    id: SubstitutionId,
) -> Result<Advance<Arc<Substitutable>>, RequestError> {
    let Some(goal) = planner.goals.substitution(id) else {
        return Ok(Advance::Waiting);
    };
    let info = match &goal.state {
        SubstitutionState::Found(info) => info.clone(),
        SubstitutionState::New => {
            let (path, repair) = (goal.path.clone(), goal.repair);
            let roots = &planner.request.temp_roots;
            roots.add(&path, planner.progress())?;
            if !repair && planner.store().is_valid(&path)? {
                return Ok(Advance::Ended(Ok(())));
            }
            let Some(info) = query(planner, &path)? else {
                return Ok(Advance::Ended(Err(Failure::NoSubstitute)));
            };
            planner.count_goals(1 + info.references.len())?;
            let info = Arc::new(info);
            wait_for_references(planner, id, &path, &info);
            info
        }
    };
    if planner.goals.is_waiting(id) {
        return Ok(Advance::Waiting);
    }
    let failed = planner.goals.failed(id);
    if failed.total == 0 {
        return Ok(Advance::Ready(info));
    }
    let is_lack = failed.no_substitute > 0 || failed.incomplete_closure > 0;
    Ok(Advance::Ended(Err(match is_lack {
        true => Failure::IncompleteClosure,
        false => Failure::Misc,
    })))
}

/// The references of an item have to be valid before it.
fn wait_for_references(
    planner: &mut Planner<'_>,
    id: SubstitutionId,
    path: &StorePath,
    info: &Arc<Substitutable>,
) {
    let goals = &mut planner.goals;
    for reference in info.references.iter().filter(|other| *other != path) {
        let goal = goals.add_substitution(reference, false);
        goals.wait_for(id, goal);
    }
    if let Some(goal) = goals.substitution_mut(id) {
        goal.state = SubstitutionState::Found(info.clone());
    }
}

/// Asks the request's agent for a substitute. If the agent fails, the request continues without
/// substitutes, after a warning.
fn query(
    planner: &mut Planner<'_>,
    path: &StorePath,
) -> Result<Option<Substitutable>, RequestError> {
    let request = planner.request;
    let guix = &planner.engine.settings.directories.guix;
    if planner.query_failed || !request.settings.use_substitutes || !Agent::available(guix) {
        return Ok(None);
    }
    let options = request.settings.pack().map_err(RequestError::new)?;
    match ask(planner, path, options.as_bstr()) {
        Ok(found) => Ok(found),
        Err(Error::Interrupted) => Err(Error::Interrupted.into()),
        Err(error) => {
            planner.query_failed = true;
            planner.error(format!("warning: {error}; going on without substitutes"));
            Ok(None)
        }
    }
}

/// Asks the agent, which is started when first needed.
fn ask(
    planner: &mut Planner<'_>,
    path: &StorePath,
    options: &BStr,
) -> Result<Option<Substitutable>, Error> {
    let (engine, request) = (planner.engine, planner.request);
    let guix = &engine.settings.directories.guix;
    let mut agent = match planner.query_agent.take() {
        Some(agent) => agent,
        None => Agent::start(&engine.spawner, guix, AgentMode::Query, options)?,
    };
    let mut log = |text: &[u8]| request.log.helper_output(None, text);
    let mut conversation = Conversation::new(&mut log, &request.cancel)?.with_prefixed_lines();
    let paths = [path.clone()].into();
    let mut found = agent.info(&paths, engine.store.dir(), &mut conversation)?;
    drop(conversation);
    planner.query_agent = Some(agent);
    Ok(found.remove(path))
}
