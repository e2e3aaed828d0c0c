//! The re-executed daemon: a process with one thread that becomes the builder.
//!
//! It reads the [`Plan`], one line, from descriptor 3 and reports on descriptor 4, in lines: `pid N` if it
//! has made the builder another process, and [`READY`] just before the builder is executed, or
//! else the error. These come from two processes, in any order, but each is written at once. The
//! phases have the names that they have in Guix.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::os::fd::OwnedFd;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, setsid};
use system::namespace::{self, IdMap, Namespaces};
use system::{caps, ids, pipe, signal};

use super::execute;
use super::identity::Identity;
use super::mounts;
use super::network;
use super::plan::{Network, Plan};

/// The name under which the daemon executes itself.
pub(super) const NAME: &str = "guix-daemon-builder";
/// The descriptor from which the plan is read.
pub(super) const PLAN: i32 = 3;
/// The descriptor on which is reported.
pub(super) const STATUS: i32 = 4;
/// The report that all went well.
pub(super) const READY: &str = "ready\n";

/// What the daemon says, after the plan, when it has connected the builder to the network.
pub(super) const CONNECTED: &str = "connected\n";

/// What it says if it could not, before the reason.
pub(super) const ALONE: &str = "alone ";

/// An error in a phase of becoming the builder.
pub(super) struct SetUpError {
    phase: &'static str,
    error: io::Error,
}

/// Gives errors the name of the phase they occurred in.
pub(super) fn phase<T>(
    phase: &'static str,
    result: Result<T, impl Into<io::Error>>,
) -> Result<T, SetUpError> {
    result.map_err(|error| SetUpError {
        phase,
        error: error.into(),
    })
}

/// If this process was started to become a builder, becomes it and never returns. To be called
/// first of all in `main`, before there are other threads.
pub fn run_if_builder() {
    if std::env::args_os().next().is_none_or(|name| name != NAME) {
        return;
    }
    // Started by hand, there is nobody to report to.
    let Some(mut status) = pipe::inherited(STATUS).ok().flatten().map(File::from) else {
        eprintln!("{NAME}: to be started by guix-daemon only");
        std::process::exit(1);
    };
    let Err(SetUpError { phase, error }) = become_builder(&mut status);
    let text = format!(
        "while setting up the child process: in phase {phase}: {}\n",
        reason(&error)
    );
    let _ = status.write_all(text.as_bytes());
    std::process::exit(1);
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

fn become_builder(status: &mut File) -> Result<Infallible, SetUpError> {
    let (plan, mut orders) = phase("plan", read_plan())?;
    if plan.chroot.is_some() {
        let ids_outside = (ids::effective_uid(), ids::effective_gid());
        // The builder is to be the first process of its PID namespace, and the daemon's child.
        let forked = phase("clone", namespace::fork_sibling(namespaces(&plan.identity)))?;
        if let Some(pid) = forked {
            // `writeln!` would write it in pieces, and the builder may be reporting by now.
            let line = format!("pid {pid}\n");
            phase("clone", status.write_all(line.as_bytes()))?;
            std::process::exit(0);
        }
        if plan.identity == Identity::Own {
            phase("usernsSetIDs", map_ids(&plan.identity, ids_outside))?;
        }
    }
    die_with_daemon()?;
    leave_session()?;
    if let Some(chroot) = &plan.chroot {
        match &chroot.network {
            Network::Loopback => phase("initLoopback", system::network::bring_up_loopback())?,
            Network::None => {}
            Network::Host { loopback, .. } => {
                if phase("waitForSlirpReady", wait_for_network(&mut orders))? {
                    phase("initLoopback", network::settle_loopback(*loopback))?;
                }
            }
        }
        phase("setHostAndDomain", nix::unistd::sethostname("localhost"))?;
        phase("setHostAndDomain", namespace::set_domain_name("(none)"))?;
        mounts::change_root(chroot)?;
    }
    phase("chdir", std::env::set_current_dir(plan.directory.as_path()))?;
    phase("setPersonality", execute::set_personality(&plan))?;
    // Under pressure the kernel takes builders first. Not everybody may ask for that.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    if plan.chroot.is_some() && plan.identity == Identity::Own {
        mounts::lock()?;
    }
    if let Identity::User { uid, gid, groups } = &plan.identity {
        phase("setIDs", ids::set_groups(groups))?;
        phase("setIDs", ids::set_gid(*gid))?;
        phase("setIDs", ids::set_uid(*uid))?;
    }
    // Changing identity has undone it.
    die_with_daemon()?;
    // This process was born with two more.
    system::process::keep_standard_descriptors_only();
    phase("restoreSIGPIPE", signal::restore_broken_pipes())?;
    let program = phase("exec", execute::find(&plan))?;
    phase("setupSuccess", status.write_all(READY.as_bytes()))?;
    // What fails from here on is the build's failure, told in its log.
    let error = execute::run(&plan, &program);
    eprintln!("error: {error}");
    std::process::exit(1)
}

/// The plan, and where what else the daemon has to say is read.
fn read_plan() -> io::Result<(Plan, io::BufReader<File>)> {
    let fd: OwnedFd = pipe::inherited(PLAN)?.ok_or_else(|| io::Error::other("there is no plan"))?;
    let mut orders = io::BufReader::new(File::from(fd));
    let mut line = Vec::new();
    orders.read_until(b'\n', &mut line)?;
    Ok((serde_json::from_slice(&line)?, orders))
}

/// Waits until the daemon says whether the network is there. If not, the build goes on: it may not
/// need it, and its log tells why there is none.
fn wait_for_network(orders: &mut impl BufRead) -> io::Result<bool> {
    let mut line = String::new();
    orders.read_line(&mut line)?;
    if line == CONNECTED {
        return Ok(true);
    }
    let reason = line.strip_prefix(ALONE);
    let reason = reason.ok_or_else(|| io::Error::other("unexpected end-of-file"))?;
    eprintln!("{}, network access disabled", reason.trim_end());
    Ok(false)
}

/// The namespaces that a builder has for itself.
fn namespaces(identity: &Identity) -> Namespaces {
    let mut namespaces = Namespaces::CLONE_NEWNS
        | Namespaces::CLONE_NEWPID
        | Namespaces::CLONE_NEWNET
        | Namespaces::CLONE_NEWIPC
        | Namespaces::CLONE_NEWUTS;
    if *identity == Identity::Own {
        namespaces |= Namespaces::CLONE_NEWUSER;
    }
    namespaces
}

/// Becomes the guest of the new user namespace; `outside` are the ids from before there was one.
fn map_ids(identity: &Identity, outside: (u32, u32)) -> io::Result<()> {
    let (uid, gid) = identity.inside();
    namespace::write_own_maps(
        IdMap {
            inside: uid,
            outside: outside.0,
        },
        IdMap {
            inside: gid,
            outside: outside.1,
        },
    )
}

/// Has the kernel kill this process when the daemon dies.
fn die_with_daemon() -> Result<(), SetUpError> {
    let signal = nix::sys::signal::Signal::SIGKILL;
    phase("parentDeath", nix::sys::prctl::set_pdeathsig(signal))
}

/// A session of its own, any processor, no capabilities that would outlast an exec.
fn leave_session() -> Result<(), SetUpError> {
    let mut all = CpuSet::new();
    for processor in 0..CpuSet::count() {
        phase("restoreAffinity", all.set(processor))?;
    }
    // A client may have pinned the thread that asked for this build.
    let _ = sched_setaffinity(Pid::from_raw(0), &all);
    match setsid() {
        // A process that was started as the leader of its own session already.
        Err(nix::errno::Errno::EPERM) => {}
        result => drop(phase("setsid", result)?),
    }
    phase("dropAmbientCapabilities", caps::drop_ambient())
}
