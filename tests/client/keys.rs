//! `guix-client archive --generate-key`, `archive --authorize` and `authorize`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use crate::fixture::Fixture;

#[test]
fn a_key_pair_is_generated_once() {
    let fixture = Fixture::new();
    let directory = fixture.site.configuration();
    let generate = || fixture.run(&["archive", "--generate-key"]);
    generate()
        .succeeds()
        .prints_nothing()
        .says("this may take time...\n");
    let mode = |name: &str| {
        let metadata = fs::metadata(directory.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("signing-key.sec"), 0o400);
    assert_eq!(mode("signing-key.pub"), 0o444);
    let public = fs::read_to_string(directory.join("signing-key.pub")).unwrap();
    assert!(public.contains("public-key") && public.contains("Ed25519"));
    generate().fails(&format!(
        "key pair exists under '{}'; remove it first",
        directory.display()
    ));
    let unchanged = fs::read_to_string(directory.join("signing-key.pub")).unwrap();
    assert_eq!(unchanged, public);
}

#[test]
fn root_generates_the_keys_of_the_stores_owner() {
    let fixture = Fixture::new();
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let directory = fixture.site.configuration();
    fs::create_dir_all(fixture.site.store()).unwrap();
    let generate = |store: (u32, u32)| {
        chown(fixture.site.store(), Some(store.0), Some(store.1)).unwrap();
        for name in ["signing-key.sec", "signing-key.pub"] {
            let _ = fs::remove_file(directory.join(name));
        }
        fixture.run(&["archive", "--generate-key"]).succeeds();
        ["", "signing-key.sec", "signing-key.pub"].map(|name| {
            let metadata = fs::metadata(directory.join(name)).unwrap();
            let mode = metadata.permissions().mode() & 0o777;
            (metadata.uid(), metadata.gid(), mode)
        })
    };
    let user = |uid, gid| [(uid, gid, 0o755), (uid, gid, 0o400), (uid, gid, 0o444)];
    assert_eq!(generate((77_001, 77_002)), user(77_001, 77_002));
    // The group is that of build users.
    assert_eq!(generate((0, 77_002)), user(0, 0));
}

#[test]
fn the_kind_of_key_can_be_chosen() {
    let fixture = Fixture::new();
    let parameters = "--generate-key=(genkey (rsa (nbits 4:1024)))";
    fixture.run(&["archive", parameters]).succeeds();
    let file = fixture.site.configuration().join("signing-key.pub");
    assert!(fs::read_to_string(file).unwrap().contains("rsa"));

    let fixture = Fixture::new();
    fixture
        .run(&["archive", "--generate-key=nonsense"])
        .fails("key generation failed");
    let file = fixture.site.configuration().join("signing-key.pub");
    assert!(!fixture.has(file));
}

#[test]
fn a_key_is_authorized_once() {
    let fixture = Fixture::new();
    fixture.run(&["archive", "--generate-key"]).succeeds();
    let directory = fixture.site.configuration();
    let key = fs::read(directory.join("signing-key.pub")).unwrap();
    let acl = || fs::read_to_string(directory.join("acl")).unwrap();
    fixture.run_with_input(&["authorize"], &key).succeeds();
    let first = acl();
    assert!(first.contains("guix import"), "{first}");
    // A daemon that isn't root must be able to read it, whatever the umask is.
    let mode = fs::metadata(directory.join("acl")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o644);
    fixture.run_with_input(&["authorize"], &key).succeeds();
    assert_eq!(acl(), first);
}

#[test]
fn only_public_keys_can_be_authorized() {
    let fixture = Fixture::new();
    fixture.run(&["archive", "--generate-key"]).succeeds();
    let directory = fixture.site.configuration();
    let secret = fs::read(directory.join("signing-key.sec")).unwrap();
    for input in [&b""[..], b"ssh-ed25519 AAAA", b"(a (b c))", &secret] {
        fixture
            .run_with_input(&["authorize"], input)
            .fails("failed to read public key");
    }
    assert!(!fixture.has(directory.join("acl")));
}

#[test]
fn a_list_of_keys_that_is_a_link_is_replaced_with_a_warning() {
    let fixture = Fixture::new();
    fixture.run(&["archive", "--generate-key"]).succeeds();
    let directory = fixture.site.configuration();
    let key = fs::read(directory.join("signing-key.pub")).unwrap();
    fixture.run_with_input(&["authorize"], &key).succeeds();
    let acl = directory.join("acl");
    let elsewhere = fixture.file("acl-elsewhere");
    fs::rename(&acl, &elsewhere).unwrap();
    symlink(&elsewhere, &acl).unwrap();
    fixture
        .run_with_input(&["authorize"], &key)
        .succeeds()
        .says("warning: replacing symbolic link ");
    assert!(!acl.symlink_metadata().unwrap().is_symlink());
}
