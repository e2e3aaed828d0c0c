//! The steps of an item's goal, up to the attempt (`doc/spec/build-environment.md`, section 1).
//!
//! There are two steps: find out whether there is a substitute for the item, and wait for its
//! references. Then it can be fetched.

use std::collections::BTreeSet;
use std::sync::Arc;

use formats::store_path::StorePath;

use super::goal::{SubstitutionId, SubstitutionState};
use super::outcome::Failure;
use super::planner::{Advance, Planner};
use crate::request_error::RequestError;
use crate::substituter::{Asker, Conversation, Error, Offer, Origin};

/// Takes steps until the goal waits for others, can be attempted, or has ended.
pub(super) fn advance(
    planner: &mut Planner<'_>,
    id: SubstitutionId,
) -> Result<Advance<Arc<Offer>>, RequestError> {
    let Some(goal) = planner.goals.substitution(id) else {
        return Ok(Advance::Waiting);
    };
    let offer = match &goal.state {
        SubstitutionState::Found(offer) => offer.clone(),
        SubstitutionState::New => {
            let (path, repair) = (goal.path.clone(), goal.repair);
            let roots = &planner.request.temp_roots;
            roots.add(&path, planner.progress())?;
            if !repair && planner.store().is_valid(&path)? {
                return Ok(Advance::Ended(Ok(())));
            }
            let Some(offer) = query(planner, &path)? else {
                return Ok(Advance::Ended(Err(Failure::NoSubstitute)));
            };
            planner.count_goals(1 + offer.info.references.len())?;
            wait_for_references(planner, id, &path, &offer);
            offer
        }
    };
    if planner.goals.is_waiting(id) {
        return Ok(Advance::Waiting);
    }
    let failed = planner.goals.failed(id);
    if failed.total == 0 {
        return Ok(Advance::Ready(offer));
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
    offer: &Arc<Offer>,
) {
    let goals = &mut planner.goals;
    for reference in offer.info.references.iter().filter(|other| *other != path) {
        let goal = goals.add_substitution(reference, false);
        goals.wait_for(id, goal);
    }
    let may_be_prefetched = matches!(offer.origin, Origin::Own(_)) && goals.is_waiting(id);
    if let Some(goal) = goals.substitution_mut(id) {
        goal.state = SubstitutionState::Found(offer.clone());
        if may_be_prefetched && !goal.repair {
            goals.allow_prefetch(id);
        }
    }
}

/// The substitute for an item. If it can't be asked for, the request continues without substitutes,
/// after a warning.
fn query(planner: &mut Planner<'_>, path: &StorePath) -> Result<Option<Arc<Offer>>, RequestError> {
    if planner.unavailable.remove(path) {
        return Ok(None);
    }
    if let Some(offer) = planner.offers.get(path) {
        return Ok(Some(offer.clone()));
    }
    let request = planner.request;
    let asker = Asker {
        settings: &request.settings,
        trusted: request.client.trusted,
        client: request.client.client(),
    };
    let warn = |text: &str| request.log.warn_once(text);
    if planner.query_failed || !planner.engine.substituter.is_available(asker, warn) {
        planner.goals.ask_nobody();
        return Ok(None);
    }
    match ask_for_all(planner, asker) {
        Ok(()) => {
            planner.goals.are_answered();
            planner.unavailable.remove(path);
            Ok(planner.offers.get(path).cloned())
        }
        Err(Failed::Question(error)) if !error.is_interruption() => {
            planner.query_failed = true;
            planner.error(format!("warning: {error}; going on without substitutes"));
            Ok(None)
        }
        Err(Failed::Question(error)) => Err(error.into()),
        Err(Failed::Request(error)) => Err(error),
    }
}

/// Why there is no answer.
enum Failed {
    Question(Error),
    Request(RequestError),
}

/// Asks for everything that the request needs and nobody has asked for yet, with what that refers to:
/// one question, not one for each item.
fn ask_for_all(planner: &mut Planner<'_>, asker: Asker<'_>) -> Result<(), Failed> {
    let (engine, request) = (planner.engine, planner.request);
    let offers = &planner.offers;
    let mut wanted = BTreeSet::new();
    let mut maybe_valid = BTreeSet::new();
    for goal in planner.goals.new_substitutions() {
        if !offers.contains_key(&goal.path) {
            let set = if goal.repair {
                &mut wanted
            } else {
                &mut maybe_valid
            };
            set.insert(goal.path.clone());
        }
    }
    let valid = engine.store.query_valid_paths(&maybe_valid);
    let valid = valid.map_err(|error| Failed::Request(error.into()))?;
    wanted.extend(maybe_valid.into_iter().filter(|path| !valid.contains(path)));
    let mut broken = None;
    let mut follow = |path: &StorePath| {
        !offers.contains_key(path)
            && !engine.store.is_valid(path).unwrap_or_else(|error| {
                broken = Some(error);
                true
            })
    };
    let mut log = |text: &[u8]| request.log.helper_output(None, text);
    let found = Conversation::new(&mut log, &request.cancel).and_then(|conversation| {
        let mut conversation = conversation.with_prefixed_lines();
        engine.substituter.closure(
            &mut planner.questions,
            asker,
            wanted.clone(),
            &mut follow,
            &mut conversation,
        )
    });
    let found = found.map_err(Failed::Question)?;
    if let Some(error) = broken {
        return Err(Failed::Request(error.into()));
    }
    let size = found.values().map(|offer| offer.size_in_memory()).sum();
    planner.take_memory(size).map_err(Failed::Request)?;
    let absent = wanted.into_iter().filter(|path| !found.contains_key(path));
    planner.unavailable.extend(absent);
    planner.offers.extend(found);
    Ok(())
}
