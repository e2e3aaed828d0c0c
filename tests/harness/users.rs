//! Build users for one daemon at a time.
//!
//! A daemon kills all processes of a build user before and after a build, and daemons with
//! different state directories don't see each other's locks. So each gets a whole group of its own:
//! `guixcheck0`, `guixcheck1`, and so on.
//!
//! They are in no user database but that of the thread that claims them, and of what it starts: it
//! enters a mount namespace with its own `/etc/passwd` and `/etc/group`. What keeps other test
//! programs from the same group is an abstract socket. So nothing is left on the machine, however a
//! test ends.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// The number of groups: more than tests that run at the same time.
const GROUPS: u32 = 16;
/// The number of users in each.
pub const USERS: u32 = 3;
/// The first of their numbers. Few machines have users like these, and container managers allow them.
const FIRST_ID: u32 = 59_000;

/// A group of build users that is reserved as long as this lives.
pub struct BuildUsers {
    /// The group's name.
    pub group: String,
    /// Its number.
    pub gid: u32,
    /// Its members.
    pub uids: Vec<u32>,
    _lock: UnixListener,
}

impl BuildUsers {
    /// Reserves a free group, which exists for this thread and for what it starts from now on;
    /// `None` for a user other than root, who can't use one.
    ///
    /// The locks are in a network namespace: a thread that wants one of its own enters it later.
    pub fn claim() -> Option<BuildUsers> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let network = |of: &str| fs::read_link(format!("/proc/{of}/ns/net")).unwrap();
        assert_eq!(
            network("thread-self"),
            network("self"),
            "build users are claimed before a network namespace is entered"
        );
        let deadline = Instant::now() + super::TEST_TIMEOUT;
        while Instant::now() < deadline {
            for number in 0..GROUPS {
                let group = format!("guixcheck{number}");
                if let Some(lock) = lock(&group) {
                    let gid = FIRST_ID + number * (USERS + 1);
                    let uids: Vec<u32> = (1..=USERS).map(|member| gid + member).collect();
                    let users = BuildUsers {
                        group,
                        gid,
                        uids,
                        _lock: lock,
                    };
                    users.make_known();
                    return Some(users);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("all {GROUPS} groups of build users are in use");
    }

    /// Puts the first of them into a group `kvm`, which exists like they do, and returns its number.
    /// `/etc/subgid` allows that user to map it, if wanted.
    pub fn join_kvm(&self, may_map: bool) -> u32 {
        let kvm = self.gid - 1000;
        let user = format!("{}-1", self.group);
        begin_with("/etc/group", &format!("kvm:x:{kvm}:{user}\n"));
        if may_map {
            begin_with("/etc/subgid", &format!("{user}:{kvm}:1\n"));
        }
        kvm
    }

    /// Puts them into the user database of this thread.
    fn make_known(&self) {
        unshare(CloneFlags::CLONE_NEWNS).expect("tests with build users need mount namespaces");
        // What is mounted on the machine later is still seen here.
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).unwrap();
        let names: Vec<String> = (1..=self.uids.len())
            .map(|member| format!("{}-{member}", self.group))
            .collect();
        let accounts: String = names
            .iter()
            .zip(&self.uids)
            .map(|(name, uid)| {
                let gid = self.gid;
                format!("{name}:x:{uid}:{gid}:test:/var/empty:/usr/sbin/nologin\n")
            })
            .collect();
        let group = format!("{}:x:{}:{}\n", self.group, self.gid, names.join(","));
        begin_with("/etc/passwd", &accounts);
        begin_with("/etc/group", &group);
    }
}

/// Shows `text` at the beginning of `file`, in this mount namespace.
fn begin_with(file: &str, text: &str) {
    let mut shown = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile()
        .unwrap();
    shown.write_all(text.as_bytes()).unwrap();
    shown.write_all(&fs::read(file).unwrap()).unwrap();
    let bind = MsFlags::MS_BIND;
    let show = || mount(Some(shown.path()), file, None::<&str>, bind, None::<&str>);
    match show() {
        // Nothing can be mounted on a file that is deleted, as that of an earlier claim is.
        Err(Errno::ENOENT) => {
            umount2(file, MntFlags::MNT_DETACH).unwrap();
            show().unwrap();
        }
        result => result.unwrap(),
    }
}

/// Takes a lock with this name among all test programs on this machine.
fn lock(name: &str) -> Option<UnixListener> {
    let name = format!("guix-daemon tests: build users of {name}");
    let address = SocketAddr::from_abstract_name(name).unwrap();
    match UnixListener::bind_addr(&address) {
        Ok(listener) => Some(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => None,
        Err(error) => panic!("cannot reserve build users: {error}"),
    }
}
