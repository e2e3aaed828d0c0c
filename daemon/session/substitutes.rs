//! Queries about substitutes, which `guix substitute` answers if it is installed.

use std::collections::{BTreeMap, BTreeSet};

use bstr::{BStr, ByteSlice};
use formats::store_path::StorePath;
use protocol::operations::{
    HasSubstitutes, MaybeSubstitutable, QuerySubstitutablePathInfo, QuerySubstitutablePathInfos,
    QuerySubstitutablePaths, Substitutable, SubstituteURLs,
};
use store::{Level, Progress};

use super::session::{HandlerResult, Session};
use crate::building::LogSink;
use crate::request_error::RequestError;
use crate::substituter::{Agent, AgentMode, Conversation, Error};

pub fn has_substitutes(session: &mut Session<'_>, request: HasSubstitutes) -> HandlerResult {
    session.run_interruptibly(request, |session, request| {
        let paths = [request.path.clone()].into();
        Ok(substitutable(session, &paths)?.contains(&request.path))
    })
}

pub fn query_substitutable_paths(
    session: &mut Session<'_>,
    request: QuerySubstitutablePaths,
) -> HandlerResult {
    session.run_interruptibly(request, |session, request| {
        substitutable(session, &request.paths)
    })
}

pub fn query_substitutable_path_infos(
    session: &mut Session<'_>,
    request: QuerySubstitutablePathInfos,
) -> HandlerResult {
    session.run_interruptibly(request, |session, request| {
        let infos = substitutable_infos(session, &request.paths)?;
        Ok(infos.into_iter().collect())
    })
}

pub fn query_substitutable_path_info(
    session: &mut Session<'_>,
    request: QuerySubstitutablePathInfo,
) -> HandlerResult {
    session.run_interruptibly(request, |session, request| {
        let path = session.store.dir().parse(&request.path)?;
        let mut infos = substitutable_infos(session, &[path.clone()].into())?;
        Ok(MaybeSubstitutable(infos.remove(&path)))
    })
}

pub fn substitute_urls(session: &mut Session<'_>, request: SubstituteURLs) -> HandlerResult {
    session.answer(request, |session, _| Ok(session.settings.substitute_urls()))
}

/// Returns which of `paths` have substitutes.
fn substitutable(
    session: &mut Session<'_>,
    paths: &BTreeSet<StorePath>,
) -> Result<BTreeSet<StorePath>, RequestError> {
    let dir = session.store.dir().clone();
    ask(session, paths, |agent, conversation| {
        agent.have(paths, &dir, conversation)
    })
}

/// Returns what is known about the substitutes of `paths`.
fn substitutable_infos(
    session: &mut Session<'_>,
    paths: &BTreeSet<StorePath>,
) -> Result<BTreeMap<StorePath, Substitutable>, RequestError> {
    let dir = session.store.dir().clone();
    ask(session, paths, |agent, conversation| {
        agent.info(paths, &dir, conversation)
    })
}

/// Asks the agent for substitutes. If it fails, the result is empty, with a warning; it is not
/// asked again, because its next reply can't be found in its output.
fn ask<T: Default>(
    session: &mut Session<'_>,
    paths: &BTreeSet<StorePath>,
    question: impl FnOnce(&mut Agent, &mut Conversation<'_>) -> Result<T, Error>,
) -> Result<T, RequestError> {
    let guix = &session.daemon.settings.directories.guix;
    if paths.is_empty() || !session.settings.use_substitutes || !Agent::available(guix) {
        return Ok(T::default());
    }
    let options = session.settings.pack().map_err(RequestError::new)?;
    match ask_agent(session, options.as_bstr(), question) {
        Err(Error::Interrupted) => Err(Error::Interrupted.into()),
        Err(error) => {
            let warning = format!("warning: {error}; going on without substitutes");
            session.log.message(Level::Error, &warning);
            Ok(T::default())
        }
        Ok(answer) => Ok(answer),
    }
}

/// Asks the agent, which is started when first needed.
fn ask_agent<T>(
    session: &mut Session<'_>,
    options: &BStr,
    question: impl FnOnce(&mut Agent, &mut Conversation<'_>) -> Result<T, Error>,
) -> Result<T, Error> {
    let guix = &session.daemon.settings.directories.guix;
    let mut agent = match session.substituter.take() {
        Some(agent) => agent,
        None => Agent::start(
            session.scheduler().spawner(),
            guix,
            AgentMode::Query,
            options,
        )?,
    };
    let mut on_log = |words: &[u8]| session.log.helper_output(None, words);
    let mut conversation = Conversation::new(&mut on_log, &session.cancel)?.with_prefixed_lines();
    let answer = question(&mut agent, &mut conversation)?;
    drop(conversation);
    session.substituter = Some(agent);
    Ok(answer)
}
