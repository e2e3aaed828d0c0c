//! Whether a build can start: a process is brought to where it would execute a builder, in a sandbox
//! as builds have it, and ended.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bstr::ByteSlice;
use system::ids;

use super::advice;
use super::findings::Findings;
use crate::building::sandbox::{
    self, BuildDirectory, ForkServer, Identity, Network, Plan, Program, Root, RootRequest,
};
use crate::settings::Settings;
use crate::spawner::Spawner;

/// The name of the builder that is not there.
const NAME: &str = "00000000000000000000000000000000-check-setup";

/// How long the process may take to end once it has nothing to execute.
const TIMEOUT: Duration = Duration::from_secs(10);

pub fn check(settings: &Settings, findings: &mut Findings) {
    if !settings.session.use_chroot {
        return findings.note("builds have no sandbox, and see all of this machine", None);
    }
    let identity = match identity(settings) {
        Ok(identity) => identity,
        // What is wrong with the build users has been said.
        Err(error) => {
            return findings.note(
                format!("whether builds can start is unknown: {error}"),
                None,
            );
        }
    };
    match attempt(settings, &identity) {
        Ok(()) => findings.right("a build can start: namespaces, mounts, users and system calls"),
        Err(error) => {
            let fix = remedy(&error);
            findings.wrong(format!("no build can start: {error}"), fix);
        }
    }
}

/// The user of the first build.
fn identity(settings: &Settings) -> io::Result<Identity> {
    if ids::effective_uid() != 0 {
        return Ok(Identity::Own);
    }
    let group = settings.session.build_users_group.to_str_lossy();
    if group.is_empty() {
        return Ok(Identity::first_allocated());
    }
    let missing = || io::Error::other(format!("no build users in `{group}'"));
    let entry = sandbox::group_of_build_users(&group).map_err(io::Error::other)?;
    let name = entry.members.first().ok_or_else(missing)?;
    let account = ids::user_by_name(name)?.ok_or_else(missing)?;
    Ok(Identity::User {
        uid: account.uid,
        gid: entry.gid,
        groups: ids::groups_of(name, entry.gid)?,
        renumbered: false,
    })
}

/// Starts what would become a builder; whatever is made for that is deleted.
fn attempt(settings: &Settings, identity: &Identity) -> Result<(), String> {
    let directory = BuildDirectory::create("check-setup", identity, true)
        .map_err(|error| format!("in the directory for builds: {error}"))?;
    let result = start(settings, identity, &directory);
    let deleted = directory.delete();
    result?;
    deleted.map_err(|error| format!("deleting the build directory: {error}"))
}

fn start(
    settings: &Settings,
    identity: &Identity,
    directory: &BuildDirectory,
) -> Result<(), String> {
    let session = &settings.session;
    let extra = (session.shown_directories())
        .map(|word| word.to_str_lossy().into_owned())
        .collect();
    let store = settings.directories.store.as_path();
    let request = RootRequest {
        store,
        derivation: &directory.outer().join(NAME),
        identity,
        directory,
        inputs: Vec::new(),
        outputs: Vec::new(),
        extra,
        network: Network::Loopback,
    };
    let root = Root::create(&request).map_err(|error| format!("preparing the chroot: {error}"))?;
    let plan = Plan {
        derivation: format!("{NAME}.drv"),
        store: store.into(),
        program: Program::Builder {
            file: store.join(NAME).into(),
            arguments: Vec::new(),
            platform: session.system.to_str_lossy().into_owned(),
        },
        environment: Vec::new(),
        directory: directory.inside().into(),
        identity: identity.clone(),
        chroot: Some(root.chroot()),
        own_system: session.system.to_str_lossy().into_owned(),
        impersonate_linux_26: session.impersonate_linux_26,
        print_build_trace: false,
    };
    let spawner = Spawner::default();
    let spawn = |program| spawner.start(program);
    let fork_server = ForkServer::new({
        let spawner = spawner.clone();
        move |program| spawner.start(program)
    });
    // What it would tell has been found out already.
    let started = sandbox::start(&plan, &fork_server, &spawn, &|_, _| ());
    let mut running = started.map_err(|error| error.to_string())?;
    // It finds nothing to execute, and ends. The root directory is deleted after that.
    let _ = running.child.wait_timeout(TIMEOUT);
    Ok(())
}

/// What helps against an error of [`attempt`].
fn remedy(error: &str) -> String {
    let without = "guix-daemon --disable-chroot";
    if error.contains("in phase mountProc:") {
        let masks = masks();
        if !masks.is_empty() {
            let masks: Vec<_> = masks
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            return format!(
                "the kernel refuses a new /proc while parts of this one are hidden ({}): umount them, \
                 or start the container with `podman run --security-opt unmask=ALL' or `docker run \
                 --security-opt systempaths=unconfined', or {without}",
                masks.join(", ")
            );
        }
    }
    if error.contains("in phase clone:") || error.contains("in phase usernsSetIDs:") {
        return match ids::effective_uid() {
            0 => format!(
                "give the container CAP_SYS_ADMIN (`podman run --privileged'), or {without}"
            ),
            _ if !root_is_a_mount() => format!(
                "in a chroot, the kernel allows no user namespaces: run the daemon as root, or enter \
                 the directory as a container (`systemd-nspawn -D DIRECTORY'), or {without}"
            ),
            _ => format!(
                "{}, or {without}",
                advice::as_root("sysctl user.max_user_namespaces=10000")
            ),
        };
    }
    without.to_owned()
}

/// Whether the root directory is a mount point, as it is unless it was entered by `chroot`.
fn root_is_a_mount() -> bool {
    mount_points().iter().any(|path| path == Path::new("/"))
}

/// Where something is mounted.
fn mount_points() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(PathBuf::from).collect()
}

/// What is mounted below `/proc`, and hides parts of it.
fn masks() -> Vec<PathBuf> {
    let mut masks: Vec<PathBuf> = mount_points()
        .into_iter()
        .filter(|path| path.starts_with("/proc") && path != Path::new("/proc"))
        .filter(|path| path != Path::new("/proc/sys/fs/binfmt_misc"))
        .collect();
    masks.sort();
    masks.dedup();
    masks
}
