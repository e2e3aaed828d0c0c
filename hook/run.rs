//! The build hook: reads requests, answers them, and runs at most one build
//! (`doc/spec/hook-protocol.md`; `doc/spec/offload.md`, section 0).

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use formats::StorePath;
use protocol::trace::Trace;
use store::{Directories, Quiet, Store, StoreOptions};

use crate::choose::{self, Chosen, Rejection};
use crate::directories::HookDirectories;
use crate::health::Health;
use crate::machines::{self, Machine};
use crate::remote::{self, BuildLimits, Transport};
use crate::request::{Input, Request};
use crate::transfer::{self, BuildTask, LocalHost};
use crate::{stderr, stderr_line, suitability};

/// The environment variable that makes the hook explain its choices.
const VERBOSE: &str = "GUIX_OFFLOAD_VERBOSE";

/// The environment variable by which our daemon asks why a build is postponed.
const REASONS: &str = "GUIX_OFFLOAD_REASONS";

/// The timeout for the handshake with a machine's daemon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The command line with which the daemon runs the hook.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// The daemon's system.
    pub system: String,
    /// The limits of all builds.
    pub limits: BuildLimits,
}

/// Answers the daemon until it has no more requests; returns the exit code.
pub fn run(
    arguments: &Arguments,
    daemon_directories: Directories,
    mut input: Input,
    log: Option<File>,
) -> Result<u8> {
    let directories = HookDirectories::new(&daemon_directories).context("looking up our user")?;
    let verbose = std::env::var_os(VERBOSE).is_some();
    while let Some(request) = input.request()? {
        let found = machines::load(&daemon_directories.configuration)?;
        for problem in found.complaints() {
            stderr_line!("warning: {problem}");
        }
        let candidates = suitability::candidates(&found.machines, &request);
        if candidates.is_empty() {
            reply("decline")?;
            continue;
        }
        let mut search = MachineSearch {
            directories: &directories,
            request: &request,
            candidates,
            verbose,
        };
        match search.next()? {
            Ok(found) => {
                reply("accept")?;
                let (inputs, outputs) = input.paths(&daemon_directories.store)?;
                return offload(
                    arguments,
                    daemon_directories,
                    search,
                    found,
                    &inputs,
                    &outputs,
                    log,
                );
            }
            Err(rejections) => {
                if verbose {
                    choose::explain(&request, &rejections);
                }
                // A daemon that could build it now should not wait for dead machines.
                let all_dead = rejections.iter().all(|rejection| rejection.is_dead);
                let local = request.am_willing && all_dead;
                if !local && std::env::var_os(REASONS).is_some() {
                    let trace = Trace::BuildPostponed {
                        derivation: &request.derivation,
                        reason: &choose::in_words(&rejections),
                    };
                    stderr::write_trace(&trace);
                }
                reply(if local { "decline" } else { "postpone" })?;
            }
        }
    }
    Ok(0)
}

/// A machine whose daemon has responded, and the connection to it.
type FoundMachine<'a> = (Chosen<'a>, Box<dyn Transport>);

/// The search for a machine for a build, and for another one if that fails.
struct MachineSearch<'a> {
    directories: &'a HookDirectories,
    request: &'a Request,
    candidates: Vec<&'a Machine>,
    verbose: bool,
}

impl<'a> MachineSearch<'a> {
    /// The next machine that can be reached, with a connection to its daemon.
    fn next(&mut self) -> Result<Result<FoundMachine<'a>, Vec<Rejection>>> {
        loop {
            let chosen = choose::choose(
                &self.candidates,
                self.directories,
                self.request,
                self.verbose,
            )?;
            let chosen = match chosen {
                Ok(chosen) => chosen,
                Err(rejections) => return Ok(Err(rejections)),
            };
            let machine = chosen.machine;
            match remote::connect(machine, self.directories, Instant::now() + CONNECT_TIMEOUT) {
                Ok(transport) => return Ok(Ok((chosen, transport))),
                Err(error) if error.is_local() => return Err(error.into()),
                Err(error) => {
                    stderr_line!("{error}");
                    self.set_aside(machine, &error.to_string());
                }
            }
        }
    }

    /// Records that a machine has failed: this hook doesn't use it again, and others only later.
    fn set_aside(&mut self, machine: &Machine, error: &str) {
        Health::update(self.directories, machine, |health| health.failed(error));
        self.candidates.retain(|other| *other != machine);
    }
}

/// Builds on a machine, and on others if the first one fails; returns the exit code.
fn offload<'a>(
    arguments: &Arguments,
    daemon_directories: Directories,
    mut search: MachineSearch<'a>,
    mut found: FoundMachine<'a>,
    inputs: &[StorePath],
    outputs: &[StorePath],
    log: Option<File>,
) -> Result<u8> {
    let derivation = daemon_directories.store.parse(&search.request.derivation)?;
    let store = Store::open(daemon_directories, StoreOptions::default(), &Quiet)
        .context("opening the store")?;
    let host = LocalHost {
        store: &store,
        directories: search.directories,
    };
    let task = BuildTask {
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
        let (chosen, transport) = found;
        let machine = chosen.machine;
        let error = match transfer::offload(&host, machine, transport, &task, &mut *log) {
            Ok(()) => {
                Health::update(search.directories, machine, Health::succeeded);
                return Ok(0);
            }
            Err(error) => error,
        };
        if let Some(status) = error.is_build_failure() {
            // The machine itself works.
            Health::update(search.directories, machine, Health::build_failed);
            stderr_line!("{error}");
            return Ok(if status == 101 { 101 } else { 100 });
        }
        if error.is_local() {
            return Err(error).context(format!("offloading '{derivation}' to '{}'", machine.name));
        }
        search.set_aside(machine, &error.to_string());
        drop(chosen);
        stderr_line!("{error}");
        found = match search.next()? {
            Ok(next) => {
                stderr_line!("trying '{derivation}' on '{}' instead", next.0.machine.name);
                next
            }
            Err(rejections) => {
                choose::explain(search.request, &rejections);
                bail!("no other build machine can take '{derivation}'");
            }
        };
    }
}

/// Answers the daemon's question.
fn reply(word: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "# {word}")
        .and_then(|()| out.flush())
        .context("answering the daemon")
}
