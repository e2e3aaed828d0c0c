//! Export and import.

use std::io::Read;

use formats::StorePath;
use formats::export::Fields;
use gcrypt::{Acl, PublicKey};
use protocol::client::Connection;

use crate::harness::{Bytes, RawClient, eventually, is_ours};
use crate::items::*;
use crate::support::*;

/// Exports items, signed.
fn export(client: &mut Connection, paths: &[&formats::StorePath]) -> Vec<u8> {
    let mut archive = Vec::new();
    client
        .export_paths(paths.iter().copied(), true, &mut archive)
        .unwrap();
    archive
}

/// Deletes everything.
fn empty(fixture: &Fixture) {
    use protocol::operations::GcAction;
    collect(&mut fixture.only_client(), GcAction::DeleteDead, &[]);
    fixture.assert_holds([]);
}

#[test]
fn items_come_back_as_they_left() {
    let fixture = Fixture::new();
    fixture.install_keys();
    let mut client = fixture.client();
    let base = add_text(&mut client, "base", "x", &[]);
    let tree = Tree::Directory(vec![
        ("link", Tree::Link("x")),
        ("program", Tree::File(true, noise(1, 200_001))),
    ]);
    let tree = add_tree(&mut client, "tree", &tree).unwrap();
    let user = add_text(&mut client, "user", "x", &[&base, &tree]);
    let before = client.query_path_info(&user).unwrap();
    let archive = export(&mut client, &[&base, &tree, &user]);
    let mut unsigned = Vec::new();
    client.export_path(&tree, false, &mut unsigned).unwrap();
    assert!(archive.windows(64).any(|part| part == &unsigned[200..264]));
    drop(client);
    empty(&fixture);
    let mut client = fixture.client();
    let imported = client.import_paths(&mut archive.as_slice()).unwrap();
    assert_eq!(imported, [base.clone(), tree.clone(), user.clone()]);
    fixture.assert_holds([&base, &tree, &user]);
    let after = client.query_path_info(&user).unwrap();
    assert_eq!(
        (after.hash, after.references),
        (before.hash, before.references)
    );
    for path in [&base, &tree, &user] {
        assert_canonical(path.as_path());
    }
    assert_eq!(
        export(&mut client, &[&base, &tree, &user]),
        archive,
        "signing is deterministic"
    );
    // Again: all items are valid already, and are listed again.
    assert_eq!(
        client.import_paths(&mut archive.as_slice()).unwrap().len(),
        3
    );
    assert!(!client.verify_store(true, false).unwrap());
}

#[test]
fn an_empty_archive_is_one() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert_eq!(client.import_paths(&mut &[0; 8][..]).unwrap(), []);
    assert_eq!(client.builtin_builders().unwrap().len(), 2);
}

#[test]
fn without_a_key_nothing_is_signed() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let path = add_text(&mut client, "x", "x", &[]);
    let refused = refusal(client.export_path(&path, true, &mut Vec::new()));
    assert!(refused.contains("signing-key.sec"), "{refused}");
    client.export_path(&path, false, &mut Vec::new()).unwrap();
}

#[test]
fn a_secret_key_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = Fixture::new();
    fixture.install_keys();
    let key = fixture.site.configuration().join("signing-key.sec");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o440)).unwrap();
    let mut client = fixture.client();
    let path = add_text(&mut client, "x", "x", &[]);
    let refused = refusal(client.export_path(&path, true, &mut Vec::new()));
    assert!(refused.contains("should be secret"), "{refused}");
    if !is_ours() {
        return; // the session of Guix's daemon ends by an assertion
    }
    // It is an error of the operation only, as is one that can't be understood.
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, "").unwrap();
    refusal(client.export_path(&path, true, &mut Vec::new()));
    assert!(client.is_valid_path(&path).unwrap());
}

/// Imports an invalid archive; returns the daemon's error. Nothing is left.
#[track_caller]
fn refused(fixture: &Fixture, archive: &[u8]) -> String {
    let mut client = fixture.client();
    let reason = refusal(client.import_paths(&mut &archive[..]));
    fixture.assert_empty();
    reason
}

#[test]
fn what_is_not_signed_by_an_authorised_key_is_refused() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let stranger = new_keys();
    let item = Item::text(&fixture.path("x"), "x");
    let reason = refused(&fixture, &item.archive(None));
    assert!(reason.contains("lacks a signature"), "{reason}");
    let archive = item.archive(Some(&stranger));
    let reason = refused(&fixture, &archive);
    assert!(reason.contains("unauthorized public key"), "{reason}");
    // Once authorised, it is accepted.
    stranger.save(&fixture.site.path("stranger")).unwrap();
    let directory = fixture.site.configuration();
    let mut acl = Acl::load(&directory).unwrap();
    let public = fixture.site.path("stranger/signing-key.pub");
    acl.authorize(PublicKey::load(&public).unwrap());
    acl.save(&directory).unwrap();
    let mut client = fixture.client();
    assert_eq!(
        client.import_paths(&mut archive.as_slice()).unwrap(),
        [fixture.path("x")]
    );
    let other = Item::text(&fixture.path("y"), "y").archive(Some(&keys));
    assert_eq!(
        client.import_paths(&mut other.as_slice()).unwrap(),
        [fixture.path("y")]
    );
}

#[test]
fn without_an_acl_nobody_is_authorised() {
    let fixture = Fixture::new();
    let reason = refused(
        &fixture,
        &Item::text(&fixture.path("x"), "x").archive(Some(&new_keys())),
    );
    assert!(reason.contains("unauthorized public key"), "{reason}");
}

#[test]
fn altered_items_are_refused() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let text = "0123456789".repeat(60_000);
    let archive = Item::text(&fixture.path("x"), &text).archive(Some(&keys));
    let doesnt_match = "signed hash doesn't match actual contents of imported archive";
    // The contents.
    let mut altered = archive.clone();
    altered[300_000] ^= 1;
    let reason = refused(&fixture, &altered);
    assert!(reason.contains(doesnt_match), "{reason}");
    // The name.
    let (from, to) = (fixture.path("x"), fixture.path("y"));
    let altered = replace(&archive, from.as_str(), to.as_str());
    let reason = refused(&fixture, &altered);
    assert!(reason.contains(doesnt_match), "{reason}");
    // The signature.
    let place = position(&archive, b"(s #") + 10;
    let mut altered = archive.clone();
    altered[place] = if altered[place] == b'0' { b'1' } else { b'0' };
    let reason = refused(&fixture, &altered);
    assert!(reason.contains("invalid signature"), "{reason}");
    let place = position(&archive, b"(signature");
    let mut altered = archive.clone();
    altered[place] = b'?';
    // Guix's agent dies of it, and the session with it.
    if is_ours() {
        let reason = refused(&fixture, &altered);
        assert!(reason.contains("corrupt signature data"), "{reason}");
    }
    // Another item's signature.
    let other = Item::text(&fixture.path("x"), "else").archive(Some(&keys));
    let (start, end) = (
        position(&archive, b"(signature"),
        position(&other, b"(signature"),
    );
    // With the length before it.
    let mut altered = archive[..start - 8].to_vec();
    altered.extend_from_slice(&other[end - 8..]);
    let reason = refused(&fixture, &altered);
    assert!(reason.contains(doesnt_match), "{reason}");
    // Unaltered, it is accepted.
    assert_eq!(
        fixture
            .client()
            .import_paths(&mut archive.as_slice())
            .unwrap(),
        [from]
    );
}

fn position(bytes: &[u8], part: &[u8]) -> usize {
    bytes
        .windows(part.len())
        .position(|window| window == part)
        .unwrap()
}

fn replace(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let place = position(bytes, from.as_bytes());
    let mut bytes = bytes.to_vec();
    bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
    bytes
}

#[test]
fn items_that_ask_for_too_much_are_refused() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    // Signed by an authorised key nevertheless.
    let missing = fixture.path("missing");
    let mut item = Item::text(&fixture.path("x"), "x");
    item.fields.references.insert(missing.clone());
    let reason = refused(&fixture, &item.archive(Some(&keys)));
    assert_eq!(reason, format!("path `{missing}' is not valid"));
    // A deriver that isn't valid is not recorded.
    let fields = Fields {
        path: fixture.path("y"),
        references: [].into(),
        deriver: Some(fixture.path("missing.drv")),
    };
    let item = Item {
        nar: Tree::file("x").nar(),
        fields,
    };
    let mut client = fixture.client();
    client
        .import_paths(&mut item.archive(Some(&keys)).as_slice())
        .unwrap();
    assert_eq!(client.query_deriver(&fixture.path("y")).unwrap(), None);
    // A derivation with a wrong output path.
    let (text, output) = fixed_derivation(&fixture.dir(), "z", &Tree::file("x"));
    let text = text.replace(output.as_str(), fixture.path("z").as_str());
    let archive = Item::text(&fixture.path("z.drv"), &text).archive(Some(&keys));
    let reason = refusal(client.import_paths(&mut archive.as_slice()));
    assert!(reason.contains("has incorrect output"), "{reason}");
    assert_eq!(
        client.query_all_valid_paths().unwrap(),
        [fixture.path("y")].into()
    );
}

#[test]
fn what_is_no_archive_is_refused() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let archive = Item::text(&fixture.path("x"), "x").archive(Some(&keys));
    let reason = refused(&fixture, &[7; 64]);
    assert!(
        reason.contains("input doesn't look like something created by"),
        "{reason}"
    );
    let reason = refused(&fixture, &[&1_u64.to_le_bytes()[..], &[7; 64]].concat());
    let why = if is_ours() { "normalized archive" } else { "" };
    assert!(reason.contains(why), "{reason}");
    let mut altered = archive.clone();
    let magic = position(&archive, &0x4558_494e_u64.to_le_bytes());
    altered[magic] = 0;
    let reason = refused(&fixture, &altered);
    assert!(reason.contains("wrong format"), "{reason}");
    let outside = replace(
        &archive,
        fixture.path("x").as_str(),
        &"/".repeat(fixture.path("x").as_str().len()),
    );
    let reason = refused(&fixture, &outside);
    assert!(reason.contains("is not in the store"), "{reason}");
}

#[test]
fn a_stream_that_ends_anywhere_is_refused() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let tree = Tree::Directory(vec![
        ("a", Tree::file(noise(1, 400_000))),
        ("b", Tree::Link("a")),
    ]);
    let fields = Fields {
        path: fixture.path("x"),
        references: [].into(),
        deriver: None,
    };
    let item = Item {
        nar: tree.nar(),
        fields,
    };
    let archive = item.archive(Some(&keys));
    let end = archive.len();
    let places = [
        0,
        1,
        8,
        20,
        100,
        300,
        32_768,
        300_000,
        400_100,
        end - 700,
        end - 300,
        end - 17,
    ];
    for place in places {
        let mut client = fixture.client();
        client.import_paths(&mut &archive[..place]).unwrap_err();
        fixture.assert_holds([]);
    }
    // Without the last word, the item itself is complete and stays.
    fixture
        .client()
        .import_paths(&mut &archive[..end - 8])
        .unwrap_err();
    fixture.assert_holds([&fixture.path("x")]);
    assert!(!fixture.client().verify_store(true, false).unwrap());
}

#[test]
fn an_item_before_a_bad_one_stays() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let good = Item::text(&fixture.path("good"), "x").archive(Some(&keys));
    let bad = Item::text(&fixture.path("bad"), "x").archive(None);
    let mut client = fixture.client();
    let both = [&good[..good.len() - 8], &bad].concat();
    let reason = refusal(client.import_paths(&mut both.as_slice()));
    assert!(reason.contains("lacks a signature"), "{reason}");
    fixture.assert_holds([&fixture.path("good")]);
    // The connection continues.
    assert!(client.is_valid_path(&fixture.path("good")).unwrap());
}

/// Yields a few bytes at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(5);
        self.0.read(&mut buffer[..most])
    }
}

#[test]
fn pieces_may_be_of_any_size() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let archive = Item::text(&fixture.path("x"), &"x".repeat(3000)).archive(Some(&keys));
    let imported = fixture
        .client()
        .import_paths(&mut Trickle(&archive))
        .unwrap();
    assert_eq!(imported, [fixture.path("x")]);
}

#[test]
fn sessions_that_import_the_same_at_once_agree() {
    let fixture = Fixture::new();
    drop(fixture.client());
    let keys = fixture.install_keys();
    let archive = Item::text(&fixture.path("x"), &"x".repeat(500_000)).archive(Some(&keys));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let imported = fixture
                    .client()
                    .import_paths(&mut archive.as_slice())
                    .unwrap();
                assert_eq!(imported, [fixture.path("x")]);
            });
        }
    });
    fixture.assert_holds([&fixture.path("x")]);
}

/// Waits until the daemon asks for a piece.
fn asked(importer: &mut RawClient) {
    assert_eq!(importer.word(), 0x6461_7461);
    assert!(importer.word() >= 32_768);
}

#[test]
fn a_client_that_goes_while_items_move_leaves_nothing() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let mut client = fixture.client();
    let large = add_tree(&mut client, "large", &Tree::file(noise(1, 4 << 20))).unwrap();
    fixture.root("large", &large);
    let tree = Tree::Directory(vec![("a", Tree::file(noise(2, 2 << 20)))]);
    let fields = Fields {
        path: fixture.path("x"),
        references: [].into(),
        deriver: None,
    };
    let archive = Item {
        nar: tree.nar(),
        fields,
    }
    .archive(Some(&keys));
    let threads = fixture.daemon.threads();
    for part in [1, 20_000, 32_768] {
        // In the middle of a piece of an import, after thirty of them.
        let mut importer = fixture.raw();
        importer.send(Bytes::new().word(27));
        for piece in archive.chunks(32_768).take(30) {
            asked(&mut importer);
            importer.send(Bytes::new().string(piece));
        }
        asked(&mut importer);
        importer.send(Bytes::new().word(32_768).raw(&archive[..part]));
        drop(importer);
        // In the middle of an export.
        let mut exporter = fixture.raw();
        exporter.send(Bytes::new().word(16).string(large.as_str()).word(0));
        exporter.stream.read_exact(&mut [0; 100_000]).unwrap();
        drop(exporter);
        // In the middle of a file that is added.
        let mut adder = fixture.raw();
        adder.send(
            Bytes::new()
                .word(7)
                .string("y")
                .word(1)
                .word(1)
                .string("sha256"),
        );
        adder.send(
            Bytes::new()
                .raw(&tree.nar()[..1 << 20])
                .raw(&archive[..part]),
        );
        drop(adder);
    }
    let daemon = &fixture.daemon;
    daemon.wait_until(|| daemon.threads() <= threads, "to end sessions");
    daemon.wait_until(|| fixture.session_processes().len() <= 1, "to end sessions");
    // Guix leaves the files to the collector.
    if !is_ours() {
        use protocol::operations::GcAction;
        collect(&mut fixture.client(), GcAction::DeleteDead, &[]);
    }
    let mut left = fixture.entries();
    left.remove("trash");
    assert_eq!(left, [large.base_name().to_owned()].into());
    assert_eq!(client.query_all_valid_paths().unwrap(), [large].into());
}

/// A signed archive of so many bytes, with a single text.
fn archive_of(fixture: &Fixture, keys: &gcrypt::KeyPair, size: usize) -> (StorePath, Vec<u8>) {
    let path = fixture.path(&format!("x{size}"));
    let mut length = size - 1000;
    // Signatures don't all have the same length.
    for _ in 0..100 {
        let item = Item::text(&path, &"x".repeat(length));
        let archive = item.archive(Some(keys));
        if archive.len() == size {
            return (path, archive);
        }
        length = length + size - archive.len();
    }
    panic!("no archive has {size} bytes");
}

#[test]
fn what_is_asked_for_early_is_as_long_as_it_may() {
    const MIB: usize = 1 << 20;
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let mut client = fixture.client();
    // Pieces of 1, 2, 4, 8 and 8 MiB are asked for; some of these end where a piece does.
    for size in [
        1024,
        MIB,
        MIB + 8,
        3 * MIB,
        15 * MIB,
        23 * MIB,
        24 * MIB + 8,
    ] {
        let (path, archive) = archive_of(&fixture, &keys, size);
        client.permit_read_ahead().unwrap();
        let imported = client.import_paths(&mut archive.as_slice()).unwrap();
        assert_eq!(imported, std::slice::from_ref(&path), "{size}");
        assert!(client.is_valid_path(&path).unwrap(), "{size}");
        let mut exported = Vec::new();
        client.export_path(&path, false, &mut exported).unwrap();
        assert!(
            archive[8..].starts_with(&exported[..exported.len() - 8]),
            "{size}"
        );
    }
}

#[test]
fn an_import_that_fails_leaves_a_connection_in_step_that_is_asked_early() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let (good, mut archive) = archive_of(&fixture, &keys, 2 << 20);
    archive.truncate(archive.len() - 8);
    let bad = fixture.path("bad");
    archive.extend(Item::text(&bad, &"y".repeat(100_000)).archive(Some(&new_keys())));
    archive.truncate(archive.len() - 8);
    archive.extend(archive_of(&fixture, &keys, 20 << 20).1);
    let mut client = fixture.client();
    client.permit_read_ahead().unwrap();
    let refused = refusal(client.import_paths(&mut archive.as_slice()));
    assert!(refused.contains("unauthorized public key"), "{refused}");
    // The next request is not taken for data, nor the data for a request.
    assert!(client.is_valid_path(&good).unwrap());
    assert!(!client.is_valid_path(&bad).unwrap());
    fixture.assert_holds([&good]);
}

#[test]
fn a_client_that_leaves_what_it_was_asked_for_early_leaves_nothing_behind() {
    struct Gone;
    impl Read for Gone {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("gone"))
        }
    }
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let (path, archive) = archive_of(&fixture, &keys, 20 << 20);
    for length in [1 << 20, (3 << 20) - 5, 7 << 20] {
        let mut client = fixture.client();
        client.permit_read_ahead().unwrap();
        let mut source = archive[..length].chain(Gone);
        client.import_paths(&mut source).unwrap_err();
        drop(client);
        assert!(eventually(|| fixture.entries().is_empty()));
        fixture.assert_empty();
    }
    let mut client = fixture.client();
    client.import_paths(&mut archive.as_slice()).unwrap();
    assert!(client.is_valid_path(&path).unwrap());
}
