//! The process that the [fork server](super::forking) forked: it becomes the builder.
//!
//! It is born in the builder's namespaces, reads the [`Plan`], one line, and reports what becomes
//! of it: [`READY`] just before the builder is executed, or else the error. The phases have the
//! names that they have in Guix.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::process::exit;

use nix::unistd::setsid;
use system::namespace::{self, IdMap};
use system::{caps, ids, keyring, signal};

use super::execute;
use super::identity::{GUEST_GID, GUEST_UID, Identity};
use super::mounts;
use super::network;
use super::phase::{SetUpError, phase};
use super::plan::{Network, Plan};

/// The report that all went well.
pub(super) const READY: &str = "ready";

/// What the daemon says, after the plan, when it has connected the builder to the network.
pub(super) const CONNECTED: &str = "connected\n";

/// What it says if it could not, before the reason.
pub(super) const ALONE: &str = "alone ";

/// Becomes the builder of the plan, or reports why not. Where there is a new user namespace, its
/// guest has the ids `ids_outside`.
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
    if let Some(ids) = ids_outside {
        phase("usernsSetIDs", map_ids(ids))?;
    }
    let mut orders = io::BufReader::new(plan);
    let plan = phase("plan", read_plan(&mut orders))?;
    die_with_daemon()?;
    leave_session()?;
    if let Some(chroot) = &plan.chroot {
        match &chroot.network {
            Network::Loopback => phase("initLoopback", system::network::bring_up_loopback())?,
            Network::None => {}
            Network::Host { loopback, ipv6, .. } => {
                if phase("waitForSlirpReady", wait_for_network(&mut orders))? {
                    phase("initLoopback", network::settle_loopback(*loopback))?;
                    if *ipv6 && let Err(error) = network::settle_ipv6() {
                        eprintln!("cannot set up IPv6: {error}");
                    }
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
    phase("restoreSIGPIPE", signal::restore_broken_pipes())?;
    let program = phase("exec", execute::find(&plan))?;
    // Nothing comes in by keys of whoever started the daemon, and nothing is left for later builds.
    phase("keyring", keyring::join_new_session())?;
    phase("seccomp", execute::restrict(&plan))?;
    phase("setupSuccess", writeln!(status, "{READY}"))?;
    // What fails from here on is the build's failure, told in its log.
    let error = execute::run(&plan, program);
    eprintln!("error: {error}");
    exit(1)
}

/// The plan, which is followed by what else the daemon has to say.
fn read_plan(orders: &mut impl BufRead) -> io::Result<Plan> {
    let mut line = Vec::new();
    orders.read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
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

/// Becomes the guest of the new user namespace; `outside` are the ids from before there was one.
fn map_ids(outside: (u32, u32)) -> io::Result<()> {
    let user = IdMap {
        inside: GUEST_UID,
        outside: outside.0,
    };
    let group = IdMap {
        inside: GUEST_GID,
        outside: outside.1,
    };
    namespace::write_own_maps(user, group)
}

/// Has the kernel kill this process when the daemon dies.
fn die_with_daemon() -> Result<(), SetUpError> {
    let signal = nix::sys::signal::Signal::SIGKILL;
    phase("parentDeath", nix::sys::prctl::set_pdeathsig(signal))
}

/// A session of its own, no capabilities that would outlast an exec.
fn leave_session() -> Result<(), SetUpError> {
    match setsid() {
        // A process that was started as the leader of its own session already.
        Err(nix::errno::Errno::EPERM) => {}
        result => drop(phase("setsid", result)?),
    }
    phase("dropAmbientCapabilities", caps::drop_ambient())
}
