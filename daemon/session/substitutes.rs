//! Questions about substitutes, which `guix substitute` answers where there is one.

use std::collections::{BTreeMap, BTreeSet};

use bstr::ByteSlice;
use formats::store_path::StorePath;
use protocol::operations::{
    HasSubstitutes, MaybeSubstitutable, QuerySubstitutablePathInfo, QuerySubstitutablePathInfos,
    QuerySubstitutablePaths, Substitutable, SubstituteURLs,
};

use super::failure::Failure;
use super::{Outcome, Session};
use crate::building::LogSink;
use crate::substitute::{Agent, Error, Info, Mode, Talk};

impl Session<'_> {
    pub(super) fn has_substitutes(&mut self, request: HasSubstitutes) -> Outcome {
        self.labour(request, |session, request| {
            let paths = [request.path.clone()].into();
            Ok(session.substitutable(&paths)?.contains(&request.path))
        })
    }

    pub(super) fn query_substitutable_paths(
        &mut self,
        request: QuerySubstitutablePaths,
    ) -> Outcome {
        self.labour(request, |session, request| {
            session.substitutable(&request.paths)
        })
    }

    pub(super) fn query_substitutable_path_infos(
        &mut self,
        request: QuerySubstitutablePathInfos,
    ) -> Outcome {
        self.labour(request, |session, request| {
            let infos = session.substitutable_infos(&request.paths)?;
            Ok(infos
                .into_iter()
                .map(|(path, info)| (path, on_wire(info)))
                .collect())
        })
    }

    pub(super) fn query_substitutable_path_info(
        &mut self,
        request: QuerySubstitutablePathInfo,
    ) -> Outcome {
        self.labour(request, |session, request| {
            let path = session.store.dir().parse(&request.path)?;
            let mut infos = session.substitutable_infos(&[path.clone()].into())?;
            Ok(MaybeSubstitutable(infos.remove(&path).map(on_wire)))
        })
    }

    pub(super) fn substitute_urls(&mut self, request: SubstituteURLs) -> Outcome {
        self.answer(request, |session, _| Ok(session.settings.substitute_urls()))
    }

    /// Which of `paths` can be had.
    fn substitutable(
        &mut self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, Failure> {
        let dir = self.store.dir().clone();
        self.ask(paths, |agent, talk| agent.have(paths, &dir, talk))
    }

    /// What is known of those of `paths` that can be had.
    fn substitutable_infos(
        &mut self,
        paths: &BTreeSet<StorePath>,
    ) -> Result<BTreeMap<StorePath, Info>, Failure> {
        let dir = self.store.dir().clone();
        self.ask(paths, |agent, talk| agent.info(paths, &dir, talk))
    }

    /// Asks the agent, which is started for the first question. One that failed is not asked
    /// again: nobody knows where its next answer begins.
    fn ask<T: Default>(
        &mut self,
        paths: &BTreeSet<StorePath>,
        question: impl FnOnce(&mut Agent, &mut Talk<'_>) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        let guix = &self.shared.settings.directories.guix;
        if paths.is_empty() || !self.settings.use_substitutes || !Agent::available(guix) {
            return Ok(T::default());
        }
        let mut agent = match self.substituter.take() {
            Some(agent) => agent,
            None => {
                let options = self
                    .settings
                    .pack()
                    .map_err(|error| Failure::new(error.to_string()))?;
                Agent::start(
                    self.scheduler().spawner(),
                    guix,
                    Mode::Query,
                    options.as_bstr(),
                )?
            }
        };
        let mut hear = |words: &[u8]| self.log.chatter(None, words);
        let mut talk = Talk::new(&mut hear, &self.cancel)?.by_line();
        let answer = question(&mut agent, &mut talk)?;
        drop(talk);
        self.substituter = Some(agent);
        Ok(answer)
    }
}

fn on_wire(info: Info) -> Substitutable {
    Substitutable {
        deriver: info.deriver,
        references: info.references,
        download_size: info.download_size,
        nar_size: info.nar_size,
    }
}
