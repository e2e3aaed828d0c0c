//! Builds without build users: by a daemon that isn't root, and by root without a group.

use std::os::unix::fs::{MetadataExt, chown};

use system::process::find_program;

use super::harness::derivations::processes_with;
use super::*;

/// Starts a daemon as another user, in user namespaces of which builds run.
pub fn unprivileged() -> Setup {
    unprivileged_in(Site::new(), BuildUsers::claim(), &[])
}

/// Like [`unprivileged`], with builders that see no directory of the machine.
pub fn unprivileged_alone() -> Setup {
    launch(Site::new(), BuildUsers::claim(), &[], &[])
}

/// Like [`unprivileged`], with these supplementary groups, if there are other users.
fn unprivileged_in(site: Site, users: Option<BuildUsers>, groups: &[u32]) -> Setup {
    let gate = site.path("gate");
    fs::create_dir(&gate).unwrap();
    fs::set_permissions(&gate, fs::Permissions::from_mode(0o777)).unwrap();
    let shown = format!("--chroot-directory={}", gate.display());
    launch(site, users, groups, &[&shown])
}

fn launch(site: Site, users: Option<BuildUsers>, groups: &[u32], options: &[&str]) -> Setup {
    let program = site.for_everybody(harness::program());
    let mut command = match &users {
        None => site.command(program),
        Some(users) => {
            let (uid, gid) = (users.uids[0], users.gid);
            fs::create_dir(site.store()).unwrap();
            for directory in ["state", "log", "etc", "store"] {
                chown(site.path(directory), Some(uid), Some(gid)).unwrap();
            }
            // The standard library sets no supplementary groups.
            let mut command = site.command(find_program("setpriv").unwrap());
            let list: Vec<String> = groups.iter().map(u32::to_string).collect();
            command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
            command.arg(match groups {
                [] => "--clear-groups".to_owned(),
                _ => format!("--groups={}", list.join(",")),
            });
            command.arg(program);
            command
        }
    };
    command
        .args(["--no-substitutes", "--log-compression=none"])
        .args(options);
    let socket = site.socket();
    let daemon = site.launch_command(command);
    daemon.wait_until(
        || std::os::unix::net::UnixStream::connect(&socket).is_ok(),
        "to serve",
    );
    Setup {
        daemon,
        site,
        users,
    }
}

#[test]
fn builds_run_in_a_user_namespace() {
    let setup = unprivileged();
    let mut client = setup.client();
    let script = "id -u; id -g; cat /etc/passwd | head -n 1; echo $$; cat /proc/self/setgroups
                  hostname; ls /proc/net/dev; test -e /etc/shadow || echo none";
    let drv = client.write(Script::new("probe", &format!("{{ {script}\n}} >$out")));
    let built = client.build(&[&drv]);
    built.succeeded();
    let expected = "30001\n30000\nnixbld:x:30001:30000:Nix build user:/:/noshell\n1\ndeny\n\
                    localhost\n/proc/net/dev\nnone\n";
    assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), expected);
    let metadata = fs::symlink_metadata(drv.out().as_path()).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o444, 1));
    let uid = setup
        .users
        .as_ref()
        .map_or(metadata.uid(), |users| users.uids[0]);
    assert_eq!(metadata.uid(), uid);
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
}

#[test]
fn the_sandbox_cannot_be_undone() {
    let setup = unprivileged();
    let mut client = setup.client();
    let script = "! umount /proc; ! umount $NIX_STORE/*-busybox; ! umount /dev/null
                  ! mount -o remount,rw $NIX_STORE/*-busybox; ! touch $PATH/evil
                  ! chmod 777 /; ! mknod /tmp/sda b 8 0; echo >$out";
    let drv = client.write(Script::new("evil", script));
    client.build(&[&drv]).succeeded();
    assert!(!client.busybox().as_path().join("bin/evil").exists());
}

#[test]
fn trees_failures_and_strange_modes() {
    let setup = unprivileged();
    let mut client = setup.client();
    let script = "mkdir -p $out/a/b; echo >$out/a/b/c; chmod 500 $out/a/b; chmod 4755 $out/a/b/c
                  mkdir x; echo >x/y; chmod 500 x";
    let tree = client.write(Script::new("tree", script));
    client.build(&[&tree]).succeeded();
    let mode = |name: &str| {
        fs::metadata(tree.out().as_path().join(name))
            .unwrap()
            .mode()
            & 0o7777
    };
    assert_eq!([mode("a"), mode("a/b"), mode("a/b/c")], [0o555; 3]);
    assert!(!is_ours() || mode("") == 0o555);

    let bad = client.write(Script::new(
        "bad",
        "mkdir $out; echo >$out/x; chmod 500 $out; exit 2",
    ));
    let built = client.build(&[&bad]);
    built.failed(100, "failed");
    built.said("failed with exit code 2");
    let again = client.build(&[&bad]);
    again.failed(100, "failed");
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
    assert!(
        !setup
            .store_names()
            .iter()
            .any(|name| name.ends_with(".chroot"))
    );
}

/// A daemon in the group `kvm`, whose number is returned; it may map it if `allowed`.
fn in_group_kvm(site: Site, allowed: bool) -> Option<(Setup, u32)> {
    let users = BuildUsers::claim()?;
    let kvm = users.join_kvm(allowed);
    Some((unprivileged_in(site, Some(users), &[kvm]), kvm))
}

/// What a builder is to print of its groups.
const GROUPS: &str = "id -G; tr -s ' ' </proc/self/gid_map; cat /proc/self/setgroups";

#[test]
fn the_group_kvm_is_mapped_for_builders() {
    if find_program("newgidmap").is_none() {
        return skip("newgidmap, of the package uidmap, is missing");
    }
    let Some((setup, kvm)) = in_group_kvm(Site::new(), true) else {
        return;
    };
    let mut client = setup.client();
    client.set(|options| options.verbosity = 3);
    let script = format!(
        "{{ {GROUPS}; echo >x; chgrp 40000 x; stat -c %g x; umount /proc || echo locked; }} >$out
         mkdir $doc; chgrp 40000 $out $doc; echo >{0}/mine; chgrp 40000 {0}/mine",
        setup.gate().display()
    );
    let drv = client.write(Script::new("probe", &script).output("doc"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("mapped 1 extra GIDs into namespace of PID ");
    let expected = "30000 40000\n 30000 30000 1\n 40000 40000 1\ndeny\n40000\nlocked\n";
    assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), expected);
    // Outside, it is that group; outputs have the daemon's own all the same.
    let group = |path: &Path| fs::metadata(path).unwrap().gid();
    assert_eq!(group(&setup.gate().join("mine")), kvm);
    if is_ours() {
        let own = setup.users.as_ref().unwrap().gid;
        let outputs = [drv.out(), drv.output("doc")];
        assert_eq!(outputs.map(|path| group(path.as_path())), [own; 2]);
    }
}

#[test]
fn without_permission_to_map_kvm_builds_have_their_own_group() {
    if find_program("newgidmap").is_none() {
        return skip("newgidmap, of the package uidmap, is missing");
    }
    let missing = |site: Site| site.env("PATH", "/nonexistent");
    for (site, status) in [(Site::new(), 1), (missing(Site::new()), 127)] {
        let Some((setup, _)) = in_group_kvm(site, false) else {
            return;
        };
        let mut client = setup.client();
        // The client's own PATH counts for nothing.
        let drv = client.write(Script::new("probe", &format!("{{ {GROUPS}; }} >$out")));
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said(&format!(
            "error (ignored): program `newgidmap' failed with exit code {status}\n"
        ));
        let expected = "30000 65534\n 30000 30000 1\ndeny\n";
        assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), expected);
        if status == 127 {
            let text = "executing `newgidmap': No such file or directory";
            assert!(setup.daemon.messages().contains(text));
        }
    }
}

#[test]
fn directories_that_nobody_may_enter_are_deleted() {
    let setup = unprivileged();
    let mut client = setup.client();
    let closed = "mkdir -p x/y/z; echo >x/y/z/file; chmod 000 x/y/z x/y x";
    let drv = client.write(Script::new("closed", &format!("{closed}; echo >$out")));
    client.build(&[&drv]).succeeded();
    let script = format!("mkdir $out; cd $out; {closed}; exit 1");
    let bad = client.write(Script::new("bad", &script));
    client.build(&[&bad]).failed(100, "failed");
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
    let chroot = |name: &String| name.ends_with(".chroot");
    assert!(!setup.store_names().iter().any(chroot));
    if !setup.store_names().contains(&bad.out().base_name().into()) {
        return;
    }
    // What failed is garbage.
    setup.lose(bad.out());
    assert!(!setup.store_names().contains(&bad.out().base_name().into()));
}

#[test]
fn a_client_that_goes_away_ends_the_build_without_a_user_to_kill() {
    let setup = unprivileged();
    let mut client = setup.client();
    let marker = format!("33333.{}", rand::random::<u32>());
    let script = format!("setsid sleep {marker} >/dev/null 2>&1 & echo begun; sleep {marker}");
    let drv = client.write(Script::new("abandoned", &script));
    let building = client.start(&[&drv]);
    building.wait_for("begun");
    building.hang_up();
    assert!(eventually(|| processes_with(&marker).is_empty()));
}

#[test]
fn a_failed_build_is_kept_as_well_as_possible() {
    let setup = unprivileged();
    let mut client = setup.client();
    let script = "echo here >note; chmod 4755 note; exit 1";
    let drv = client.write(Script::new("kept", script));
    let kept = setup
        .site
        .path("tmp")
        .join(format!("guix-build-{}-0", drv.path.name()));
    // It belongs to another user: it can't be changed, but it can be read.
    let said = super::failures::build_as_nobody(&setup, &drv.path);
    assert!(said.contains("keeping build directory"), "{said}");
    assert_eq!(fs::read_to_string(kept.join("note")).unwrap(), "here\n");
    let mode = |name: &str| fs::metadata(kept.join(name)).unwrap().mode() & 0o7777;
    assert_eq!([mode(""), mode("note")], [0o755, 0o755]);
}

#[test]
fn fixed_outputs_are_built_with_a_network_or_at_least_without() {
    let root = {
        let users = BuildUsers::claim();
        let (daemon, site) = start(Site::new(), None, &[]);
        Setup {
            daemon,
            site,
            users,
        }
    };
    let setups = if is_ours() {
        vec![root, unprivileged()]
    } else {
        vec![root]
    };
    for setup in setups {
        let mut client = setup.client();
        let script = "grep tap0: /proc/net/dev || echo no device; echo fetched >$out";
        let hash = formats::Hash::sha256("fetched\n");
        let drv = client.write(Script::new("download", script).fixed(false, hash));
        let built = client.build(&[&drv]);
        built.succeeded();
        let without = built.log.contains("network access disabled\n");
        built.said(if without { "no device" } else { "tap0:" });
    }
}

#[test]
fn root_without_build_users_is_warned_and_builds_in_a_user_namespace() {
    let users = BuildUsers::claim();
    let (daemon, site) = start(Site::new(), None, &[]);
    let setup = Setup {
        daemon,
        site,
        users,
    };
    if setup.users.is_some() {
        let text = "using `--build-users-group' is highly recommended";
        setup
            .daemon
            .wait_until(|| setup.daemon.messages().contains(text), "to warn");
    }
    let mut client = setup.client();
    let drv = client.write(Script::new("probe", "id -u >$out; ! mknod /tmp/sda b 8 0"));
    client.build(&[&drv]).succeeded();
    assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), "30001\n");
    let metadata = fs::metadata(drv.out().as_path()).unwrap();
    assert_eq!(metadata.uid(), nix::unistd::getuid().as_raw());
}

#[test]
fn a_group_without_members_is_an_error_of_the_build() {
    if !nix::unistd::getuid().is_root() {
        return;
    }
    let (daemon, site) = start(Site::new(), Some("--build-users-group=root"), &[]);
    let setup = Setup {
        daemon,
        site,
        users: None,
    };
    let mut client = setup.client();
    let drv = client.write(Script::new("probe", "echo >$out"));
    client
        .build(&[&drv])
        .failed(1, "the build users group `root' has no members");
    assert!(!client.is_valid(drv.out()));
}

#[test]
fn a_download_cannot_act_as_the_daemon_whose_user_it_is() {
    if !is_ours() {
        return; // Guix's is restricted by nothing
    }
    let site = Site::new();
    let guix = site.path("guix");
    let script = format!(
        "#!/bin/sh
         for file in $NIX_STORE/*-busybox {state}/db/db.sqlite {state}/db; do
             chmod 777 $file && echo could open $file to everybody
             touch -d @12345 $file && echo could change the time of $file
         done
         export GUIX_DAEMON_SOCKET={socket}
         {client} gc --verify && echo could talk to the daemon
         grep CapEff:.*[1-9a-f] /proc/self/status && echo could use capabilities
         echo temporary >x && cat x && echo >/dev/null && echo good >$3",
        state = site.state().display(),
        socket = site.socket().display(),
        client = site
            .for_everybody(env!("CARGO_BIN_EXE_guix-client"))
            .display(),
    );
    fs::write(&guix, script).unwrap();
    fs::set_permissions(&guix, fs::Permissions::from_mode(0o755)).unwrap();
    let setup = unprivileged_in(site.env("GUIX", guix), BuildUsers::claim(), &[]);
    let mut client = setup.client();
    client.busybox();
    let hash = formats::Hash::sha256("good\n");
    let file = Script::new("file", "").builder("builtin:download");
    let drv = client.write(file.fixed(false, hash));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("temporary\n");
    built.did_not_say("could ");
}
