//! The group `kvm` in builders' user namespaces, so that tests of packages can give files to a
//! supplementary group. An unprivileged process can map no group but its own; the system's program
//! `newgidmap` maps what `/etc/subgid` allows it. (`doc/spec/build-environment.md`, section 5.)

use std::io;
use std::time::Duration;

use store::Level;
use system::process::{Child, Spawn, find_program};
use system::{ids, pipe, signal};

use super::identity::GUEST_GID;

/// The group `kvm` as builders see it.
const GUEST_KVM: u32 = 40000;

/// The program, which is searched for in `$PATH`.
const PROGRAM: &str = "newgidmap";
/// How long it may take: it may ask a name service.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The exit status of a program that is not there, as of a shell.
const NOT_FOUND: i32 = 127;

/// If this process is in the group `kvm`, maps that group and its own into the new user namespace of
/// the process `pid`. Returns whether its groups are mapped now. Why not, if they should be, is told.
pub(super) fn map_groups(
    pid: i32,
    spawn: &dyn Fn(Spawn) -> io::Result<Child>,
    tell: &dyn Fn(Level, String),
) -> bool {
    let Some(kvm) = own_kvm() else {
        return false;
    };
    match run(pid, kvm, spawn) {
        Ok(()) => {
            let text = format!("mapped 1 extra GIDs into namespace of PID {pid}");
            tell(Level::Chatty, text);
            true
        }
        Err(reason) => {
            let text = format!("error (ignored): program `{PROGRAM}' {reason}");
            tell(Level::Error, text);
            false
        }
    }
}

/// The number of the group `kvm`, if it is one of this process's supplementary groups.
fn own_kvm() -> Option<u32> {
    let own = ids::effective_gid();
    let groups = ids::supplementary_groups().ok()?;
    // Most daemons have no others, and needn't ask a name service.
    if groups.iter().all(|group| *group == own) {
        return None;
    }
    let kvm = ids::group_by_name("kvm").ok()??.gid;
    (kvm != own && groups.contains(&kvm)).then_some(kvm)
}

/// Runs the program; or what it did instead of succeeding.
fn run(pid: i32, kvm: u32, spawn: &dyn Fn(Spawn) -> io::Result<Child>) -> Result<(), String> {
    let Some(program) = find_program(PROGRAM) else {
        tracing::error!("executing `{PROGRAM}': No such file or directory");
        return Err(format!("failed with exit code {NOT_FOUND}"));
    };
    let own = ids::effective_gid();
    let words = [pid.unsigned_abs(), GUEST_GID, own, 1, GUEST_KVM, kvm, 1];
    let ended = || {
        let program = Spawn::new(program)
            .arg0(PROGRAM)
            .args(words.map(|word| word.to_string()))
            .fd(pipe::null()?, 0)
            .fd(pipe::null()?, 1);
        spawn(program)?.wait_timeout(TIMEOUT)
    };
    match ended() {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(signal::describe_exit(status)),
        Ok(None) => Err("does not end".to_owned()),
        Err(error) => Err(format!("cannot be executed: {error}")),
    }
}
