//! Receiving items whose hash is known beforehand, from somebody who may lie.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use common::*;
use formats::hash::{Algorithm, Hash};
use formats::store_path::StorePath;
use formats::wire::WriteExt;
use store::{
    Error, ExpectedItem, GcAction, PathLocks, Progress, Quiet, ReceiveOptions, Result,
    StoreOptions, TempRoots, WaitingItem,
};

fn path(fixture: &Fixture, name: &str) -> StorePath {
    let name = format!("{}-{name}", "0".repeat(32));
    fixture.store.dir().join(&name).unwrap()
}

/// The item at `path` whose nar this is.
fn item(path: &StorePath, nar: &[u8]) -> ExpectedItem {
    ExpectedItem {
        path: path.clone(),
        hash: Hash::sha256(nar),
        nar_size: nar.len() as u64,
        may_be_smaller: false,
        references: BTreeSet::new(),
        deriver: None,
    }
}

fn options<'a>(temp_roots: &'a Arc<TempRoots>, progress: &'a dyn Progress) -> ReceiveOptions<'a> {
    ReceiveOptions {
        temp_roots,
        deduplicate: true,
        progress,
    }
}

/// Receives and registers an item, as the daemon does.
fn receive(fixture: &Fixture, item: &ExpectedItem, source: &mut dyn Read) -> Result<()> {
    let roots = Arc::new(fixture.store.temp_roots());
    roots.add(&item.path, &Quiet)?;
    let _lock = PathLocks::acquire(&fixture.store, [&item.path], "", &Quiet)?;
    let received = fixture
        .store
        .receive(source, item, &options(&roots, &Quiet))?;
    received.register()
}

/// An item that was received, and waits.
fn received(
    fixture: &Fixture,
    roots: &Arc<TempRoots>,
    item: &ExpectedItem,
    nar: &[u8],
) -> WaitingItem {
    let (options, mut nar) = (options(roots, &Quiet), nar);
    let received = fixture.store.receive(&mut nar, item, &options).unwrap();
    received.wait()
}

/// The nar of a directory whose entries have these names, in this order, each a file.
fn directory(names: &[&str]) -> Vec<u8> {
    let mut nar = Vec::new();
    let mut token = |text: &str| nar.write_bytes(text.as_bytes()).unwrap();
    for word in ["nix-archive-1", "(", "type", "directory"] {
        token(word);
    }
    for name in names {
        for word in ["entry", "(", "name", name, "node"] {
            token(word);
        }
        for word in ["(", "type", "regular", "contents", "evil", ")", ")"] {
            token(word);
        }
    }
    token(")");
    nar
}

/// Nothing but lock files is in the store, or beside it.
fn assert_untouched(fixture: &Fixture, before: &BTreeSet<String>) {
    let entries = fixture.entries();
    let new: Vec<&String> = entries
        .iter()
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    assert!(new.is_empty(), "{new:?}");
    assert_eq!(&names(fixture), before);
}

fn names(fixture: &Fixture) -> BTreeSet<String> {
    let entries = fs::read_dir(fixture.root()).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn items_small_and_large_are_registered_with_what_is_known_of_them() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let reference = fixture.add(&roots, "reference", "x", &[]);
    let many = Tree::Directory(vec![
        ("a", Tree::File(true, noise(1, 20_000))),
        ("b", Tree::Link("a")),
        (
            "c",
            Tree::Directory(vec![("d", Tree::File(false, noise(2, 600_000)))]),
        ),
    ]);
    for (name, tree) in [("small", Tree::File(false, b"x".to_vec())), ("large", many)] {
        let nar = tree.nar();
        let path = path(&fixture, name);
        let mut item = item(&path, &nar);
        item.references = [reference.clone(), path.clone()].into();
        // What follows the nar is not read as part of it.
        let mut source = nar.as_slice().chain(io::repeat(0));
        receive(&fixture, &item, &mut source).unwrap();
        let info = fixture.store.path_info(&path).unwrap();
        assert_eq!(info.references, item.references);
        assert_eq!((info.hash, info.nar_size), (item.hash, item.nar_size));
        assert_canonical(path.as_path());
    }
}

#[test]
fn other_hashes_are_checked_and_sha_256_is_registered() {
    let fixture = Fixture::new();
    let nar = Tree::File(false, noise(1, 1000)).nar();
    let path = path(&fixture, "x");
    let mut item = item(&path, &nar);
    item.hash = Hash::of(Algorithm::Sha512, &nar);
    receive(&fixture, &item, &mut nar.as_slice()).unwrap();
    let info = fixture.store.path_info(&path).unwrap();
    assert_eq!(info.hash, Hash::sha256(&nar));
}

#[test]
fn names_that_lead_elsewhere_are_refused_even_if_they_are_announced() {
    let fixture = Fixture::new();
    let before = names(&fixture);
    for evil in [
        &["../evil"][..],
        &[".."],
        &["."],
        &[""],
        &["a/b"],
        &["/tmp/evil"],
        &["x", "x"],
        &["b", "a"],
        &["nul\0"],
    ] {
        let nar = directory(evil);
        let item = item(&path(&fixture, "evil"), &nar);
        let refused = receive(&fixture, &item, &mut nar.as_slice());
        assert!(matches!(refused, Err(Error::BadInput(_))), "{evil:?}");
        assert_untouched(&fixture, &before);
    }
    // A file through a link of the same name: the second of the two is a duplicate.
    let mut link = Tree::Directory(vec![("x", Tree::Link("/tmp"))]).nar();
    link.truncate(link.len() - 16);
    let file = directory(&["x"]);
    link.extend(&file[directory(&[]).len() - 16..]);
    let item = item(&path(&fixture, "evil"), &link);
    let refused = receive(&fixture, &item, &mut link.as_slice());
    let Err(Error::BadInput(reason)) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("not sorted"), "{reason}");
    assert_untouched(&fixture, &before);
}

#[test]
fn contents_that_are_not_those_expected_leave_nothing() {
    let fixture = Fixture::new();
    let before = names(&fixture);
    for size in [100, 2_000_000] {
        let good = Tree::File(false, noise(1, size)).nar();
        let item = item(&path(&fixture, "x"), &good);
        let mut other = good.clone();
        other[150] ^= 1;
        match receive(&fixture, &item, &mut other.as_slice()) {
            Err(Error::WrongHash { actual, .. }) => assert_eq!(*actual, Hash::sha256(&other)),
            refused => panic!("{refused:?}"),
        }
        for cut in [0, 5, 96, good.len() / 2, good.len() - 1] {
            let refused = receive(&fixture, &item, &mut &good[..cut]);
            assert!(matches!(refused, Err(Error::BadInput(_))), "{refused:?}");
        }
        // It says that it is longer, and goes on for ever.
        let endless = Tree::File(false, vec![0; 8]).nar();
        let mut endless = endless[..80].to_vec();
        endless.extend(u64::MAX.to_le_bytes());
        let mut source = endless.as_slice().chain(io::repeat(b'x'));
        receive(&fixture, &item, &mut source).unwrap_err();
        assert_untouched(&fixture, &before);
    }
}

#[test]
fn a_size_that_was_announced_wrongly_is_refused() {
    let fixture = Fixture::new();
    let nar = Tree::File(false, noise(1, 1000)).nar();
    let mut item = item(&path(&fixture, "x"), &nar);
    item.nar_size += 8;
    let refused = receive(&fixture, &item, &mut nar.as_slice().chain(io::repeat(0)));
    let Err(Error::BadInput(reason)) = refused else {
        panic!("{refused:?}")
    };
    assert!(reason.contains("instead of"), "{reason}");
    item.nar_size -= 16;
    receive(&fixture, &item, &mut nar.as_slice()).unwrap_err();
    assert!(!fixture.store.is_valid(&item.path).unwrap());
}

#[test]
fn a_size_that_nobody_has_signed_is_a_bound() {
    let fixture = Fixture::new();
    let nar = Tree::File(false, noise(1, 1000)).nar();
    let mut larger = item(&path(&fixture, "x"), &nar);
    larger.nar_size -= 8;
    larger.may_be_smaller = true;
    receive(&fixture, &larger, &mut nar.as_slice()).unwrap_err();
    assert!(!fixture.store.is_valid(&larger.path).unwrap());

    for announced in [nar.len() as u64 + 8, 1 << 40, u64::MAX] {
        let mut smaller = item(&path(&fixture, &format!("x-{announced}")), &nar);
        smaller.nar_size = announced;
        smaller.may_be_smaller = true;
        // What follows the nar is not read.
        receive(&fixture, &smaller, &mut nar.as_slice().chain(io::repeat(0))).unwrap();
        let info = fixture.store.path_info(&smaller.path).unwrap();
        assert_eq!(info.hash, Hash::sha256(&nar));
        assert_eq!(info.nar_size, nar.len() as u64);
    }
}

#[test]
fn an_item_whose_references_are_missing_is_not_left_at_its_path() {
    let fixture = Fixture::new();
    let before = names(&fixture);
    let nar = Tree::File(false, noise(1, 1000)).nar();
    let mut item = item(&path(&fixture, "x"), &nar);
    item.references = [path(&fixture, "missing")].into();
    receive(&fixture, &item, &mut nar.as_slice()).unwrap_err();
    assert_untouched(&fixture, &before);
}

#[test]
fn files_are_deduplicated_if_that_is_wanted() {
    for wanted in [false, true] {
        // Not as the store would have it.
        let fixture = Fixture::with(StoreOptions {
            deduplicate: !wanted,
            ..StoreOptions::default()
        });
        let trees = [
            Tree::Directory(vec![("f", Tree::File(false, noise(1, 10_000)))]),
            Tree::Directory(vec![("g", Tree::File(false, noise(1, 10_000)))]),
            Tree::File(false, noise(1, 10_000)),
        ];
        let roots = Arc::new(fixture.store.temp_roots());
        let mut inodes = BTreeSet::new();
        for (number, tree) in trees.iter().enumerate() {
            let nar = tree.nar();
            let item = item(&path(&fixture, &number.to_string()), &nar);
            let _lock = PathLocks::acquire(&fixture.store, [&item.path], "", &Quiet).unwrap();
            let options = ReceiveOptions {
                deduplicate: wanted,
                ..options(&roots, &Quiet)
            };
            let store = &fixture.store;
            let received = store.receive(&mut nar.as_slice(), &item, &options);
            received.unwrap().register().unwrap();
            let file = match number {
                0 => item.path.as_path().join("f"),
                1 => item.path.as_path().join("g"),
                _ => item.path.as_path().to_owned(),
            };
            inodes.insert(fs::metadata(file).unwrap().ino());
        }
        assert_eq!(inodes.len(), if wanted { 1 } else { 3 });
    }
}

#[test]
fn a_damaged_item_is_replaced_in_one_step() {
    let fixture = Fixture::new();
    for size in [100, 1_000_000] {
        let nar = Tree::File(false, noise(1, size)).nar();
        let item = item(&path(&fixture, "x"), &nar);
        receive(&fixture, &item, &mut nar.as_slice()).unwrap();
        let file = item.path.as_path();
        fs::remove_file(file).unwrap();
        fs::create_dir(file).unwrap();
        receive(&fixture, &item, &mut &nar[..nar.len() / 2]).unwrap_err();
        assert!(file.is_dir() && fixture.store.is_valid(&item.path).unwrap());
        receive(&fixture, &item, &mut nar.as_slice()).unwrap();
        assert_eq!(fs::read(file).unwrap(), noise(1, size));
        assert_canonical(file);
    }
}

/// Interrupts.
struct Impatient;

impl Progress for Impatient {
    fn message(&self, _: store::Level, _: &str) {}
    fn interrupted(&self) -> bool {
        true
    }
}

#[test]
fn an_interruption_leaves_nothing() {
    let fixture = Fixture::new();
    let before = names(&fixture);
    let nar = Tree::File(false, noise(1, 1_000_000)).nar();
    let item = item(&path(&fixture, "x"), &nar);
    let roots = Arc::new(fixture.store.temp_roots());
    let options = options(&roots, &Impatient);
    let refused = fixture.store.receive(&mut nar.as_slice(), &item, &options);
    assert!(matches!(refused, Err(Error::Interrupted)));
    assert_untouched(&fixture, &before);
}

#[test]
fn a_received_item_waits_for_its_references_through_collections() {
    for size in [100, 1_000_000] {
        let fixture = Fixture::new();
        let session = fixture.store.temp_roots();
        let reference = path(&fixture, "reference");
        let nar = Tree::File(false, noise(1, size)).nar();
        let mut item = item(&path(&fixture, "x"), &nar);
        item.references = [reference.clone()].into();
        let waiting = {
            let roots = Arc::new(fixture.store.temp_roots());
            received(&fixture, &roots, &item, &nar)
        };
        assert_eq!(waiting.item(), &item);
        fixture.collect(GcAction::DeleteDead);
        assert!(!fixture.store.is_valid(&item.path).unwrap());
        let reference = fixture.add(&session, "reference", "y", &[]);
        item.references = [reference].into();
        session.add(&item.path, &Quiet).unwrap();
        let _lock = PathLocks::acquire(&fixture.store, [&item.path], "", &Quiet).unwrap();
        // It refers to an item that is still missing: nothing comes of it.
        waiting.register(&Quiet).unwrap_err();
        assert!(fs::symlink_metadata(item.path.as_path()).is_err());
        // With references that are there, it becomes valid.
        let roots = Arc::new(fixture.store.temp_roots());
        let waiting = received(&fixture, &roots, &item, &nar);
        drop(roots);
        fixture.collect(GcAction::DeleteDead);
        waiting.register(&Quiet).unwrap();
        assert!(fixture.store.is_valid(&item.path).unwrap());
        assert_eq!(fs::read(item.path.as_path()).unwrap(), noise(1, size));
        assert_canonical(item.path.as_path());
    }
}

#[test]
fn a_received_item_that_nobody_waits_for_any_more_leaves_nothing() {
    let fixture = Fixture::new();
    let before = names(&fixture);
    for size in [100, 1_000_000] {
        let nar = Tree::File(false, noise(1, size)).nar();
        let item = item(&path(&fixture, "x"), &nar);
        let roots = Arc::new(fixture.store.temp_roots());
        let waiting = received(&fixture, &roots, &item, &nar);
        let is_unpacked = size > 100;
        assert_eq!(!fixture.entries().is_empty(), is_unpacked);
        drop(waiting);
    }
    assert_untouched(&fixture, &before);
}
