//! Build users for one daemon at a time.
//!
//! A daemon kills all processes of a build user before and after a build, and daemons with
//! different state directories don't see each other's locks. So each gets a whole group of its own:
//! `guixtest0`, `guixtest1`, …, which are created when needed and left on the machine.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Group, User};

/// The number of groups: more than tests that run at the same time.
const GROUPS: usize = 16;
/// The number of users in each.
pub const USERS: usize = 3;

/// A group of build users that is reserved as long as this lives.
pub struct BuildUsers {
    /// The group's name.
    pub group: String,
    /// Its number.
    pub gid: u32,
    /// Its members.
    pub uids: Vec<u32>,
    _lock: Flock<File>,
}

impl BuildUsers {
    /// Reserves a free group; `None` for a user other than root, who can't use one.
    pub fn claim() -> Option<BuildUsers> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let deadline = Instant::now() + super::TEST_TIMEOUT;
        while Instant::now() < deadline {
            for number in 0..GROUPS {
                let group = format!("guixtest{number}");
                if let Some(lock) = lock(&group, FlockArg::LockExclusiveNonblock) {
                    let gid = make_group(&group);
                    let users = (1..=USERS).map(|member| make_user(&group, member));
                    return Some(BuildUsers {
                        uids: users.collect(),
                        gid,
                        group,
                        _lock: lock,
                    });
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("all {GROUPS} groups of build users are in use");
    }
}

/// Takes a lock with this name among all test programs on this machine.
fn lock(name: &str, how: FlockArg) -> Option<Flock<File>> {
    let file = File::create(format!("/tmp/{name}.lock")).unwrap();
    match Flock::lock(file, how) {
        Ok(lock) => Some(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => None,
        Err((_, error)) => panic!("cannot lock {name}: {error}"),
    }
}

fn make_group(name: &str) -> u32 {
    if let Some(group) = Group::from_name(name).unwrap() {
        return group.gid.as_raw();
    }
    run(Command::new("groupadd").args(["--system", name]));
    Group::from_name(name)
        .unwrap()
        .expect("groupadd made it")
        .gid
        .as_raw()
}

fn make_user(group: &str, member: usize) -> u32 {
    let name = format!("{group}-{member}");
    if User::from_name(&name).unwrap().is_none() {
        run(Command::new("useradd")
            .args([
                "--system",
                "-g",
                group,
                "-G",
                group,
                "-d",
                "/var/empty",
                "-M",
            ])
            .args(["-s", "/usr/sbin/nologin", &name]));
    }
    User::from_name(&name)
        .unwrap()
        .expect("useradd made it")
        .uid
        .as_raw()
}

fn run(command: &mut Command) {
    // These programs fail when another instance is running.
    let _turn = lock("guixtest-users", FlockArg::LockExclusive);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
