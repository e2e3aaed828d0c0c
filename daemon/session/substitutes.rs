//! Queries about substitutes.

use std::collections::{BTreeMap, BTreeSet};

use formats::store_path::StorePath;
use protocol::operations::{
    HasSubstitutes, MaybeSubstitutable, QuerySubstitutablePathInfo, QuerySubstitutablePathInfos,
    QuerySubstitutablePaths, Substitutable, SubstituteURLs,
};
use store::{Level, Progress};

use super::session::{HandlerResult, Session};
use crate::building::LogSink;
use crate::request_error::RequestError;
use crate::substituter::{Asker, Conversation, Error, Questions, Substituter};

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
    ask(session, paths, Substituter::have)
}

/// Returns what is known about the substitutes of `paths`.
fn substitutable_infos(
    session: &mut Session<'_>,
    paths: &BTreeSet<StorePath>,
) -> Result<BTreeMap<StorePath, Substitutable>, RequestError> {
    let offers = ask(session, paths, Substituter::info)?;
    let infos = offers
        .into_iter()
        .map(|(path, offer)| (path, offer.info.clone()));
    Ok(infos.collect())
}

/// A question about some paths.
type Question<T> = fn(
    &Substituter,
    &mut Questions,
    Asker<'_>,
    &BTreeSet<StorePath>,
    &mut Conversation<'_>,
) -> Result<T, Error>;

/// Asks for substitutes. If that fails, the result is empty, with a warning.
fn ask<T: Default>(
    session: &mut Session<'_>,
    paths: &BTreeSet<StorePath>,
    question: Question<T>,
) -> Result<T, RequestError> {
    // What there was before an error is not used any more.
    let anew = Questions::after(session.questions.told());
    let mut questions = std::mem::replace(&mut session.questions, anew);
    let substituter = session.scheduler().substituter();
    let asker = Asker {
        settings: &session.settings,
        trusted: session.client.trusted,
        client: session.client.client(),
    };
    let warn = |text: &str| session.log.warn_once(text);
    if paths.is_empty() || !substituter.is_available(asker, warn) {
        return Ok(T::default());
    }
    let mut on_log = |words: &[u8]| session.log.helper_output(None, words);
    let answer = Conversation::new(&mut on_log, &session.cancel).and_then(|conversation| {
        let mut conversation = conversation.with_prefixed_lines();
        question(substituter, &mut questions, asker, paths, &mut conversation)
    });
    match answer {
        Ok(answer) => {
            session.questions = questions;
            Ok(answer)
        }
        Err(error) if error.is_interruption() => Err(error.into()),
        Err(error) => {
            let warning = format!("warning: {error}; going on without substitutes");
            session.log.message(Level::Error, &warning);
            Ok(T::default())
        }
    }
}
