//! A build on this machine (`doc/spec/build-environment.md`, sections 4 to 8 and 10 to 12).
//!
//! The builder runs in the `sandbox`; its outputs are checked and registered in `outputs`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bstr::ByteSlice;
use formats::store_path::StorePath;
use protocol::builder_filter::BuilderFilter;
use protocol::operations::BuildMode;
use protocol::trace::{BuildFailure, Trace};
use store::Level;
use system::signal;

use super::attempt::Attempt;
use super::attempt_error::AttemptError;
use super::build_users::AcquiredUser;
use super::deadline::Deadline;
use super::environment;
use super::files::{self, failed};
use super::job::Job;
use super::log_file::LogFile;
use super::monitor::{Carries, Ended, Limits, Monitor, Source};
use super::outcome::{Failure, Outcome};
use super::outputs::{self, Maker, Produced, Round};
use super::references_graph::{self, Graph};
use super::sandbox::{
    self, BuildDirectory, BuildUser, Identity, Ipc, Network, OutputDirectory, Plan, Program, Root,
    RootRequest,
};
use super::stage::Stage;
use crate::request_error::RequestError;

/// Guix's message, which hooks look for.
const LACK_OF_SPACE: &str = "note: build failure may have been caused by lack of free disk space";

/// Builds the missing outputs of a derivation, whose locks the caller holds.
pub(super) fn build(
    job: &Job,
    attempt: &Attempt,
    missing: &BTreeSet<StorePath>,
) -> Result<Outcome, RequestError> {
    match rounds(job, attempt, missing) {
        Ok(outcome) => Ok(outcome),
        Err(error) => error.outcome(job, attempt),
    }
}

fn rounds(
    job: &Job,
    attempt: &Attempt,
    missing: &BTreeSet<StorePath>,
) -> Result<Outcome, AttemptError> {
    let count = match job.is_fixed_output() {
        true => 1,
        false => 1 + job.session.build_repeat().map_err(RequestError::new)?,
    };
    let mut previous: Option<Vec<Produced>> = None;
    for number in 1..=count {
        let quoted: Vec<String> = missing.iter().map(|path| format!("`{path}'")).collect();
        let doing = match job.mode {
            BuildMode::Repair => "repairing",
            BuildMode::Check => "checking",
            BuildMode::Normal => "building",
        };
        let mut text = format!("{doing} path(s) {}", quoted.join(", "));
        if count > 1 && job.mode == BuildMode::Normal {
            text += &format!(" (round {number}/{count})");
        }
        attempt.message(Level::Info, text);
        let build = Build::prepare(job, attempt, missing)?;
        match build.run(attempt)? {
            Ended::Exited(status) if status.success() => {}
            Ended::Exited(status) => {
                let described = signal::describe_exit(status);
                return build.give_up(attempt, &described);
            }
            Ended::TimedOut => {
                build.clean_up(attempt, false)?;
                attempt.trace(Trace::BuildFailed {
                    derivation: job.path.as_str(),
                    failure: BuildFailure::Timeout,
                });
                return Ok(Outcome::Failed(Failure::TimedOut));
            }
            Ended::Cancelled => {
                build.clean_up(attempt, false)?;
                return Ok(Outcome::Failed(Failure::Misc));
            }
        }
        let round = Round {
            last: number == count,
            previous: previous.as_deref(),
        };
        let places = |path: &StorePath| build.place(path);
        let taken = outputs::take(
            job,
            &build.deadline,
            missing,
            &places,
            Some(build.maker()),
            &round,
        );
        match taken {
            Ok(produced) => previous = Some(produced),
            Err(error) => {
                let error = build.excuse(attempt, build.deadline.explain(error));
                build.clean_up(attempt, false)?;
                return Err(error);
            }
        }
        build.clean_up(attempt, true)?;
    }
    attempt.trace(Trace::BuildSucceeded {
        derivation: job.path.as_str(),
    });
    Ok(Outcome::Done)
}

/// One round: one execution of the builder.
struct Build<'a> {
    job: &'a Job,
    missing: &'a BTreeSet<StorePath>,
    deadline: Deadline<'a>,
    user: Option<AcquiredUser>,
    ipc: Ipc,
    identity: Identity,
    directory: BuildDirectory,
    root: Option<Root>,
    /// The output directory of a builtin builder.
    output_directory: Option<OutputDirectory>,
}

impl<'a> Build<'a> {
    fn prepare(
        job: &'a Job,
        attempt: &'a Attempt,
        missing: &'a BTreeSet<StorePath>,
    ) -> Result<Build<'a>, AttemptError> {
        let store = &job.engine.store;
        let is_builtin = job.derivation.builtin().is_some();
        let in_chroot = job.session.use_chroot && !is_builtin;
        let graphs = references_graph::wanted(job)?;
        if !in_chroot && !is_builtin {
            if Path::new("/homeless-shelter").exists() {
                let text = "directory `/homeless-shelter' exists; please remove it";
                return Err(RequestError::new(text).into());
            }
            for (_, output) in job.outputs() {
                if store.is_valid(output)? {
                    // The builder would overwrite an output that others use.
                    return Err(RequestError::new(format!(
                        "cannot build `{}' again outside a chroot while its output `{output}' is valid",
                        job.path
                    ))
                    .into());
                }
            }
        }
        let host_directories = job.host_directories();
        let ipc = match in_chroot && host_directories.is_empty() {
            true => Ipc::Own,
            // The directories may include /dev/shm.
            false => Ipc::Host,
        };
        let user = build_user(job, attempt, in_chroot || is_builtin, ipc)?;
        let identity = user.as_ref().map_or(Identity::Own, |user| user.identity());
        let directory = BuildDirectory::create(job.path.name(), &identity, in_chroot)
            .map_err(|e| failed("creating the build directory", e))?;
        let mut build = Build {
            job,
            missing,
            deadline: Deadline::start(job, attempt),
            user,
            ipc,
            identity,
            directory,
            root: None,
            output_directory: None,
        };
        // From here on, the build directory exists.
        let host_directories = in_chroot.then_some(host_directories);
        if let Err(error) = build.fill(attempt, &graphs, host_directories) {
            let _ = build.directory.clone().delete();
            return Err(build.deadline.explain(error));
        }
        Ok(build)
    }

    fn fill(
        &mut self,
        attempt: &Attempt,
        graphs: &[Graph],
        host_directories: Option<Vec<String>>,
    ) -> Result<(), AttemptError> {
        references_graph::write(self.job, graphs, self.directory.outside(), &self.deadline)?;
        let job = self.job;
        if job.derivation.builtin().is_some() {
            let made = OutputDirectory::create(job.path.as_path(), &self.identity);
            self.output_directory = Some(made.map_err(|e| failed("preparing the output", e))?);
        }
        let Some(extra) = host_directories else {
            return Ok(());
        };
        let network = match job.is_fixed_output() {
            false => Network::Loopback,
            true => sandbox::of_fixed_output(job.engine.settings.use_host_loopback).unwrap_or_else(
                |reason| {
                    attempt.message(Level::Error, reason);
                    Network::None
                },
            ),
        };
        let request = RootRequest {
            store: job.engine.store.dir().as_path(),
            derivation: job.path.as_path(),
            identity: &self.identity,
            directory: &self.directory,
            inputs: job
                .input_closure()?
                .iter()
                .map(|path| path.as_path().to_owned())
                .collect(),
            outputs: job
                .outputs()
                .map(|(_, path)| path.as_path().to_owned())
                .collect(),
            extra,
            network,
        };
        let root = Root::create(&request).map_err(|e| failed("preparing the chroot", e))?;
        self.root = Some(root);
        Ok(())
    }

    /// Who makes the outputs.
    fn maker(&self) -> Maker {
        Maker {
            uid: self.identity.uid(),
            // Without a chroot, or through a directory of the host.
            reaches_others: self.ipc == Ipc::Host,
        }
    }

    /// Where an output is before it is moved to the store.
    fn place(&self, output: &StorePath) -> PathBuf {
        match (&self.root, &self.output_directory) {
            (Some(root), _) => root.outside(output.as_path()),
            (None, Some(directory)) => directory.place(output.as_path()),
            (None, None) => output.as_path().to_owned(),
        }
    }

    /// Runs the builder to its end.
    fn run(&self, attempt: &Attempt) -> Result<Ended, AttemptError> {
        let result = self.run_builder(attempt);
        let fork_server = &self.job.engine.fork_server;
        let killed = self
            .user
            .as_ref()
            .map_or(Ok(()), |user| user.kill_processes(fork_server, self.ipc));
        if result.is_err() {
            self.delete_directory();
        }
        let ended = result?;
        killed.map_err(|e| failed("killing processes of the build user", e))?;
        Ok(ended)
    }

    fn run_builder(&self, attempt: &Attempt) -> Result<Ended, AttemptError> {
        let job = self.job;
        let engine = &job.engine;
        let plan = self.plan()?;
        if job.derivation.builtin().is_some() {
            if let Some(lack) = engine.settings.fetcher.lack() {
                let text = format!("warning: {lack}; there are no downloads");
                attempt.message(Level::Error, text);
            }
        }
        let keep = job
            .session
            .keep_log
            .then_some(engine.settings.directories.log.as_path());
        let log = LogFile::create(keep, &job.path, engine.settings.log_compression)?;
        let spawn = |program| engine.spawner.start(program);
        let tell = |level, text| attempt.message(level, text);
        let mut running =
            sandbox::start(&plan, &engine.fork_server, &spawn, &tell).map_err(RequestError::new)?;
        let (pid, name) = (running.child.pid(), log.name());
        attempt.trace(Trace::BuildStarted {
            derivation: job.path.as_str(),
            system: &job.platform(),
            log_file: name,
            pid: Some(pid.unsigned_abs()),
        });
        let monitor = Monitor {
            attempt,
            name: job.description(),
            limits: Limits::of(&job.session),
            started: self.deadline.started(),
            log,
        };
        let mut sources = [Source::new(
            running.log.into(),
            Carries::Log(BuilderFilter::default()),
        )];
        Ok(monitor.watch(&mut running.child, &mut sources, false)?)
    }

    fn plan(&self) -> Result<Plan, RequestError> {
        let job = self.job;
        let derivation = &job.derivation;
        let program = match derivation.builtin() {
            Some(_) => {
                let output = derivation.outputs.get("out").map(|output| &output.path);
                let output = output.ok_or_else(|| {
                    RequestError::new(format!("`{}' has no output `out'", job.path))
                })?;
                Program::Builtin {
                    name: derivation.builder.to_str_lossy().into_owned(),
                    program: job.engine.settings.fetcher.program().into(),
                    output: self.place(output).into(),
                }
            }
            None => Program::Builder {
                file: derivation.builder.to_vec().into(),
                arguments: derivation
                    .arguments
                    .iter()
                    .map(|word| word.to_vec().into())
                    .collect(),
                platform: job.platform(),
            },
        };
        let environment = environment::of(job, &self.directory)?;
        Ok(Plan {
            derivation: job.path.to_string(),
            store: job.engine.store.dir().as_path().into(),
            program,
            environment: environment
                .into_iter()
                .map(|(name, value)| (name.to_vec().into(), value.to_vec().into()))
                .collect(),
            directory: match &self.root {
                Some(_) => self.directory.inside().into(),
                None => self.directory.outside().into(),
            },
            identity: self.identity.clone(),
            chroot: self.root.as_ref().map(Root::chroot),
            own_system: job.session.system.to_str_lossy().into_owned(),
            impersonate_linux_26: job.session.impersonate_linux_26,
            print_build_trace: job.session.print_build_trace,
        })
    }

    /// Cleans up after a failed builder.
    fn give_up(&self, attempt: &Attempt, described: &str) -> Result<Outcome, AttemptError> {
        let job = self.job;
        let failure = match job.is_fixed_output() {
            true => Failure::Transient,
            false => Failure::Permanent,
        };
        let message = format!("builder for `{}' {described}", job.path);
        let error = self.excuse(attempt, AttemptError::Failed(failure, message));
        if let (Some(root), BuildMode::Normal) = (&self.root, job.mode) {
            if let Err(error) = self.leave_outputs(root) {
                attempt.message(Level::Error, error.to_string());
            }
        }
        self.clean_up(attempt, false)?;
        Err(error)
    }

    /// A failure that may be due to a full file system isn't the derivation's fault, and isn't
    /// cached.
    fn excuse(&self, attempt: &Attempt, error: AttemptError) -> AttemptError {
        match error {
            AttemptError::Failed(_, message) if !self.has_space() => {
                attempt.message(Level::Error, LACK_OF_SPACE);
                AttemptError::Failed(Failure::Transient, message)
            }
            other => other,
        }
    }

    /// Whether the file systems that the builder can write to have free space.
    fn has_space(&self) -> bool {
        let inside = self
            .root
            .as_ref()
            .map(|root| root.outside(Path::new("/tmp")));
        let store = self.job.engine.store.dir().as_path();
        let places = [
            Some(store),
            Some(self.directory.outside()),
            inside.as_deref(),
        ];
        !places.into_iter().flatten().any(files::is_full)
    }

    /// Moves the outputs of a failed builder to their store paths, for inspection. They stay
    /// invalid.
    fn leave_outputs(&self, root: &Root) -> Result<(), RequestError> {
        for output in self.missing {
            let made = root.outside(output.as_path());
            if files::exists(&made)? && !files::exists(output.as_path())? {
                files::make_failed_output_harmless(&made, self.identity.uid())?;
                files::move_tree(&made, output.as_path())?;
            }
        }
        Ok(())
    }

    /// Without a chroot, makes outputs safe that a failed build, or one with rejected outputs, has
    /// left in the store itself.
    fn disarm_outputs(&self, attempt: &Attempt) -> Result<(), RequestError> {
        if self.root.is_some() || self.output_directory.is_some() {
            return Ok(());
        }
        let builder = self.identity.uid();
        for output in self.missing {
            if !files::exists(output.as_path())? || self.job.engine.store.is_valid(output)? {
                continue;
            }
            if let Err(error) = files::make_failed_output_harmless(output.as_path(), builder) {
                attempt.message(Level::Error, error.to_string());
                files::remove(output.as_path())?;
            }
        }
        Ok(())
    }

    /// Deletes the build's directory, or keeps it if the build failed and the client wants to
    /// inspect it.
    fn clean_up(&self, attempt: &Attempt, succeeded: bool) -> Result<(), RequestError> {
        let job = self.job;
        if !succeeded {
            self.disarm_outputs(attempt)?;
        }
        if succeeded || !job.session.keep_failed || job.client.remote {
            self.delete_directory();
            return Ok(());
        }
        let directory = self.directory.outer();
        attempt.message(
            Level::Error,
            format!("note: keeping build directory `{}'", directory.display()),
        );
        let builder = self.identity.uid();
        files::keep_for(&self.directory, builder, job.client.uid, job.client.gid).or_else(|error| {
            attempt.message(
                Level::Info,
                format!(
                    "cannot change ownership of build directory `{}': {error}",
                    directory.display()
                ),
            );
            Ok(())
        })
    }

    fn delete_directory(&self) {
        if let Err(error) = self.directory.clone().delete() {
            tracing::warn!("cannot delete build directory: {error}");
        }
    }
}

/// The user that the build runs as, without processes of an earlier build; waits until one is free.
/// `None` for a daemon that isn't root: its builds run as its own user.
fn build_user(
    job: &Job,
    attempt: &Attempt,
    writes_elsewhere: bool,
    ipc: Ipc,
) -> Result<Option<AcquiredUser>, AttemptError> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    let engine = &job.engine;
    let group = job.session.build_users_group.to_str_lossy();
    let pool = engine.settings.directories.state.join("userpool");
    if group.is_empty() && !writes_elsewhere {
        // It would need root's permission to write to the store.
        let text = "without a chroot, no build can run safely as root: use `--build-users-group'";
        return Err(RequestError::new(text).into());
    }
    let try_acquire = || match group.is_empty() {
        false => BuildUser::acquire(&group, &pool),
        true => BuildUser::allocate(&pool),
    };
    let on_wait = || {
        attempt.stage().enter(Stage::BuildUser);
        if job.slots.is_first_wait_for_user() {
            let text = "waiting for a build user: all are in use...";
            attempt.message(Level::Error, text);
        }
    };
    let begun = Instant::now();
    let acquired = engine.build_users.acquire(
        &group,
        job.client.client(),
        attempt.cancel(),
        try_acquire,
        on_wait,
    );
    attempt.has_waited(begun.elapsed());
    let Some(user) = acquired.map_err(RequestError::new)? else {
        return Err(AttemptError::Cancelled);
    };
    attempt.stage().enter(Stage::Here);
    user.kill_processes(&engine.fork_server, ipc)
        .map_err(|e| failed("killing processes of the build user", e))?;
    Ok(Some(user))
}
