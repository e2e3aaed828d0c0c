//! Answers the daemon's requests.

use std::path::Path;
use std::sync::Arc;

use anyhow::Error;
use authority::Keys;
use formats::store_path::{StoreDir, StorePath};
use nix::sys::signal::Signal;
use store::{Directories, Quiet, ReceiveOptions, Store, StoreOptions};
use substitutes::cache::Cache;
use substitutes::item::{self, Item};
use substitutes::lookup::{Found, Lookup};
use substitutes::network::{self, Network, User};
use substitutes::servers::ListedBy;
use substitutes::settings;
use substitutes::{Choice, Health, Judge, Learned, Server, Told, Trust, Waiter};
use system::clock::unix_time;

use super::log::Log;
use super::options::Options;
use super::replies::Status;

/// This program, whatever has become of its file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// What is kept from one request to the next.
pub struct Agent {
    resources: Resources,
    log: Log,
    /// The store's files, once there is something to unpack.
    store: Option<Store>,
}

/// Whom a request is put to, and who is believed.
struct Scope {
    servers: Vec<Arc<Server>>,
    judge: Judge,
}

/// What all requests use.
struct Resources {
    directories: Directories,
    options: Options,
    network: Network,
    trust: Trust,
    cache: Cache,
    learned: Learned,
    health: Health,
    told: Told,
}

impl Agent {
    /// Starts the network program, in the background, if it may be needed.
    ///
    /// # Errors
    /// The list of servers has a URL that can't be that of one.
    pub fn new(directories: Directories, options: Options, mut log: Log) -> anyhow::Result<Agent> {
        let resources = Resources::new(directories, options);
        let judge = resources.trust.judge().map_err(Error::msg)?;
        if let Some(warning) = settings::warning(&judge) {
            log.warn(warning);
        }
        // While the daemon is about to ask, and the rest is read here.
        if resources.scope()?.is_some() {
            let _ = resources.network.prepare();
        }
        if let Err(error) = resources.cache.expire(unix_time()) {
            let directory = resources.cache.directory().display();
            let text = format!("cannot remove old answers from `{directory}': {error}\n");
            log.warn(&text);
        }
        Ok(Agent {
            resources,
            log,
            store: None,
        })
    }

    /// The store whose items are asked for.
    pub fn store_dir(&self) -> &StoreDir {
        &self.resources.directories.store
    }

    /// What is known of these items.
    pub fn look_up(&mut self, paths: Vec<StorePath>) -> anyhow::Result<Found> {
        self.look_up_and_follow(paths, &mut |_| false)
    }

    /// The same, and of what they refer to as far as it isn't in the store: the daemon is going to
    /// ask for that, item by item, and then it is in the cache.
    pub fn look_up_closure(&mut self, paths: &[StorePath]) -> anyhow::Result<Found> {
        let is_missing = |path: &StorePath| path.as_path().symlink_metadata().is_err();
        self.look_up_and_follow(paths.to_vec(), &mut |path| is_missing(path))
    }

    fn look_up_and_follow(
        &mut self,
        paths: Vec<StorePath>,
        follow: &mut dyn FnMut(&StorePath) -> bool,
    ) -> anyhow::Result<Found> {
        let Some(scope) = self.resources.scope()? else {
            return Ok(Found::new());
        };
        let lookup = self.resources.lookup(&scope);
        Ok(lookup.look_up(paths, follow, &mut self.log)?)
    }

    /// Fetches an item. Whatever the status, `destination` has the item or nothing new.
    pub fn substitute(
        &mut self,
        path: &StorePath,
        destination: &StorePath,
    ) -> anyhow::Result<Status> {
        if let Some(scope) = self.resources.scope()? {
            let lookup = self.resources.lookup(&scope);
            let wanted = [path.clone()];
            let found = lookup.look_up(wanted, &mut |_| false, &mut self.log)?;
            if let Some(choice) = found.get(path) {
                return self.fetch(choice, &scope, destination);
            }
        }
        self.log.error(&format!("no valid substitute for '{path}'"));
        Ok(Status::NotFound)
    }

    fn fetch(
        &mut self,
        choice: &Choice,
        scope: &Scope,
        destination: &StorePath,
    ) -> anyhow::Result<Status> {
        let resources = &self.resources;
        let store = match &self.store {
            Some(store) => store,
            None => self.store.insert(resources.open_store()?),
        };
        // For this item only: the daemon kills this process when it needs it no more.
        let temp_roots = Arc::new(store.temp_roots());
        let expected = choice.expected(&scope.judge);
        let item = Item {
            choice,
            lookup: &resources.lookup(scope),
            learned: &resources.learned,
            traces: settings::wants_traces(&|name| resources.options.get(name)),
        };
        let options = ReceiveOptions {
            temp_roots: &temp_roots,
            deduplicate: resources.options.deduplicate(),
            progress: &Quiet,
        };
        let fetched = item.fetch(&mut self.log, &mut |source| {
            store.receive(source, &expected, &options)
        });
        match fetched {
            Ok(received) => {
                let (hash, nar_size) = (*received.hash(), received.nar_size());
                received.move_to(destination)?;
                Ok(Status::Success { hash, nar_size })
            }
            Err(item::Error::NotFound) => Ok(Status::NotFound),
            Err(item::Error::WrongHash { expected, actual }) => Ok(Status::HashMismatch {
                expected: *expected,
                actual: *actual,
            }),
            Err(error) => Err(error.into()),
        }
    }
}

impl Resources {
    fn new(directories: Directories, options: Options) -> Resources {
        let keys = Arc::new(Keys::new(&directories.configuration));
        let cache_home = std::env::var_os("XDG_CACHE_HOME");
        let cache = Cache::place(&directories.state, cache_home.as_deref());
        let network = Network::new(|socket| {
            network::program(Path::new(THIS_PROGRAM), socket)
                .parent_death_signal(Signal::SIGKILL)
                .spawn()
        });
        Resources {
            directories,
            options,
            network,
            trust: Trust::new(keys, settings::is_unauthenticated()),
            cache: Cache::new(cache),
            learned: Learned::default(),
            health: Health::default(),
            told: Told::default(),
        }
    }

    /// Whom to ask and whom to believe now: the ACL may have changed. `None` if nothing that anybody
    /// says would be believed.
    fn scope(&self) -> anyhow::Result<Option<Scope>> {
        let judge = self.trust.judge().map_err(Error::msg)?;
        // Clients that the daemon trusts set what administrators set.
        let (by, state) = (ListedBy::User, &self.directories.state);
        let servers = settings::servers(&|name| self.options.get(name), by, state)?;
        Ok((!judge.believes_nobody()).then_some(Scope { servers, judge }))
    }

    fn lookup<'a>(&'a self, scope: &'a Scope) -> Lookup<'a> {
        Lookup {
            store: &self.directories.store,
            servers: &scope.servers,
            cache: &self.cache,
            health: self.health.of(User::default()),
            told: &self.told,
            judge: &scope.judge,
            network: &self.network,
        }
    }

    /// Opens the store's files; the daemon has the database.
    fn open_store(&self) -> store::Result<Store> {
        Store::open_files(self.directories.clone(), StoreOptions::default())
    }
}
