//! Keeping the store small and intact: deduplication and verification.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use protocol::operations::GcAction;

use crate::harness::{Site, is_ours};
use crate::items::*;
use crate::support::*;

fn inode(path: impl AsRef<Path>) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// Overwrites a file of the store, as a broken disk might.
fn damage(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, "damaged").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn equal_files_share_their_space_at_once() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let data = noise(1, 50_000);
    let one = add_tree(&mut client, "one", &Tree::file(data.clone())).unwrap();
    let two = add_tree(&mut client, "two", &Tree::file(data.clone())).unwrap();
    let program = add_tree(&mut client, "program", &Tree::File(true, data)).unwrap();
    let small = Tree::Directory(vec![("a", Tree::file("x")), ("b", Tree::file("x"))]);
    let small = add_tree(&mut client, "small", &small).unwrap();
    assert_eq!(inode(one.as_path()), inode(two.as_path()));
    assert_ne!(
        inode(one.as_path()),
        inode(program.as_path()),
        "being executable matters"
    );
    assert_ne!(
        inode(small.as_path().join("a")),
        inode(small.as_path().join("b"))
    );
    assert_eq!(fixture.links(), 2);
    for path in [&one, &two, &program, &small] {
        assert_canonical(path.as_path());
    }
}

#[test]
fn the_whole_store_is_optimised_on_request() {
    let options = ["--no-substitutes", "--disable-deduplication"];
    let fixture = Fixture::with(Site::new(), &options);
    let mut client = fixture.client();
    let data = noise(1, 1 << 20);
    let tree = Tree::Directory(vec![("file", Tree::file(data.clone()))]);
    let one = add_tree(&mut client, "one", &tree).unwrap();
    let two = add_tree(&mut client, "two", &tree).unwrap();
    let three = add_tree(&mut client, "three", &Tree::file(data)).unwrap();
    let files = [
        one.as_path().join("file"),
        two.as_path().join("file"),
        three.as_path().into(),
    ];
    assert_eq!(fixture.links(), 0);
    assert_ne!(inode(&files[0]), inode(&files[1]));
    let mut optimise = || {
        let mut log = String::new();
        client
            .optimise_store(&mut |text| log.push_str(&String::from_utf8_lossy(text)))
            .unwrap();
        log
    };
    let log = optimise();
    assert!(
        log.contains("   2.00 MiB freed by hard-linking 2 files"),
        "{log}"
    );
    assert!(files.iter().all(|file| inode(file) == inode(&files[0])));
    assert_eq!(fixture.links(), 1);
    let log = optimise();
    assert!(
        log.contains("   0  bytes freed by hard-linking 0 files"),
        "{log}"
    );
    for path in [&one, &two, &three] {
        assert_canonical(path.as_path());
    }
    assert!(!client.verify_store(true, false).unwrap());
}

#[test]
fn a_damaged_link_is_not_shared() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let data = noise(1, 50_000);
    let one = add_tree(&mut client, "one", &Tree::file(data.clone())).unwrap();
    damage(one.as_path());
    let two = add_tree(&mut client, "two", &Tree::file(data.clone())).unwrap();
    assert_eq!(fs::read(two.as_path()).unwrap(), data);
    let log = listen(&mut client);
    assert!(client.verify_store(true, false).unwrap());
    let log = take(&log);
    assert!(
        log.contains(&format!("path `{one}' was modified!")),
        "{log}"
    );
    assert!(!log.contains(two.as_str()), "{log}");
}

#[test]
fn a_whole_store_has_no_errors() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert!(!client.verify_store(true, false).unwrap());
    let one = add_text(&mut client, "one", "x", &[]);
    let tree = Tree::Directory(vec![("file", Tree::file(noise(1, 20_000)))]);
    let two = add_tree(&mut client, "two", &tree).unwrap();
    for contents in [false, true] {
        for repair in [false, true] {
            assert!(
                !client.verify_store(contents, repair).unwrap(),
                "{contents} {repair}"
            );
        }
    }
    fixture.assert_holds([&one, &two]);
}

#[test]
fn only_a_look_at_contents_finds_what_changed() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let good = add_text(&mut client, "good", "x", &[]);
    let bad = add_text(&mut client, "bad", "x", &[&good]);
    let hash = client.query_path_hash(&bad).unwrap();
    damage(bad.as_path());
    assert!(!client.verify_store(false, false).unwrap());
    let log = listen(&mut client);
    assert!(client.verify_store(true, false).unwrap());
    let log = take(&log);
    let expected = format!(
        "path `{bad}' was modified! expected hash `{}', got `",
        hash.hex()
    );
    assert!(log.contains(&expected), "{log}");
    assert!(!log.contains(good.as_str()), "{log}");
    // It stays valid, but is not exported.
    assert!(client.is_valid_path(&bad).unwrap());
    let refused = refusal(client.export_path(&bad, false, &mut Vec::new()));
    assert!(
        refused.starts_with(&format!("hash of path `{bad}' has changed from")),
        "{refused}"
    );
}

#[test]
fn what_is_gone_is_forgotten_unless_it_is_needed() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let base = add_text(&mut client, "base", "x", &[]);
    let user = add_text(&mut client, "user", "x", &[&base]);
    let lone = add_text(&mut client, "lone", "x", &[]);
    fs::remove_file(lone.as_path()).unwrap();
    fs::remove_file(base.as_path()).unwrap();
    let log = listen(&mut client);
    assert!(client.verify_store(false, false).unwrap(), "one is needed");
    let gone = format!("path `{lone}' disappeared, removing from database...");
    let needed = format!("path `{base}' disappeared, but it still has valid referrers!");
    let log = take(&log);
    assert!(log.contains(&gone) && log.contains(&needed), "{log}");
    assert!(!client.is_valid_path(&lone).unwrap());
    assert!(client.is_valid_path(&base).unwrap() && client.is_valid_path(&user).unwrap());
    // Once it isn't needed any more, there are no errors.
    fs::remove_file(user.as_path()).unwrap();
    assert!(!client.verify_store(false, false).unwrap());
    fixture.assert_holds([]);
    assert_eq!(add_text(&mut client, "lone", "x", &[]), lone);
    fixture.assert_holds([&lone]);
}

#[test]
fn what_nobody_can_repair_stays_an_error() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let bad = add_text(&mut client, "bad", "x", &[]);
    damage(bad.as_path());
    let log = listen(&mut client);
    assert!(client.verify_store(true, true).unwrap());
    assert!(take(&log).contains("was modified!"));
    assert!(client.verify_store(true, false).unwrap());
    assert_eq!(fs::read(bad.as_path()).unwrap(), b"damaged");
    fixture.assert_serves();
}

#[test]
fn a_leftover_of_the_same_name_is_replaced() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let tree = Tree::Directory(vec![("file", Tree::file("x"))]);
    let path = add_tree(&mut client, "tree", &tree).unwrap();
    let text = add_text(&mut client, "text", "x", &[]);
    drop(client);
    let mut client = fixture.only_client();
    collect(&mut client, GcAction::DeleteDead, &[]);
    fs::create_dir_all(text.as_path().join("not a file")).unwrap();
    fs::write(path.as_path(), "not a directory").unwrap();
    assert_eq!(add_tree(&mut client, "tree", &tree).unwrap(), path);
    assert_eq!(add_text(&mut client, "text", "x", &[]), text);
    fixture.assert_holds([&path, &text]);
    assert!(!client.verify_store(true, false).unwrap());
}

#[test]
fn what_cannot_be_repaired_holds_up_nobody() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let lost = add_text(&mut client, "lost", "", &[]);
    let user = add_text(&mut client, "user", "", &[&lost]);
    fixture.root("user", &user);
    drop(client);
    std::fs::remove_file(lost.as_path()).unwrap();
    // A session without temporary roots.
    let mut client = fixture.only_client();
    assert!(client.verify_store(false, true).unwrap());
    add_text(&mut client, "another", "", &[]);
}

#[test]
fn what_is_added_during_a_verification_stays_valid() {
    if !is_ours() {
        return; // Guix's loses some
    }
    let fixture = Fixture::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let verifying = scope.spawn(|| {
            let mut client = fixture.client();
            while !done.load(Ordering::Relaxed) {
                assert!(!client.verify_store(false, false).unwrap());
            }
        });
        let mut client = fixture.client();
        let added: Vec<_> = (0..1500)
            .map(|number| add_text(&mut client, &format!("text-{number}"), "", &[]))
            .collect();
        done.store(true, Ordering::Relaxed);
        verifying.join().unwrap();
        let lost = added
            .iter()
            .filter(|path| !client.is_valid_path(path).unwrap())
            .count();
        assert_eq!(lost, 0);
    });
}
