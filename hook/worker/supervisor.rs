//! The first process of a worker: it makes a directory, starts the process that serves, and removes the
//! directory when that has ended.
//!
//! It has a single thread until it has forked, and outlives everything that the worker starts, unless it is
//! killed itself: then the second process dies with it, and the next worker sweeps the directory.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::parent_id;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use system::namespace::{self, IdMap, Namespaces};
use system::process::Child;
use system::signal::{self, Signal};
use system::{ids, mount, pipe};

use super::daemon::Program;
use super::directory::{self, WorkerDirectory, disk};
use super::inside::{self, Plan};
use super::keys::FixedPair;
use super::options::Options;
use super::root::{DIRECTORIES, FILES, ROOT};
use super::session::ENDING;
use super::streams::Streams;
use crate::frames::{Class, Failure};

/// How long the second process may take to tell the keeper that a signal ends it.
const GRACE: Duration = Duration::from_secs(2);
/// Sent when the thread ends that has started this process: perhaps the whole process.
const PARENT_ENDS: Signal = Signal::SIGUSR1;

/// Runs a worker with a daemon of its own.
pub(super) fn run(options: Options, mut streams: Streams) -> Result<u8> {
    let parent = parent_id();
    let signals = [&ENDING[..], &[PARENT_ENDS, Signal::SIGCHLD]].concat();
    signal::block(&signals).context("cannot block signals")?;
    signal::on_end_of_parent(PARENT_ENDS).context("cannot follow the parent process")?;
    if parent_id() != parent {
        return Ok(1);
    }
    let prepared = match prepare(&options) {
        Ok(prepared) => prepared,
        Err(failure) => {
            streams.refuse(&failure);
            return Ok(1);
        }
    };
    let (directory, plan) = prepared;
    let mut streams = Some(streams);
    let started = start(plan, &mut streams);
    let code = match started {
        Ok(worker) => {
            let within = directory.within();
            // What it doesn't finish, the next worker does.
            thread::spawn(move || directory::sweep(&within));
            // Nobody but the second process holds the output now.
            drop(streams);
            supervise(worker, parent, &signals)
        }
        Err(failure) => {
            if let Some(streams) = &mut streams {
                streams.refuse(&failure);
            }
            Ok(1)
        }
    };
    let path = directory.path();
    if let Err(error) = directory.remove() {
        crate::stderr_line!(
            "guix offload: worker: cannot remove `{}': {error}",
            path.display()
        );
    }
    code
}

/// Makes the directory, and opens what may be out of reach later.
fn prepare(options: &Options) -> Result<(WorkerDirectory, Plan), Failure> {
    let program = Program::find(options.daemon.as_deref())?;
    let pair = options.key.as_deref().map(FixedPair::read).transpose()?;
    let user = match ids::effective_uid() {
        0 => {
            // In a plain chroot, root could make no user namespace.
            if namespace::unshare(Namespaces::CLONE_NEWNS).is_ok() {
                let _ = mount::make_chroot_the_root();
            }
            ids::nobody_else().map_err(|error| disk("read", Path::new("/proc/self"), &error))?
        }
        _ => None,
    };
    let within = match &options.directory {
        Some(directory) => directory.clone(),
        None => std::env::temp_dir(),
    };
    let directory = WorkerDirectory::make(&within, user.is_some())?;
    let path = directory.path();
    if let Err((path, error)) = fill(&path, user) {
        let failure = disk("make", &path, &error);
        let _ = directory.remove();
        return Err(failure);
    }
    let plan = Plan {
        directory: path,
        user,
        program,
        pair,
        patience: options.patience,
    };
    Ok((directory, plan))
}

/// Makes the directories in a worker's directory.
fn fill(directory: &Path, user: Option<(u32, u32)>) -> Result<(), (std::path::PathBuf, io::Error)> {
    let make = |path: &Path, mode| -> io::Result<()> {
        fs::create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        match user {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)),
            None => Ok(()),
        }
    };
    let files = directory.join(FILES);
    let top = [(directory.join(ROOT), 0o755), (files.clone(), 0o755)];
    let rest = DIRECTORIES.map(|(name, mode)| (files.join(name), mode));
    for (path, mode) in top.into_iter().chain(rest) {
        make(&path, mode).map_err(|error| (path, error))?;
    }
    Ok(())
}

/// The second process, and what it reads from as long as this one lives.
struct Worker {
    process: Child,
    _go: std::os::fd::OwnedFd,
}

/// Starts the second process, which takes the streams.
fn start(plan: Plan, streams: &mut Option<Streams>) -> Result<Worker, Failure> {
    let failed = |error: io::Error| {
        let text = format!(
            "cannot start a process in namespaces of its own: {error}{}",
            hint()
        );
        Failure::new(Class::Namespaces, text)
    };
    let (wait, go) = pipe::pipe().map_err(failed)?;
    let user = plan.user;
    let new = Namespaces::CLONE_NEWUSER
        | Namespaces::CLONE_NEWNS
        | Namespaces::CLONE_NEWPID
        | Namespaces::CLONE_NEWIPC;
    let Some(pid) = namespace::fork_into(new).map_err(failed)? else {
        drop(go);
        match streams.take() {
            Some(streams) => inside::run(plan, streams, wait),
            None => system::process::exit_now(1),
        }
    };
    let process = Child::new(pid, false).map_err(failed)?;
    let own = || (ids::effective_uid(), ids::effective_gid());
    let (uid, gid) = user.unwrap_or_else(own);
    namespace::write_maps_of(pid, IdMap::same(uid), IdMap::same(gid)).map_err(failed)?;
    nix::unistd::write(&go, b"g").map_err(|error| failed(error.into()))?;
    Ok(Worker { process, _go: go })
}

/// Why user namespaces may be forbidden.
fn hint() -> &'static str {
    let setting = |file: &str| fs::read_to_string(Path::new("/proc/sys").join(file));
    let is = |file: &str, value: &str| setting(file).is_ok_and(|text| text.trim() == value);
    if is("kernel/unprivileged_userns_clone", "0") {
        "; the node forbids user namespaces (sysctl kernel.unprivileged_userns_clone is 0)"
    } else if is("user/max_user_namespaces", "0") {
        "; the node forbids user namespaces (sysctl user.max_user_namespaces is 0)"
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "; the node allows user namespaces to programs with an AppArmor profile only (sysctl \
         kernel.apparmor_restrict_unprivileged_userns is 1)"
    } else {
        "; in a chroot, and in a container with a filter of system calls, user namespaces are \
         forbidden (podman: --security-opt seccomp=unconfined)"
    }
}

/// Waits for the end of the second process, and ends it when this one is told to end.
fn supervise(mut worker: Worker, parent: u32, signals: &[Signal]) -> Result<u8> {
    let process = &mut worker.process;
    loop {
        let signal = signal::wait_for(signals).context("cannot wait for signals")?;
        if let Some(status) = process.try_wait().context("cannot wait for the worker")? {
            return Ok(u8::from(!status.success()));
        }
        if ENDING.contains(&signal) {
            // It tells the keeper.
            let _ = process.signal(Signal::SIGTERM);
            if process
                .wait_timeout(GRACE)
                .is_ok_and(|status| status.is_some())
            {
                return Ok(1);
            }
        } else if signal != PARENT_ENDS || parent_id() == parent {
            continue;
        }
        process.kill_group().context("cannot end the worker")?;
        process.wait().context("cannot wait for the worker")?;
        return Ok(1);
    }
}
