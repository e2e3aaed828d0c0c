//! A daemon that isn't root: whom it trusts, and what it can't do.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

use protocol::operations::{AddIndirectRoot, GcAction, SetOptions};
use system::lock::{LockFile, Mode};

use crate::harness::{Bytes, End, RawClient, Site, is_ours};
use crate::only_ours;
use crate::support::*;

/// The daemon's user.
const OWN: u32 = 77_003;

/// Ends a test that can't start a daemon as another user.
macro_rules! only_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
    };
}

#[test]
fn its_own_user_is_trusted_as_root_is() {
    only_root!();
    let fixture = Fixture::run_by(OWN, None, Site::new());
    let socket = fixture.site.socket();
    let mut options = SetOptions::default();
    options.set("build-use-chroot", "nonsense");
    for user in [OWN, 0] {
        // The daemon looks at the process, which must not have ended.
        let (_process, stream) = stay_connected_as(user, &socket);
        let mut client = fixture.greet(stream);
        assert!(!client.verify_store(true, true).unwrap());
        // Others' values for such settings are not even checked.
        let refused = refusal(client.set_options(&options));
        assert!(refused.contains("build-use-chroot"), "{refused}");
    }
    let connect = || fixture.greet(connect_as(NOBODY, &socket));
    let refused = refusal(connect().verify_store(true, true));
    assert_eq!(refused, "you are not privileged to repair paths");
    connect().set_options(&options).unwrap();
}

#[test]
fn its_sessions_end_while_the_store_is_read_only() {
    only_root!();
    let site = Site::new();
    let mount = PrivateMount::tmpfs(site.store(), "8m");
    let fixture = Fixture::run_by(OWN, Some(mount), site);
    let item = add_text(&mut fixture.client(), "x", "x", &[]);
    fixture.mount.as_ref().unwrap().set_read_only(true);
    let mut client = RawClient {
        stream: fixture.daemon.connect(),
    };
    client.send(Bytes::hello(0x64));
    assert_eq!((client.word(), client.word()), (0x6478_696f, 0x164));
    let text = format!(
        "'{}' is read-only; make sure to mount it read-write for proper guix-daemon operation",
        fixture.site.store().display()
    );
    assert_eq!(client.end(), End::Error(text, 1));
    assert!(client.is_closed());
    fixture.mount.as_ref().unwrap().set_read_only(false);
    assert!(fixture.client().is_valid_path(&item).unwrap());
}

#[test]
fn at_most_one_message_comes_before_the_end_of_the_handshake() {
    only_root!();
    // Guix's sends both, and the Guile client takes the second for the end.
    only_ours!();
    let site = Site::new();
    fs::create_dir_all(site.state().join("db")).unwrap();
    chown(site.state().join("db"), Some(OWN), Some(OWN)).unwrap();
    let lock = LockFile::open(site.state().join("db/big-lock")).unwrap();
    chown(site.state().join("db/big-lock"), Some(OWN), Some(OWN)).unwrap();
    assert!(lock.try_lock(Mode::Exclusive).unwrap());
    let fixture = Fixture::run_by(OWN, None, site);
    // It can't give this user a directory of his own.
    let mut client = RawClient {
        stream: connect_as(NOBODY, &fixture.site.socket()),
    };
    client.send(Bytes::hello(0x64));
    let greeting = [client.word(), client.word(), client.word()];
    assert_eq!(greeting, [0x6478_696f, 0x164, 0x6f6c_6d67]);
    assert_eq!(client.string(), b"waiting for the big store lock...\n");
    drop(lock);
    assert_eq!(client.end_with_log(), (End::Last, Vec::new()));
    // The other is in the daemon's log.
    let said = fixture.daemon.messages();
    assert!(
        said.contains("failed to change owner of directory"),
        "{said}"
    );
    client.send(Bytes::new().word(26).word(0));
    assert_ne!(client.end(), End::Closed);
}

#[test]
fn roots_that_it_cannot_read_are_named_with_the_reason() {
    only_root!();
    let fixture = Fixture::run_by(OWN, None, Site::new());
    let mut client = fixture.client();
    let item = add_text(&mut client, "x", "x", &[]);
    let home = fixture.site.path("home");
    fs::create_dir(&home).unwrap();
    let link = home.join("result");
    symlink(item.as_path(), &link).unwrap();
    let named = link.to_str().unwrap().to_owned();
    let root = AddIndirectRoot {
        link: named.clone().into(),
    };
    client.call(&root).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let mut said = Vec::new();
    let none = [].into();
    let live = client.collect_garbage(GcAction::ReturnLive, none, u64::MAX, &mut |text| {
        said.extend_from_slice(text);
    });
    live.unwrap();
    let said = String::from_utf8_lossy(&said);
    // Guix names the link in `gcroots/auto`, not what it leads to.
    let place = if is_ours() { &named } else { "" };
    assert!(
        said.contains(&format!("cannot read potential root '{place}")),
        "{said}"
    );
    assert!(said.contains("': Permission denied\n"), "{said}");
}
