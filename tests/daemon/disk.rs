//! A full disk and a read-only store: a clear error, and afterwards everything works again.

use std::fs;

use formats::StorePath;
use protocol::client::{Connection, Options};
use protocol::operations::GcAction;

use crate::harness::{Site, is_ours};
use crate::items::*;
use crate::only_ours;
use crate::support::*;

/// Adds half a MiB repeatedly until the disk is full; returns what was added, and the error.
fn fill(client: &mut Connection) -> (Vec<StorePath>, String) {
    let mut added = Vec::new();
    for number in 0..200 {
        let tree = Tree::Directory(vec![("file", Tree::file(noise(number, 500_000)))]);
        match add_tree(client, "filler", &tree) {
            Ok(path) => added.push(path),
            Err(error) => return (added, error.to_string()),
        }
    }
    panic!("the disk does not fill up");
}

/// Checks that nothing remains in the store of what did not fit. (Guix leaves it to the collector.)
fn assert_only(fixture: &Fixture, paths: &[StorePath]) {
    let names = paths
        .iter()
        .map(|path| path.base_name().to_owned())
        .collect();
    if is_ours() {
        fixture
            .daemon
            .wait_until(|| fixture.entries() == names, "to clean up");
    }
    assert!(fixture.entries().is_superset(&names));
}

#[test]
fn a_store_without_space_takes_nothing_more_until_there_is_some() {
    let site = Site::new();
    let mount = PrivateMount::tmpfs(site.store(), "8m");
    let fixture = Fixture::on(mount, site, &["--no-substitutes"]);
    let (added, error) = fill(&mut fixture.client());
    assert!(error.contains("No space left on device"), "{error}");
    assert!(added.len() > 8, "{}", added.len());
    assert_only(&fixture, &added);
    let mut client = fixture.client();
    assert_eq!(
        client.query_all_valid_paths().unwrap(),
        added.iter().cloned().collect()
    );
    assert!(!client.verify_store(true, false).unwrap());
    // By an import.
    let keys = fixture.install_keys();
    let item = Item::text(&fixture.path("x"), &"x".repeat(2_000_000)).archive(Some(&keys));
    let refused = refusal(client.import_paths(&mut item.as_slice()));
    assert!(refused.contains("No space left on device"), "{refused}");
    assert_only(&fixture, &added);
    // The collector works on a full disk.
    drop(client);
    let mut client = fixture.only_client();
    let done = collect(&mut client, GcAction::DeleteDead, &[]);
    assert!(
        done.paths.len() >= added.len() && done.bytes_freed > 4_000_000,
        "{done:?}"
    );
    client.import_paths(&mut item.as_slice()).unwrap();
    fixture.assert_holds([&fixture.path("x")]);
}

#[test]
fn a_disk_that_a_user_has_filled_can_be_collected() {
    only_ours!();
    // What is lacking then: blocks, or inodes, as for the directory for profiles that a user's first
    // session makes: here that of the user `daemon'.
    for size in ["24m", "200m,nr_inodes=600"] {
        let fixture = filled_by_a_user(size);
        drop(fixture.only_client());
        let mut client = fixture.greet(connect_as(1, &fixture.site.socket()));
        let done = collect(&mut client, GcAction::DeleteDead, &[]);
        assert!(done.paths.len() > 8, "{size}: {done:?}");
        let reserved = fs::metadata(fixture.site.state().join("db/reserved")).unwrap();
        assert_eq!(reserved.len(), 8 << 20);
        add_text(&mut client, "again", "x", &[]);
        fixture.assert_serves();
    }
}

/// A site on a disk of its own that a user who isn't root has filled.
fn filled_by_a_user(size: &str) -> Fixture {
    let site = Site::new();
    let mount = PrivateMount::tmpfs(site.path(""), size);
    for directory in ["state", "log", "etc", "tmp"] {
        fs::create_dir(site.path(directory)).unwrap();
    }
    let fixture = Fixture::on(mount, site, &["--no-substitutes"]);
    // The user asks for the reserve, too.
    let options = Options {
        reserve_space: false,
        ..Options::default()
    };
    let connect = || connect_as(NOBODY, &fixture.site.socket());
    let mut user = Connection::over_unix(connect(), &fixture.dir(), &options).unwrap();
    if !size.contains("inodes") {
        fill(&mut user);
    }
    // The disk's last blocks.
    let mut number = 1000;
    while add_tree(&mut user, "small", &Tree::file(noise(number, 3000))).is_ok() {
        number += 1;
    }
    fixture
}

#[test]
fn a_disk_that_is_full_of_all_can_be_collected_by_who_gives_up_the_reserve() {
    let site = Site::new();
    let mount = PrivateMount::tmpfs(site.path(""), "24m");
    for directory in ["state", "log", "etc", "tmp"] {
        fs::create_dir(site.path(directory)).unwrap();
    }
    let fixture = Fixture::on(mount, site, &["--no-substitutes"]);
    let (added, error) = fill(&mut fixture.client());
    let full = ["No space left on device", "full"];
    assert!(full.iter().any(|full| error.contains(full)), "{error}");
    assert!(added.len() > 8, "{}", added.len());
    let options = Options {
        reserve_space: false,
        ..Options::default()
    };
    let reserved = fixture.site.state().join("db/reserved");
    assert_eq!(fs::metadata(&reserved).unwrap().len(), 8 << 20);
    let dead = || {
        let stream = fixture.daemon.connect();
        let mut client = Connection::over_unix(stream, &fixture.dir(), &options).unwrap();
        assert!(!reserved.exists());
        let mut log = |_: &[u8]| {};
        client
            .collect_garbage(GcAction::DeleteDead, [].into(), u64::MAX, &mut log)
            .map_err(|error| error.to_string())
    };
    dead().unwrap();
    fixture.daemon.wait_until(
        || {
            dead().unwrap();
            fixture.entries().is_empty()
        },
        "to collect everything",
    );
    let mut client = fixture.client();
    let path = add_tree(&mut client, "again", &Tree::file(noise(1, 1 << 20))).unwrap();
    assert!(!client.verify_store(true, false).unwrap());
    assert_eq!(client.query_all_valid_paths().unwrap(), [path].into());
}

#[test]
fn a_file_system_that_became_read_only_is_an_error_until_it_is_writable() {
    let site = Site::new();
    let mount = PrivateMount::tmpfs(site.store(), "8m");
    let fixture = Fixture::on(mount, site, &["--no-substitutes"]);
    let mut client = fixture.client();
    let before = add_text(&mut client, "before", "x", &[]);
    drop(client);
    fixture.mount.as_ref().unwrap().set_read_only(true);
    let mut client = fixture.client();
    let refused = refusal(client.add_text_to_store("after", "x", [].into()));
    assert!(refused.contains("Read-only file system"), "{refused}");
    let refused = refusal(add_tree(
        &mut client,
        "tree",
        &Tree::file(noise(1, 1 << 20)),
    ));
    assert!(refused.contains("Read-only file system"), "{refused}");
    // Read-only operations work.
    let mut client = fixture.client();
    assert!(client.is_valid_path(&before).unwrap());
    assert!(!client.verify_store(true, false).unwrap());
    client.export_path(&before, false, &mut Vec::new()).unwrap();
    fixture.mount.as_ref().unwrap().set_read_only(false);
    let after = add_text(&mut client, "after", "x", &[]);
    fixture.assert_holds([&before, &after]);
}

#[test]
fn a_store_mounted_read_only_is_written_to_in_private() {
    let site = Site::new();
    let place = site.store();
    let mount = PrivateMount::tmpfs(place.clone(), "8m");
    system::mount::remount_read_only(&place).unwrap();
    fs::write(place.join("x"), "").unwrap_err();
    let fixture = Fixture::on(mount, site, &["--no-substitutes"]);
    let path = add_text(&mut fixture.client(), "x", "x", &[]);
    assert_eq!(fs::read(path.as_path()).unwrap(), b"x");
    fs::write(place.join("x"), "").unwrap_err();
}
