//! The build hook: requests in, answers out, and at most one build
//! (`doc/spec/hook-protocol.md`; `doc/spec/offload.md`, section 0).

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use formats::StorePath;
use nix::unistd::{Uid, User};
use store::{Directories, Quiet, Store, StoreOptions};

use crate::choose::{self, Chosen, Reason};
use crate::health::Health;
use crate::machines::{self, Machine};
use crate::remote::{self, Home, Limits, Transport};
use crate::request::{Input, Request};
use crate::say;
use crate::transfer::{self, Here, Work};

/// Set to anything, the hook says why it chooses as it does.
pub const VERBOSE: &str = "GUIX_OFFLOAD_VERBOSE";

/// How long a machine's daemon may take to answer the handshake.
const CONNECTING: Duration = Duration::from_secs(30);

/// What the daemon says on the command line.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// The daemon's system.
    pub system: String,
    /// Limits of all builds.
    pub limits: Limits,
}

/// Where the hook keeps its state, for these directories.
pub fn home(directories: &Directories) -> Result<Home> {
    let account = User::from_uid(Uid::effective()).context("looking up our user")?;
    Ok(Home {
        directory: directories.state.join("offload"),
        store: directories.store.clone(),
        user_home: account.map_or_else(|| "/".into(), |account| account.dir),
    })
}

/// Serves the daemon until it has no more requests; the exit code.
pub fn run(
    arguments: &Arguments,
    directories: Directories,
    mut input: Input,
    log: Option<File>,
) -> Result<u8> {
    let home = home(&directories)?;
    let verbose = std::env::var_os(VERBOSE).is_some();
    while let Some(request) = input.request()? {
        let found = machines::load(&directories.configuration)?;
        for problem in &found.problems {
            say!("warning: {problem}");
        }
        let candidates = choose::candidates(&found.machines, &request);
        if candidates.is_empty() {
            reply("decline")?;
            continue;
        }
        let mut hunt = Hunt {
            home: &home,
            request: &request,
            candidates,
            verbose,
        };
        match hunt.next()? {
            Ok(found) => {
                reply("accept")?;
                let (inputs, outputs) = input.paths(&directories.store)?;
                return offload(arguments, directories, hunt, found, &inputs, &outputs, log);
            }
            Err(reasons) => {
                if verbose {
                    choose::explain(&request, &reasons);
                }
                // Nobody should wait for dead machines who could build it now.
                let all_dead = reasons.iter().all(|reason| reason.dead);
                let local = request.am_willing && all_dead;
                reply(if local { "decline" } else { "postpone" })?;
            }
        }
    }
    Ok(0)
}

/// A machine whose daemon has answered.
type Found<'a> = (Chosen<'a>, Box<dyn Transport>);

/// The search for machines that will do, one after the other.
struct Hunt<'a> {
    home: &'a Home,
    request: &'a Request,
    candidates: Vec<&'a Machine>,
    verbose: bool,
}

impl<'a> Hunt<'a> {
    /// The next machine, with a connection to its daemon. One that can't be reached is none.
    fn next(&mut self) -> Result<Result<Found<'a>, Vec<Reason>>> {
        loop {
            let chosen = choose::choose(&self.candidates, self.home, self.request, self.verbose)?;
            let chosen = match chosen {
                Ok(chosen) => chosen,
                Err(reasons) => return Ok(Err(reasons)),
            };
            let machine = chosen.machine;
            match remote::connect(machine, self.home, Instant::now() + CONNECTING) {
                Ok(remote) => return Ok(Ok((chosen, remote))),
                Err(error) if error.is_local() => return Err(error.into()),
                Err(error) => {
                    say!("{error}");
                    self.set_aside(machine, &error.to_string());
                }
            }
        }
    }

    /// A machine has failed: it is not asked again by us, and by others later.
    fn set_aside(&mut self, machine: &Machine, error: &str) {
        Health::update(&self.home.directory, machine, |health| health.failed(error));
        self.candidates.retain(|other| *other != machine);
    }
}

fn offload<'a>(
    arguments: &Arguments,
    directories: Directories,
    mut hunt: Hunt<'a>,
    mut found: Found<'a>,
    inputs: &[StorePath],
    outputs: &[StorePath],
    log: Option<File>,
) -> Result<u8> {
    let derivation = directories.store.parse(&hunt.request.derivation)?;
    let store =
        Store::open(directories, StoreOptions::default(), &Quiet).context("opening the store")?;
    let here = Here {
        store: &store,
        home: hunt.home,
    };
    let work = Work {
        derivation: &derivation,
        inputs,
        outputs,
        limits: arguments.limits,
    };
    let mut log: Box<dyn Write> = match log {
        Some(log) => Box::new(log),
        None => Box::new(io::sink()),
    };
    loop {
        let (chosen, remote) = found;
        let machine = chosen.machine;
        let error = match transfer::offload(&here, machine, remote, &work, &mut *log) {
            Ok(()) => {
                Health::update(&hunt.home.directory, machine, Health::succeeded);
                return Ok(0);
            }
            Err(error) => error,
        };
        if let Some(status) = error.is_build_failure() {
            // The machine did what it should.
            Health::update(&hunt.home.directory, machine, Health::succeeded);
            say!("{error}");
            return Ok(if status == 101 { 101 } else { 100 });
        }
        if error.is_local() {
            return Err(error).context(format!("offloading '{derivation}' to '{}'", machine.name));
        }
        hunt.set_aside(machine, &error.to_string());
        drop(chosen);
        say!("{error}");
        found = match hunt.next()? {
            Ok(next) => {
                say!("trying '{derivation}' on '{}' instead", next.0.machine.name);
                next
            }
            Err(reasons) => {
                choose::explain(hunt.request, &reasons);
                bail!("no other build machine can take '{derivation}'");
            }
        };
    }
}

fn reply(word: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "# {word}")
        .and_then(|()| out.flush())
        .context("answering the daemon")
}
