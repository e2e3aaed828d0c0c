//! Stands in for `guix substitute` under Guix's own daemon: `guix-fetch substitute --query` and
//! `--substitute` (`doc/spec/substitutes.md`, sections 1 and 2).
//!
//! Guix's daemon believes its substituter: the hash that it reports, and what it leaves in the store.
//! So this process, which has the daemon's rights, is small and decides as our own daemon does, with
//! the same code (crate `substitutes`); what touches the network is a confined child of it.

mod options;
mod request;
mod terminal;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use authority::Keys;
use formats::store_path::StorePath;
use store::{Directories, ExpectedItem, Quiet, ReceiveOptions, Store, StoreOptions};
use substitutes::cache::Cache;
use substitutes::item::{self, Item};
use substitutes::lookup::{Found, Lookup};
use substitutes::network::{self, Network};
use substitutes::servers::ListedBy;
use substitutes::settings::{self, wants_traces};
use substitutes::{Judge, Preference, Server, Trust, Unreachable, Waiter};
use system::clock::unix_time;
use system::signal::Signal;

use options::Options;
use request::Request;
use terminal::Terminal;

/// Serves the daemon until it closes the standard input.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let served = match words.iter().map(|word| &**word).collect::<Vec<_>>()[..] {
        ["--query"] | ["--substitute"] => Substituter::new().and_then(Substituter::serve),
        ["--version"] => {
            println!("guix substitute (GNU Guix) {}", env!("GUIX_VERSION"));
            Ok(())
        }
        ["--help"] => {
            println!("Usage: guix-fetch substitute --query|--substitute\n\n{HELP}");
            Ok(())
        }
        _ => Err(anyhow::anyhow!("unrecognized options")),
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guix substitute: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

const HELP: &str = "Internal tool to substitute a pre-built binary to a local build: a build daemon \
                    starts it,\nasks on standard input, and reads the answers from descriptor 4.";

struct Substituter {
    options: Options,
    directories: Directories,
    servers: Vec<Arc<Server>>,
    judge: Judge,
    cache: Cache,
    network: Network,
    unreachable: Unreachable,
    /// Opened when there is something to put into it.
    store: Option<Store>,
    terminal: Terminal,
    replies: File,
}

impl Substituter {
    fn new() -> anyhow::Result<Substituter> {
        let options = Options::from_environment();
        let directories = Directories::from_environment(&store::compiled_directories!())?;
        let keys = Arc::new(Keys::new(&directories.configuration));
        let trust = Trust::new(keys, settings::is_unauthenticated());
        let judge = trust.judge().map_err(anyhow::Error::msg)?;
        let mut terminal = Terminal::new()?;
        if judge.believes_everybody() {
            terminal.say(settings::EVERYBODY_BELIEVED);
        } else if judge.believes_only_us() {
            terminal.say(settings::NOBODY_BELIEVED);
        }
        let setting = |name: &str| options.get(name);
        // Who has set them is not known here.
        let servers = settings::servers(&setting, ListedBy::User, &directories.state)?;
        let cache_home = std::env::var_os("XDG_CACHE_HOME");
        let cache = Cache::new(Cache::place(&directories.state, cache_home.as_deref()));
        // An old answer more does no harm.
        let _ = cache.expire(unix_time());
        let replies = system::pipe::inherited(4)?;
        let this = std::env::current_exe().context("cannot find this program")?;
        Ok(Substituter {
            options,
            directories,
            servers,
            judge,
            cache,
            network: Network::new(move |socket| {
                let program = network::program(&this, socket);
                program.parent_death_signal(Signal::SIGKILL).spawn()
            }),
            unreachable: Unreachable::default(),
            store: None,
            terminal,
            replies: replies
                .context("descriptor 4, for the replies, is closed: a build daemon starts this")?
                .into(),
        })
    }

    fn serve(mut self) -> anyhow::Result<()> {
        let input = system::pipe::inherited(0)?.context("standard input is closed")?;
        let mut input = BufReader::new(File::from(input));
        while let Some(request) = Request::read(&mut input, &self.directories.store)? {
            let reply = match request {
                Request::Have(paths) => self.have(paths)?,
                Request::Info(paths) => self.info(paths)?,
                Request::Substitute { path, destination } => {
                    self.substitute(&path, &destination)?
                }
            };
            // The daemon takes what one read returns for a whole status.
            self.replies
                .write_all(reply.as_bytes())
                .context("cannot reply")?;
        }
        Ok(())
    }

    fn look_up(&mut self, paths: Vec<StorePath>) -> anyhow::Result<Found> {
        if self.judge.believes_only_us() {
            return Ok(Found::new());
        }
        let lookup = Lookup {
            store: &self.directories.store,
            servers: &self.servers,
            cache: &self.cache,
            judge: &self.judge,
            network: &self.network,
        };
        let unreachable = &mut self.unreachable;
        Ok(lookup.look_up(paths, unreachable, &mut |_| false, &mut self.terminal)?)
    }

    fn have(&mut self, paths: Vec<StorePath>) -> anyhow::Result<String> {
        let found = self.look_up(paths)?;
        let lines = found.keys().map(|path| format!("{path}\n"));
        Ok(lines.chain(["\n".to_owned()]).collect())
    }

    fn info(&mut self, paths: Vec<StorePath>) -> anyhow::Result<String> {
        let mut reply = String::new();
        for (path, choice) in self.look_up(paths)? {
            let believed = &choice.believed;
            let deriver = believed
                .deriver()
                .map(ToString::to_string)
                .unwrap_or_default();
            let references = believed.references();
            reply += &format!("{path}\n{deriver}\n{}\n", references.len());
            for reference in references {
                reply += &format!("{reference}\n");
            }
            let first = choice.first(Preference::default());
            let download = first
                .and_then(|(_, variant)| variant.file_size)
                .unwrap_or(0);
            reply += &format!("{download}\n{}\n", believed.nar_size());
        }
        Ok(reply + "\n")
    }

    fn substitute(&mut self, path: &StorePath, place: &StorePath) -> anyhow::Result<String> {
        let Some(choice) = self.look_up(vec![path.clone()])?.remove(path) else {
            bail!("no valid substitute for '{path}'");
        };
        let store = match &self.store {
            Some(store) => store.clone(),
            None => {
                let options = StoreOptions::default();
                let store = Store::open(self.directories.clone(), options, &Quiet)?;
                self.store.insert(store).clone()
            }
        };
        let believed = &choice.believed;
        let expected = ExpectedItem {
            path: path.clone(),
            hash: *believed.nar_hash(),
            nar_size: believed.nar_size(),
            references: believed.references().clone(),
            deriver: believed.deriver().cloned(),
        };
        let temp_roots = store.temp_roots();
        let options = ReceiveOptions {
            temp_roots: &temp_roots,
            deduplicate: self
                .options
                .get("deduplicate")
                .is_some_and(|value| value == "yes"),
            progress: &Quiet,
        };
        let item = Item {
            choice: &choice,
            lookup: &Lookup {
                store: &self.directories.store,
                servers: &self.servers,
                cache: &self.cache,
                judge: &self.judge,
                network: &self.network,
            },
            preference: Preference::default(),
            traces: wants_traces(&|name| self.options.get(name)),
        };
        let fetched = item.fetch(&mut self.terminal, &mut self.unreachable, &mut |source| {
            store.receive(source, &expected, &options)
        });
        match fetched {
            Ok(received) => {
                let hash = *received.hash();
                received.move_to(place)?;
                let size = expected.nar_size;
                Ok(format!("success sha256:{} {size}\n", hash.base32()))
            }
            Err(item::Error::NotFound) => Ok("not-found\n".to_owned()),
            Err(item::Error::WrongHash { expected, actual }) => Ok(format!(
                "hash-mismatch {} {} {}\n",
                expected.algorithm(),
                expected.hex_or_base32(),
                actual.hex_or_base32()
            )),
            Err(error) => Err(error.into()),
        }
    }
}
