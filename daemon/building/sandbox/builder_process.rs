//! The process that the [fork server](super::fork_server_process) has forked: it becomes the
//! builder.
//! It starts in the builder's namespaces, reads the [`Plan`](super::plan::Plan), which is one line, and
//! reports [`READY`] just before it executes the builder, or else an error. The phases are named as in
//! Guix.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::process::exit;

use nix::unistd::setsid;
use system::namespace::{self, IdMap, Namespaces};
use system::{caps, ids, keyring, signal};

use super::build_log::log;
use super::execute;
use super::identity::{GUEST_GID, GUEST_UID, Identity};
use super::mounts;
use super::network;
use super::phase::{SetUpError, phase};
use super::plan::{Network, Order};

/// The report that the builder is about to be executed.
pub(super) const READY: &str = "ready";

/// The line that the daemon sends after the plan, once it has connected the builder to the network.
pub(super) const CONNECTED: &str = "connected\n";

/// The beginning of the line that it sends if that failed; the reason follows.
pub(super) const NOT_CONNECTED: &str = "not-connected ";

/// Becomes the builder of the plan, or reports an error. `ids_outside` are the daemon's user and
/// group, if there is a new user namespace to map them into.
pub(super) fn run(ids_outside: Option<(u32, u32)>, plan: File, mut status: File) -> ! {
    let Err(error) = become_builder(ids_outside, plan, &mut status);
    let _ = writeln!(status, "{error}");
    exit(1)
}

fn become_builder(
    ids_outside: Option<(u32, u32)>,
    plan: File,
    status: &mut File,
) -> Result<Infallible, SetUpError> {
    let mut from_daemon = io::BufReader::new(plan);
    let Order {
        plan,
        groups_mapped,
    } = phase("plan", read_order(&mut from_daemon))?;
    if let Some(ids) = ids_outside {
        phase("usernsSetIDs", map_ids(ids, groups_mapped))?;
    }
    die_with_daemon()?;
    leave_session()?;
    if let Some(chroot) = &plan.chroot {
        match &chroot.network {
            Network::Loopback => phase("initLoopback", system::network::bring_up_loopback())?,
            Network::None => {}
            Network::Host { loopback, ipv6, .. } => {
                if phase("waitForSlirpReady", wait_for_network(&mut from_daemon))? {
                    phase("initLoopback", network::set_up_loopback(*loopback))?;
                    if *ipv6 {
                        if let Err(error) = network::set_up_ipv6() {
                            log(format_args!("cannot set up IPv6: {error}"));
                        }
                    }
                }
            }
        }
        phase("setHostAndDomain", nix::unistd::sethostname("localhost"))?;
        phase("setHostAndDomain", namespace::set_domain_name("(none)"))?;
        mounts::change_root(chroot)?;
    }
    execute::restrict_view(&plan);
    phase("chdir", std::env::set_current_dir(plan.directory.as_path()))?;
    phase("setPersonality", execute::set_personality(&plan))?;
    // When memory runs out, the kernel should kill builders first. This may not be permitted.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    if plan.chroot.is_some() && plan.identity == Identity::Own {
        mounts::lock()?;
    }
    // The builder gets no keys of the user who started the daemon, and leaves none to later builds.
    // The keyring itself doesn't belong to the builder's user, who would otherwise have to be cleared
    // of it.
    phase("keyring", keyring::join_new_session())?;
    let downloader = execute::open_downloader(&plan);
    if let Identity::User {
        uid, gid, groups, ..
    } = &plan.identity
    {
        phase("setIDs", ids::set_groups(groups))?;
        phase("setIDs", ids::set_gid(*gid))?;
        phase("setIDs", ids::set_uid(*uid))?;
    }
    if plan.chroot.is_some() {
        if let Identity::User {
            renumbered: true, ..
        } = &plan.identity
        {
            phase("usernsSetIDs", renumber())?;
        }
    }
    // Changing the user has cleared the parent-death signal.
    die_with_daemon()?;
    phase("restoreSIGPIPE", signal::restore_broken_pipes())?;
    let program = execute::find(&plan);
    phase("seccomp", execute::restrict(&plan))?;
    phase("setupSuccess", writeln!(status, "{READY}"))?;
    // From here on, an error is a failure of the build, and is written to its log.
    let error = execute::run(&plan, program, downloader);
    log(format_args!("error: {error}"));
    exit(1)
}

/// Reads the plan.
fn read_order(from_daemon: &mut impl BufRead) -> io::Result<Order<'static>> {
    let mut line = Vec::new();
    from_daemon.read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Waits until the daemon reports whether the network is connected. If not, the build continues,
/// since it may not need it, and its log has the reason.
fn wait_for_network(from_daemon: &mut impl BufRead) -> io::Result<bool> {
    let mut line = String::new();
    from_daemon.read_line(&mut line)?;
    if line == CONNECTED {
        return Ok(true);
    }
    let reason = line.strip_prefix(NOT_CONNECTED);
    let reason = reason.ok_or_else(|| io::Error::other("unexpected end-of-file"))?;
    log(format_args!(
        "{}, network access disabled",
        reason.trim_end()
    ));
    Ok(false)
}

/// Maps the ids of the new user namespace to `outside`, the daemon's user and group; only the user if
/// the groups are mapped already.
fn map_ids(outside: (u32, u32), groups_mapped: bool) -> io::Result<()> {
    let user = IdMap {
        inside: GUEST_UID,
        outside: outside.0,
    };
    if groups_mapped {
        return namespace::write_own_user_map(user);
    }
    let group = IdMap {
        inside: GUEST_GID,
        outside: outside.1,
    };
    namespace::write_own_maps(user, group)
}

/// Makes the builder see itself as user 30001, as with an unprivileged daemon. Where that isn't
/// permitted, it sees its actual id.
fn renumber() -> io::Result<()> {
    // Changing the user makes `/proc/self' inaccessible until the process executes a program.
    nix::sys::prctl::set_dumpable(true)?;
    let ids = (ids::effective_uid(), ids::effective_gid());
    match namespace::unshare(Namespaces::CLONE_NEWUSER) {
        Ok(()) => map_ids(ids, false),
        Err(error) => {
            log(format_args!("cannot make a user namespace: {error}"));
            Ok(())
        }
    }
}

/// Asks the kernel to kill this process when the daemon dies.
fn die_with_daemon() -> Result<(), SetUpError> {
    let signal = nix::sys::signal::Signal::SIGKILL;
    phase("parentDeath", nix::sys::prctl::set_pdeathsig(signal))
}

/// Starts a session, and drops capabilities that would survive an exec.
fn leave_session() -> Result<(), SetUpError> {
    match setsid() {
        // The process is already the leader of a session.
        Err(nix::errno::Errno::EPERM) => {}
        result => drop(phase("setsid", result)?),
    }
    phase("dropAmbientCapabilities", caps::drop_ambient())
}
