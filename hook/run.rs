//! The build hook: reads requests, answers them, and runs at most one build
//! (`doc/spec/hook-protocol.md`; `doc/spec/offload.md`, section 0).

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use farm::history::{AttemptResult, Pipe};
use formats::StorePath;
use formats::store_path::name_without_hash;
use protocol::trace::Trace;
use store::{Directories, Quiet, Store, StoreOptions};

use crate::choose::{self, Chosen, Rejection};
use crate::directories::HookDirectories;
use crate::generated::{self, Audience};
use crate::health::Health;
use crate::history::Course;
use crate::inputs::LazyInputs;
use crate::machines::{Machine, Pool, Queue};
use crate::pool::{Wanted, waiting};
use crate::remembering::History;
use crate::remote::{self, BuildLimits, Transport};
use crate::request::{Input, Request};
use crate::transfer::{self, BuildTask, LocalHost};
use crate::{stderr, stderr_line, suitability};

/// The environment variable that makes the hook explain its choices.
const VERBOSE: &str = "GUIX_OFFLOAD_VERBOSE";

/// The environment variable by which our daemon asks why a build is postponed.
const REASONS: &str = "GUIX_OFFLOAD_REASONS";

/// The exit code for a build that takes too long.
const TIMED_OUT: u8 = 101;

/// The time limit of a build whose client asks for none, in seconds.
const USUAL_SECONDS: u64 = 24 * 3600;

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

/// Answers the daemon until it has no more requests; returns the exit code. The build's log goes to `log`, and what
/// is to be remembered to `rows`, if the daemon wants it.
pub fn run(
    arguments: &Arguments,
    daemon_directories: Directories,
    mut input: Input,
    log: Option<File>,
    rows: Option<Pipe>,
) -> Result<u8> {
    let mut directories =
        HookDirectories::new(&daemon_directories).context("looking up our user")?;
    directories.history = History::open(&directories.state, rows);
    let verbose = std::env::var_os(VERBOSE).is_some();
    while let Some(request) = input.request()? {
        let found = generated::load(&directories, Audience::Clients)?;
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
            inputs: LazyInputs::new(&daemon_directories, &request.derivation),
            seconds: arguments.limits.timeout,
            candidates,
            refused: Vec::new(),
            lacks_only_time: true,
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
                if !local && wants_reasons() {
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

/// Whether the daemon is ours, which wants to know more than its protocol tells.
fn wants_reasons() -> bool {
    std::env::var_os(REASONS).is_some()
}

/// A machine whose daemon has responded, and the connection to it; or a pool that gets the build
/// although its job may have to wait, without a connection yet.
type FoundMachine<'a> = (Chosen<'a>, Option<Box<dyn Transport>>);

/// The search for a machine for a build, and for another one if that fails.
struct MachineSearch<'a> {
    directories: &'a HookDirectories,
    request: &'a Request,
    inputs: LazyInputs,
    /// The time limit of the build in seconds; 0: none.
    seconds: u64,
    candidates: Vec<&'a Machine>,
    /// The pools that were found to have no room, or to refuse this build.
    refused: Vec<Rejection>,
    /// Whether all machines that were tried are pools whose jobs end before the build.
    lacks_only_time: bool,
    verbose: bool,
}

impl<'a> MachineSearch<'a> {
    /// The next machine that can be reached, with a connection to its daemon; or a pool.
    fn next(&mut self) -> Result<Result<FoundMachine<'a>, Vec<Rejection>>> {
        loop {
            let chosen = choose::choose(
                &self.candidates,
                self.directories,
                self.request,
                &self.inputs,
                self.verbose,
            )?;
            let chosen = match chosen {
                Ok(chosen) => chosen,
                Err(mut rejections) => {
                    rejections.append(&mut self.refused);
                    return Ok(Err(rejections));
                }
            };
            let connected = match &chosen.machine.pool {
                Some(pool) if pool.queue == Queue::Wait => return Ok(Ok((chosen, None))),
                Some(pool) => self.connect_to_pool(&chosen, pool),
                None => {
                    let deadline = Instant::now() + CONNECT_TIMEOUT;
                    remote::connect(chosen.machine, self.directories, deadline)
                }
            };
            match connected {
                Ok(transport) => return Ok(Ok((chosen, Some(transport)))),
                Err(error) if error.is_local() => return Err(error.into()),
                Err(error) => {
                    stderr_line!("{error}");
                    self.give_up(chosen.machine, &error);
                }
            }
        }
    }

    /// Waits for a job of a pool, and says so.
    fn connect_to_pool(
        &self,
        chosen: &Chosen<'_>,
        pool: &Pool,
    ) -> Result<Box<dyn Transport>, remote::Error> {
        let machine = chosen.machine;
        let wanted = Wanted {
            name: name_without_hash(&self.request.derivation),
            features: &self.request.features,
            seconds: self.seconds,
        };
        let mut report = |reason: &str, waited: Duration| {
            stderr_line!("{}", waiting(&machine.name, reason, waited));
        };
        let slot = chosen.slot.number;
        remote::connect_to_pool(machine, pool, self.directories, slot, &wanted, &mut report)
    }

    /// Goes on without a machine that has failed, or has no room.
    fn give_up(&mut self, machine: &Machine, error: &remote::Error) {
        let reason = error.to_string();
        self.lacks_only_time &= matches!(error, remote::Error::OutOfTime { .. });
        if error.is_about_room(machine.pool.is_some()) {
            Health::update(self.directories, machine, |health| health.is_full(&reason));
            self.refused.push(Rejection::busy(machine, reason));
            self.candidates.retain(|other| *other != machine);
        } else if self.is_refused_itself(machine, error) {
            self.refused.push(Rejection::dead(machine, reason));
            self.candidates.retain(|other| *other != machine);
        } else {
            self.set_aside(machine, &reason);
        }
    }

    /// Whether a pool's scheduler may have refused only this build, for what it asks for beyond the pool's
    /// entry: the words for its features, which may contradict each other, or more time than builds have
    /// that ask for none. Clients choose both, and must not be able to take the pool from others.
    fn is_refused_itself(&self, machine: &Machine, error: &remote::Error) -> bool {
        let remote::Error::Rejected { .. } = error else {
            return false;
        };
        machine.pool.as_ref().is_some_and(|pool| {
            let has_words = |feature| pool.resources.contains_key(feature);
            let has_time = self.seconds > USUAL_SECONDS && pool.job_minutes.is_none();
            has_time || self.request.features.iter().any(has_words)
        })
    }

    /// Leaves out machines that are not listed any more, as far as the list can be read. (What is wrong
    /// with it was said when it was read first.)
    fn keep_listed(&mut self) {
        if let Ok(list) = generated::load(self.directories, Audience::Administrator) {
            let listed: HashSet<String> = list.keys().collect();
            self.candidates
                .retain(|machine| listed.contains(&machine.key()));
        }
    }

    /// Records that a machine has failed: this hook doesn't use it again, and others only later.
    fn set_aside(&mut self, machine: &Machine, error: &str) {
        self.lacks_only_time = false;
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
    if let Some(history) = &search.directories.history {
        history.prepare();
    }
    let derivation = daemon_directories.store.parse(&search.request.derivation)?;
    let store = match search.inputs.opened() {
        Some(store) => store,
        None => Store::open(daemon_directories, StoreOptions::default(), &Quiet)
            .context("opening the store")?,
    };
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
    let (directories, request) = (search.directories, search.request);
    let remember = |course: Course, machine: &Machine, result, reason: &str| {
        let derivation = (&derivation, &store);
        course.end(directories, request, derivation, machine, result, reason);
    };
    loop {
        let (mut chosen, transport) = found;
        let sending = chosen.sending.take();
        let machine = chosen.machine;
        let mut course = Course::begin();
        let connected = match (transport, &machine.pool) {
            (None, Some(pool)) => search.connect_to_pool(&chosen, pool).map_err(Into::into),
            (Some(transport), _) => Ok(transport),
            (None, None) => bail!("there is no connection to '{}'", machine.name),
        };
        let built = connected.and_then(|transport| {
            transfer::offload(
                &host,
                machine,
                transport,
                &task,
                sending,
                &mut *log,
                &mut course,
            )
        });
        let error = match built {
            Ok(()) => {
                Health::update(search.directories, machine, Health::succeeded);
                remember(course, machine, AttemptResult::Done, "");
                return Ok(0);
            }
            Err(error) => error,
        };
        if let Some(status) = error.is_build_failure() {
            // The machine itself works.
            Health::update(search.directories, machine, Health::build_failed);
            stderr_line!("{error}");
            if let Some(reason) = error.verdict().filter(|_| wants_reasons()) {
                let derivation = derivation.as_str();
                stderr::write_trace(&Trace::BuildVerdict { derivation, reason });
            }
            let (result, code) = match status == u32::from(TIMED_OUT) {
                true => (AttemptResult::TimedOut, TIMED_OUT),
                false => (AttemptResult::Failed, 100),
            };
            remember(course, machine, result, &error.to_string());
            return Ok(code);
        }
        let reason = error.to_string();
        if error.is_local() {
            remember(course, machine, AttemptResult::HookFailed, &reason);
            return Err(error).context(format!("offloading '{derivation}' to '{}'", machine.name));
        }
        remember(course, machine, AttemptResult::MachineFailed, &reason);
        match &error {
            transfer::Error::Remote(error) => search.give_up(machine, error),
            _ => search.set_aside(machine, &reason),
        }
        drop(chosen);
        stderr_line!("{reason}");
        search.keep_listed();
        found = match search.next()? {
            Ok(next) => {
                stderr_line!("trying '{derivation}' on '{}' instead", next.0.machine.name);
                next
            }
            Err(rejections) => {
                choose::explain(search.request, &rejections);
                if search.lacks_only_time && search.candidates.is_empty() {
                    return Ok(TIMED_OUT);
                }
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
