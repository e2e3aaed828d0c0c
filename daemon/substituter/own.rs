//! Substitutes that the daemon itself looks up and receives.
//!
//! What touches the network is one process of `guix-fetch` for all clients. It is started when the first
//! of them connects, if it may be needed: loading libcurl's libraries takes longer than most answers. It
//! gets no privileges and decides nothing; everything that it hands over is checked here
//! (crate `substitutes`) and by the store.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use authority::Keys;
use formats::store_path::{StoreDir, StorePath};
use protocol::operations::Substitutable;
use substitutes::cache::Cache;
use substitutes::item::{self, Item};
use substitutes::lookup::Lookup;
use substitutes::network::{self, Network, User};
use substitutes::servers::{self, ListedBy, Place};
use substitutes::settings::{self, wants_traces};
use substitutes::{Choice, Health, Learned, Preference, Server, Told, Trust};
use system::clock::unix_time;
use system::sync::Mutex;

use super::asker::{Asker, Questions};
use super::conversation::Conversation;
use super::error::Error;
use super::offer::{Offer, Offers, Origin, OwnOffer, Scope};
use crate::settings::{SessionSettings, Settings};
use crate::shared_limit::ClientKey;
use crate::spawner::Spawner;

pub use substitutes::item::Error as FetchError;

/// Looks items up, and fetches them, for the whole daemon.
pub struct OwnSubstituter {
    store: StoreDir,
    state: std::path::PathBuf,
    network: Network,
    trust: Trust,
    cache: Cache,
    /// Whether the network program was prepared, or isn't needed.
    is_prepared: AtomicBool,
    /// Which files are fetched first, for all clients.
    learned: Learned,
    /// Which servers did not answer lately, for each client.
    health: Health,
    /// Whether old answers were removed from the cache since the daemon was started.
    is_cache_expired: Mutex<bool>,
}

impl OwnSubstituter {
    /// Starts nothing yet.
    pub fn new(daemon: &Settings, keys: Arc<Keys>, spawner: Spawner) -> OwnSubstituter {
        let program = daemon.fetcher.program().to_owned();
        let cache_home = std::env::var_os("XDG_CACHE_HOME");
        let state = &daemon.directories.state;
        OwnSubstituter {
            store: daemon.directories.store.clone(),
            state: state.clone(),
            network: Network::new(move |socket| spawner.start(network::program(&program, socket))),
            trust: Trust::new(keys, settings::is_unauthenticated()),
            cache: Cache::new(Cache::place(state, cache_home.as_deref())),
            is_prepared: AtomicBool::default(),
            learned: Learned::default(),
            health: Health::default(),
            is_cache_expired: Mutex::default(),
        }
    }

    /// Starts the network program in the background, when this is called first, unless it would have
    /// nothing to do: nobody is believed, or no server is on the network.
    pub(super) fn prepare(&self, asker: Asker<'_>) {
        if self.is_prepared.swap(true, Ordering::Relaxed) {
            return;
        }
        let is_on_network = |server: &Arc<Server>| matches!(server.place(), Place::Network);
        let believed = self.trust.judge();
        let is_needed = believed.is_ok_and(|judge| !judge.believes_nobody())
            && (self.servers(asker)).is_ok_and(|servers| servers.iter().any(is_on_network));
        // What fails now is tried again for the first question, and said then.
        if is_needed {
            let _ = self.network.prepare();
        }
    }

    /// Where what servers have said is kept.
    pub(super) fn cache(&self) -> &Path {
        self.cache.directory()
    }

    /// What is known of `wanted`, and of those references of what is found for which `follow` holds.
    pub(super) fn look_up(
        &self,
        questions: &mut Questions,
        asker: Asker<'_>,
        wanted: impl IntoIterator<Item = StorePath>,
        follow: &mut dyn FnMut(&StorePath) -> bool,
        conversation: &mut Conversation<'_>,
    ) -> Result<Offers, Error> {
        let Some(scope) = self.scope(questions, asker, conversation)? else {
            return Ok(Offers::new());
        };
        let scope = Arc::new(scope);
        self.expire_cache();
        let network = self.network(asker.client);
        let lookup = self.lookup(&scope, asker.client, &questions.told, &network);
        let found = lookup.look_up(wanted, follow, conversation);
        conversation.flush();
        let offer = |(path, choice)| (path, Arc::new(offer(choice, &scope)));
        Ok(found?.into_iter().map(offer).collect())
    }

    /// The servers to ask and whom to believe; `None` if nothing they say would be believed.
    fn scope(
        &self,
        questions: &mut Questions,
        asker: Asker<'_>,
        conversation: &mut Conversation<'_>,
    ) -> Result<Option<Scope>, Error> {
        let judge = self.trust.judge().map_err(Error::Keys)?;
        let warning = settings::warning(&judge);
        if let Some(warning) = warning.filter(|warning| questions.told.is_news(warning)) {
            substitutes::Waiter::say(conversation, &format!("warning: {warning}"));
            conversation.flush();
        }
        if judge.believes_nobody() {
            return Ok(None);
        }
        let servers = self.servers(asker)?;
        Ok((!servers.is_empty()).then_some(Scope { servers, judge }))
    }

    fn servers(&self, asker: Asker<'_>) -> Result<Vec<Arc<Server>>, servers::Error> {
        let client = match asker.trusted {
            true => ListedBy::Administrator,
            false => ListedBy::User,
        };
        let setting = |name: &str| asker.settings.get(name).map(ToString::to_string);
        settings::servers(&setting, client, &self.state)
    }

    /// The network, for requests of a client.
    fn network(&self, client: ClientKey) -> Network {
        self.network.of_user(user(client))
    }

    fn lookup<'a>(
        &'a self,
        scope: &'a Scope,
        client: ClientKey,
        told: &'a Told,
        network: &'a Network,
    ) -> Lookup<'a> {
        Lookup {
            store: &self.store,
            servers: &scope.servers,
            cache: &self.cache,
            health: self.health.of(user(client)),
            told,
            judge: &scope.judge,
            network,
        }
    }

    /// Removes old answers from the cache, once; the cache itself knows whether it is time.
    fn expire_cache(&self) {
        let mut done = self.is_cache_expired.lock();
        if !std::mem::replace(&mut *done, true) {
            if let Err(error) = self.cache.expire(unix_time()) {
                let directory = self.cache.directory().display();
                tracing::warn!("cannot remove old answers from `{directory}': {error}");
            }
        }
    }

    /// Fetches an item for a client: `receive` reads its nar, and fails if it isn't right.
    pub fn fetch<T>(
        &self,
        offer: &OwnOffer,
        client: ClientKey,
        session: &SessionSettings,
        told: &Told,
        conversation: &mut Conversation<'_>,
        receive: &mut dyn FnMut(&mut dyn Read) -> store::Result<T>,
    ) -> Result<T, item::Error> {
        let network = self.network(client);
        let item = Item {
            choice: &offer.choice,
            lookup: &self.lookup(&offer.scope, client, told, &network),
            learned: &self.learned,
            traces: wants_traces(&|name| session.get(name).map(ToString::to_string)),
        };
        let fetched = item.fetch(conversation, receive);
        conversation.flush();
        fetched
    }
}

/// The same client, as the network knows it.
fn user(client: ClientKey) -> User {
    User::from_number(client.number())
}

fn offer(choice: Arc<Choice>, scope: &Arc<Scope>) -> Offer {
    let believed = &choice.believed;
    Offer {
        info: Substitutable {
            deriver: believed.deriver().cloned(),
            references: believed.references().clone(),
            download_size: choice.download_size(Preference::default()),
            nar_size: believed.nar_size(),
        },
        origin: Origin::Own(OwnOffer {
            choice,
            scope: scope.clone(),
        }),
    }
}
