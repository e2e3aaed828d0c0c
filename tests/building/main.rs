//! Builds, from a client's request to the contents of the store afterwards: by the daemon itself,
//! and by a build hook.
//!
//! Builders are shell scripts, run for real, as build users in a sandbox. Expectations are from
//! `doc/spec/build-environment.md` and `doc/spec/hook-protocol.md`; run with
//! `GUIX_DAEMON_UNDER_TEST`, the suite checks whether Guix's own daemon agrees. Where ours differs
//! on purpose, the test checks `is_ours`.

#[path = "../harness/mod.rs"]
mod harness;

mod again;
mod build_users;
mod chroot;
mod clients;
mod environment;
mod failures;
mod fixed;
mod fork_server;
mod full_disk;
mod history;
#[cfg(have_daemon_offload_hook)]
mod hook;
mod hostile;
mod interruption;
mod limits;
mod network;
mod order;
mod outputs;
mod reach;
mod references;
mod substituter;
mod text;
mod unprivileged;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use harness::derivations::{Client, Script};
use harness::users::BuildUsers;
use harness::{Daemon, Site, eventually, is_ours, skip};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use protocol::client::Options;
use protocol::operations::GcAction;

/// A running daemon with build users, and its directories.
struct Setup {
    // Dropped in this order.
    daemon: Daemon,
    site: Site,
    users: Option<BuildUsers>,
}

impl Setup {
    /// A daemon that builds locally.
    fn new(options: &[&str]) -> Setup {
        Setup::at(Site::new(), options)
    }

    /// Like [`Setup::new`], with existing directories.
    fn at(site: Site, options: &[&str]) -> Setup {
        let options = [&["--no-substitutes"], options].concat();
        Setup::with_substitutes(site, &options)
    }

    /// Like [`Setup::at`], with substitutes.
    fn with_substitutes(site: Site, options: &[&str]) -> Setup {
        Setup::with_users(BuildUsers::claim(), site, options)
    }

    /// Another daemon after this one has ended, with the same directories and build users.
    fn restarted(self, options: &[&str]) -> Setup {
        let Setup {
            daemon,
            site,
            users,
        } = self;
        drop(daemon);
        fs::remove_dir(site.path("gate")).unwrap();
        let options = [&["--no-substitutes"], options].concat();
        Setup::with_users(users, site, &options)
    }

    /// Like [`Setup::with_substitutes`], with build users that were claimed before.
    fn with_users(users: Option<BuildUsers>, site: Site, options: &[&str]) -> Setup {
        let group = users
            .as_ref()
            .map(|users| format!("--build-users-group={}", users.group));
        let (daemon, site) = start_substituting(site, group.as_deref(), options);
        Setup {
            daemon,
            site,
            users,
        }
    }

    /// A client.
    fn client(&self) -> Client {
        Client::connect(&self.daemon)
    }

    /// A client that requests processor 1, of a daemon that runs on processor 0. `None` on a
    /// machine with a single processor.
    fn client_of_another_processor(&self) -> Option<Client> {
        if std::thread::available_parallelism().unwrap().get() < 2 {
            skip("needs two processors");
            return None;
        }
        let mut own = CpuSet::new();
        own.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(self.daemon.pid()), &own).unwrap();
        let options = Options {
            cpu: Some(1),
            ..Options::default()
        };
        Some(Client::connect_with(&self.daemon, &options))
    }

    /// A directory that builders can see, under the same name, and write to.
    fn gate(&self) -> PathBuf {
        self.site.path("gate")
    }

    /// Creates a file in [`Setup::gate`].
    fn open(&self, name: &str) {
        fs::write(self.gate().join(name), "").unwrap();
    }

    /// The contents of a file in [`Setup::gate`]; empty if it doesn't exist.
    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.gate().join(name)).unwrap_or_default()
    }

    /// Shell code that waits until the file with this name exists in [`Setup::gate`].
    fn await_gate(&self, name: &str) -> String {
        let file = self.gate().join(name);
        format!("until test -e {}; do sleep 0.02; done", file.display())
    }

    /// Deletes a store item that no client uses any more.
    fn lose(&self, path: &formats::StorePath) {
        let deleted = || {
            let paths = [path.clone()].into();
            let mut connection = self.client().connection;
            connection.collect_garbage(GcAction::DeleteSpecific, paths, u64::MAX, &mut |_| ())
        };
        // The session of a client that has just disconnected may not have noticed.
        assert!(eventually(|| deleted().is_ok()), "{:?}", deleted());
    }

    /// The store path with this name.
    fn store_path(&self, name: &str) -> formats::StorePath {
        let store = self.site.store();
        let store = formats::StoreDir::new(store.to_str().unwrap()).unwrap();
        store.parse(name.as_bytes()).unwrap()
    }

    /// The names in the store.
    fn store_names(&self) -> Vec<String> {
        names(&self.site.store())
    }
}

/// Starts a daemon without substitutes, like [`start_substituting`].
fn start(site: Site, group: Option<&str>, options: &[&str]) -> (Daemon, Site) {
    start_substituting(site, group, &[&["--no-substitutes"], options].concat())
}

/// Starts a daemon that has a directory [`Setup::gate`], and keeps logs uncompressed.
fn start_substituting(site: Site, group: Option<&str>, options: &[&str]) -> (Daemon, Site) {
    let gate = site.path("gate");
    fs::create_dir(&gate).unwrap();
    fs::set_permissions(&gate, fs::Permissions::from_mode(0o777)).unwrap();
    let gate = format!("--chroot-directory={}", gate.display());
    let mut all = vec!["--log-compression=none", &gate];
    all.extend(group);
    all.extend(options);
    (site.start(&all), site)
}

/// The daemon's child processes whose argument 0 is `name`, with or without a directory.
fn children_named(daemon: &Daemon, name: &str) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let lists = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<i32> = lists
        .flat_map(|list| {
            list.split_whitespace()
                .map(|pid| pid.parse().unwrap())
                .collect::<Vec<i32>>()
        })
        .collect();
    let is_named = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(first).rsplit('/').next() == Some(name)
    };
    children.into_iter().filter(is_named).collect()
}

/// Whether a process exists, even as a zombie.
fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The sorted names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The log file of a build.
fn kept_log(site: &Site, drv: &formats::StorePath) -> String {
    let (first, rest) = drv.base_name().split_at(2);
    fs::read_to_string(site.log().join("drvs").join(first).join(rest)).unwrap()
}
