//! A build that fails on a full disk: a failure that may not recur.

use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;

use super::*;

const NOTE: &str = "note: build failure may have been caused by lack of free disk space\n";

/// A file system that is unmounted when the test ends, so that its directory can be deleted.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = system::mount::unmount(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A daemon that caches failures, whose build directories are on a separate file system; `None` on
/// a machine where tests may not mount one. (The file system is to be dropped first.)
fn on_small_file_system(options: &str) -> Option<(Setup, Mounted)> {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root, for a file system of its own");
        return None;
    }
    let site = Site::new();
    system::namespace::unshare(CloneFlags::CLONE_NEWNS).unwrap();
    system::mount::make_private(Path::new("/")).unwrap();
    let options = format!("mode=1777,{options}");
    let directory = site.path("tmp");
    system::mount::mount_new("tmpfs", &directory, MsFlags::empty(), &options).unwrap();
    let mounted = Mounted(directory);
    Some((Setup::at(site, &["--cache-failures"]), mounted))
}

/// Checks that the script fails for lack of space, and is tried again the next time.
fn fails_for_want_of_space(options: &str, script: &str) {
    let Some((setup, _mounted)) = on_small_file_system(options) else {
        return;
    };
    let mut client = setup.client();
    let script = format!("echo again >>{}/tries; {script}", setup.gate().display());
    let drv = client.write(Script::new("large", &script));
    for _ in 0..2 {
        let built = client.build(&[&drv]);
        built.failed(1, &format!("build of `{}' failed", drv.path));
        built.said(NOTE);
    }
    assert_eq!(setup.read("tries"), "again\nagain\n");
    assert_eq!(client.connection.query_failed_paths().unwrap(), [].into());
}

#[test]
fn no_blocks_in_the_build_directory() {
    let script = "dd if=/dev/zero of=big bs=1M count=10 || exit 1; echo >$out";
    fails_for_want_of_space("size=3m", script);
}

#[test]
fn no_inodes_in_the_build_directory() {
    if !is_ours() {
        return;
    }
    let script = "for i in $(seq 60); do echo >file-$i || exit 1; done; echo >$out";
    fails_for_want_of_space("nr_inodes=40", script);
}

#[test]
fn a_builder_that_does_not_notice() {
    if !is_ours() {
        return;
    }
    let script = "dd if=/dev/zero of=big bs=1M count=10 || exit 0; echo >$out";
    fails_for_want_of_space("size=3m", script);
}

#[test]
fn failures_with_space_left_are_the_builds_own() {
    let Some((setup, _mounted)) = on_small_file_system("size=64m,nr_inodes=1000") else {
        return;
    };
    let mut client = setup.client();
    let drv = client.write(Script::new("bad", "exit 1"));
    let built = client.build(&[&drv]);
    built.failed(100, "failed");
    built.did_not_say("disk space");
}
