//! Who answers questions about substitutes: the daemon, or Guix's program.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use authority::Keys;
use bstr::ByteSlice;
use formats::store_path::{StoreDir, StorePath};
use protocol::operations::Substitutable;

use super::agent::{Agent, AgentMode, StartAgent};
use super::asker::{Asker, Questions};
use super::conversation::Conversation;
use super::error::Error;
use super::offer::{Offer, Offers, Origin};
use super::own::OwnSubstituter;
use crate::fetcher::Fetcher;
use crate::settings::Settings;
use crate::spawner::Spawner;

/// Finds and fetches substitutes for the whole daemon.
pub struct Substituter {
    fetcher: Fetcher,
    start_agent: Box<StartAgent>,
    store: StoreDir,
    /// If the fetcher is ours.
    own: OwnSubstituter,
}

impl Substituter {
    /// A substituter that starts its programs when they are needed; Guix's by `start_agent`.
    pub fn new(
        settings: &Settings,
        keys: Arc<Keys>,
        spawner: &Spawner,
        start_agent: Box<StartAgent>,
    ) -> Substituter {
        let own = OwnSubstituter::new(settings, keys, spawner.clone());
        Substituter {
            fetcher: settings.fetcher.clone(),
            start_agent,
            store: settings.directories.store.clone(),
            own,
        }
    }

    /// Ours.
    pub fn own(&self) -> &OwnSubstituter {
        &self.own
    }

    /// Starts Guix's, which can write to `destination`, and to its cache.
    pub fn start_agent(
        &self,
        mode: AgentMode,
        options: &[u8],
        destination: Option<&Path>,
    ) -> Result<Agent, Error> {
        // Both have it in the same place. If this fails, the program will say so.
        let cache = self.own.cache();
        let _ = std::fs::create_dir_all(cache);
        let writable = destination.into_iter().chain([cache]);
        Agent::start(
            &self.start_agent,
            self.fetcher.program(),
            mode,
            options.as_bstr(),
            writable.map(Path::to_owned).collect(),
        )
    }

    /// Whether there can be substitutes for the asker. If that takes a program that is not there,
    /// `warn` is called.
    pub fn is_available(&self, asker: Asker<'_>, warn: impl FnOnce(&str)) -> bool {
        if !asker.settings.use_substitutes {
            return false;
        }
        let lack = self.fetcher.lack();
        if let (Some(lack), false) = (&lack, self.fetcher.is_dispensable()) {
            warn(&format!("warning: {lack}; there are no substitutes"));
        }
        lack.is_none()
    }

    /// Has what is needed for the asker's first question started in the background.
    pub fn prepare(&self, asker: Asker<'_>) {
        // (Every handshake comes here; whether the program is there need not be looked up each time.)
        if self.fetcher.is_ours() && asker.settings.use_substitutes {
            self.own.prepare(asker);
        }
    }

    /// Which of `paths` have substitutes.
    pub fn have(
        &self,
        questions: &mut Questions,
        asker: Asker<'_>,
        paths: &BTreeSet<StorePath>,
        conversation: &mut Conversation<'_>,
    ) -> Result<BTreeSet<StorePath>, Error> {
        if self.fetcher.is_ours() {
            let offers = self.info(questions, asker, paths, conversation)?;
            return Ok(offers.into_keys().collect());
        }
        self.ask_agent(questions, asker, |agent| {
            agent.have(paths, &self.store, conversation)
        })
    }

    /// What is known of those of `paths` that have substitutes.
    pub fn info(
        &self,
        questions: &mut Questions,
        asker: Asker<'_>,
        paths: &BTreeSet<StorePath>,
        conversation: &mut Conversation<'_>,
    ) -> Result<Offers, Error> {
        if self.fetcher.is_ours() {
            let wanted = paths.iter().cloned();
            return self
                .own
                .look_up(questions, asker, wanted, &mut |_| false, conversation);
        }
        let infos = self.ask_agent(questions, asker, |agent| {
            agent.info(paths, &self.store, conversation)
        })?;
        Ok(infos.into_iter().map(of_guix).collect())
    }

    /// The same of `paths` and of everything that these refer to, except for references for which
    /// `follow` is false, and what only these refer to.
    pub fn closure(
        &self,
        questions: &mut Questions,
        asker: Asker<'_>,
        paths: BTreeSet<StorePath>,
        follow: &mut dyn FnMut(&StorePath) -> bool,
        conversation: &mut Conversation<'_>,
    ) -> Result<Offers, Error> {
        if self.fetcher.is_ours() {
            return self
                .own
                .look_up(questions, asker, paths, follow, conversation);
        }
        let mut seen: HashSet<StorePath> = paths.iter().cloned().collect();
        let (mut found, mut next) = (Offers::new(), paths);
        while !next.is_empty() {
            let offers = self.info(questions, asker, &next, conversation)?;
            let references = offers.values().flat_map(|offer| &offer.info.references);
            next = references
                .filter(|path| seen.insert((*path).clone()) && follow(path))
                .cloned()
                .collect();
            found.extend(offers);
        }
        Ok(found)
    }

    /// Asks Guix's program, which is started when first needed. If it fails, it is not asked again,
    /// because its next reply can't be found in its output.
    fn ask_agent<T>(
        &self,
        questions: &mut Questions,
        asker: Asker<'_>,
        question: impl FnOnce(&mut Agent) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut agent = match questions.agent.take() {
            Some(agent) => agent,
            None => self.start_agent(AgentMode::Query, &asker.settings.pack()?, None)?,
        };
        let answer = question(&mut agent)?;
        questions.agent = Some(agent);
        Ok(answer)
    }
}

fn of_guix((path, info): (StorePath, Substitutable)) -> (StorePath, Arc<Offer>) {
    let origin = Origin::Guix;
    (path, Arc::new(Offer { info, origin }))
}
