//! Importing archives of many items: their order, bad items, and waiting for locks.

mod common;

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use formats::export::{END, Fields, ITEM, write_signature};
use formats::hash::Hash;
use formats::store_path::StorePath;
use formats::wire::WriteExt;
use store::import::BATCH;
use store::{Authority, Error, PathLocks};

const SEAL: Seal = Seal("secret");

/// The path of item `number`.
fn path(fixture: &Fixture, number: usize) -> StorePath {
    let name = format!("{number:032}-item");
    fixture.store.dir().join(&name).unwrap()
}

/// An item that is a file with references, and its signature by `seal`.
fn item(path: &StorePath, references: &[&StorePath], size: usize, seal: Option<&Seal>) -> Vec<u8> {
    let seed = path.base_name()[..32].parse().unwrap();
    let mut bytes = Tree::File(false, noise(seed, size)).nar();
    let fields = Fields {
        path: path.clone(),
        references: references.iter().copied().cloned().collect(),
        deriver: None,
    };
    fields.write(&mut bytes).unwrap();
    let signature = seal.map(|seal| seal.sign(&Hash::sha256(&bytes)).unwrap());
    write_signature(&mut bytes, signature.as_deref()).unwrap();
    bytes
}

fn archive(items: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in items {
        bytes.write_u64(ITEM).unwrap();
        bytes.extend_from_slice(item);
    }
    bytes.write_u64(END).unwrap();
    bytes
}

/// Items of which each refers to the one before.
fn chain(paths: &[StorePath]) -> Vec<Vec<u8>> {
    let mut before: Option<&StorePath> = None;
    let items = paths.iter().map(|path| {
        let references: Vec<_> = before.into_iter().collect();
        before = Some(path);
        item(path, &references, 100, Some(&SEAL))
    });
    items.collect()
}

fn import(fixture: &Fixture, archive: &[u8]) -> store::Result<Vec<StorePath>> {
    let roots = fixture.store.temp_roots();
    fixture
        .store
        .import_items(&mut &*archive, &importing(&roots, Some(&SEAL)))
}

/// Checks that exactly `paths` are valid, and that the store has nothing else.
#[track_caller]
fn assert_has(fixture: &Fixture, paths: &[StorePath]) {
    let valid: BTreeSet<_> = fixture
        .store
        .query_all_valid_paths()
        .unwrap()
        .into_iter()
        .collect();
    assert_eq!(valid, paths.iter().cloned().collect());
    let names: BTreeSet<_> = paths
        .iter()
        .map(|path| path.base_name().to_owned())
        .collect();
    let entries = fixture.entries().into_iter();
    let entries: BTreeSet<_> = entries.filter(|name| !name.ends_with(".lock")).collect();
    assert_eq!(entries, names);
    for path in paths {
        assert_canonical(path.as_path());
    }
}

#[test]
fn a_batch_may_have_any_order_and_a_longer_archive_may_not() {
    let fixture = Fixture::new();
    let paths: Vec<_> = (0..=BATCH).map(|number| path(&fixture, number)).collect();
    let mut items = chain(&paths);
    items.reverse();
    let backwards: Vec<_> = paths.iter().rev().cloned().collect();
    // The archive's last item, on which all others depend, is not in the first batch.
    let error = import(&fixture, &archive(&items)).unwrap_err();
    assert!(matches!(error, Error::NotValid(_)), "{error}");
    assert_has(&fixture, &[]);
    let imported = import(&fixture, &archive(&items[1..])).unwrap();
    assert_eq!(imported, backwards[1..]);
    assert_has(&fixture, &paths[..BATCH]);
    let references = fixture.store.path_info(&paths[9]).unwrap().references;
    assert_eq!(references, [paths[8].clone()].into());
    // The result includes items that were already valid.
    assert_eq!(import(&fixture, &archive(&items)).unwrap(), backwards);
    assert_has(&fixture, &paths);
}

#[test]
fn circles_and_unknown_references_are_refused() {
    let fixture = Fixture::new();
    let [a, b, c, d] = [0, 1, 2, 3].map(|number| path(&fixture, number));
    let good = item(&a, &[&a], 100, Some(&SEAL));
    let circle = [
        good.clone(),
        item(&b, &[&c], 100, Some(&SEAL)),
        item(&c, &[&a, &b], 100, Some(&SEAL)),
    ];
    let error = import(&fixture, &archive(&circle)).unwrap_err();
    assert!(
        matches!(&error, Error::NotValid(path) if *path == c),
        "{error}"
    );
    assert_has(&fixture, std::slice::from_ref(&a));
    let unknown = [
        good,
        item(&b, &[&a], 100, Some(&SEAL)),
        item(&c, &[&d], 100, Some(&SEAL)),
        item(&path(&fixture, 4), &[], 100, Some(&SEAL)),
    ];
    let error = import(&fixture, &archive(&unknown)).unwrap_err();
    assert!(
        matches!(&error, Error::NotValid(path) if *path == d),
        "{error}"
    );
    assert_has(&fixture, &[a, b]);
}

#[test]
fn what_comes_before_a_bad_item_is_added_and_the_rest_is_not() {
    for bad in [0, 1, 40, BATCH, BATCH + 30, 2 * BATCH + 1] {
        let number = 2 * BATCH + 20;
        let fixture = Fixture::new();
        let paths: Vec<_> = (0..number).map(|number| path(&fixture, number)).collect();
        let good = chain(&paths);
        let refused = |item: Vec<u8>| {
            let mut items = good.clone();
            items[bad] = item;
            import(&fixture, &archive(&items)).unwrap_err()
        };
        let other = item(&paths[bad], &[], 100, Some(&Seal("other")));
        assert_eq!(refused(other).to_string(), "unauthorized public key");
        assert_has(&fixture, &paths[..bad]);
        let error = refused(item(&paths[bad], &[], 100, None));
        assert!(
            matches!(&error, Error::Unsigned(path) if *path == paths[bad]),
            "{error}"
        );
        let mut altered = good[bad].clone();
        let at = altered
            .windows(8)
            .position(|word| word == b"contents")
            .unwrap();
        altered[at + 20] ^= 1;
        let error = refused(altered);
        assert!(matches!(error, Error::SignedHashMismatch), "{error}");
        let mut cut = archive(&good[..=bad]);
        cut.truncate(cut.len() - 20);
        import(&fixture, &cut).unwrap_err();
        assert_has(&fixture, &paths[..bad]);
    }
}

#[test]
fn the_same_item_may_come_twice_and_large_ones_among_small_ones() {
    let fixture = Fixture::new();
    let paths: Vec<_> = (0..60).map(|number| path(&fixture, number)).collect();
    let mut items: Vec<_> = (0..60)
        .map(|number| {
            let size = if number % 20 == 0 { 2_000_000 } else { 200_000 };
            item(&paths[number], &[], size, Some(&SEAL))
        })
        .collect();
    items.push(items[3].clone());
    let mut expected = paths.clone();
    expected.push(paths[3].clone());
    assert_eq!(import(&fixture, &archive(&items)).unwrap(), expected);
    assert_has(&fixture, &paths);
    assert!(
        fixture
            .entries()
            .iter()
            .all(|name| !name.ends_with(".lock"))
    );
}

/// Waits until `condition` holds, long enough for a loaded machine.
#[track_caller]
fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn who_waits_for_a_lock_holds_none() {
    let fixture = Fixture::new();
    let paths: Vec<_> = (0..20).map(|number| path(&fixture, number)).collect();
    // In reverse order, so that the first item of the archive depends on the locked one.
    let mut items = chain(&paths);
    items.reverse();
    let locked = PathLocks::acquire(&fixture.store, [&paths[10]], "", &store::Quiet).unwrap();
    thread::scope(|scope| {
        let importer = scope.spawn(|| import(&fixture, &archive(&items)));
        // Items that don't depend on it become valid before it is unlocked, and no other path is
        // locked.
        eventually(|| fixture.store.is_valid(&paths[9]).unwrap());
        assert!(!importer.is_finished());
        for path in paths.iter().filter(|path| **path != paths[10]) {
            eventually(|| {
                PathLocks::try_acquire(&fixture.store, [path])
                    .unwrap()
                    .is_some()
            });
        }
        assert!(!fixture.store.is_valid(&paths[10]).unwrap());
        drop(locked);
        importer.join().unwrap().unwrap();
    });
    assert_has(&fixture, &paths);
}

#[test]
fn importers_of_the_same_items_do_not_block_each_other() {
    for round in 0..5 {
        let fixture = Fixture::new();
        let paths: Vec<_> = (0..150).map(|number| path(&fixture, number)).collect();
        let forwards: Vec<_> = paths
            .iter()
            .map(|path| item(path, &[], 100 + round, Some(&SEAL)))
            .collect();
        let backwards: Vec<_> = forwards.iter().rev().cloned().collect();
        thread::scope(|scope| {
            let importers: Vec<_> = [&forwards, &backwards, &forwards, &backwards]
                .map(|items| scope.spawn(|| import(&fixture, &archive(items))))
                .into_iter()
                .collect();
            for importer in importers {
                assert_eq!(importer.join().unwrap().unwrap().len(), paths.len());
            }
        });
        assert_has(&fixture, &paths);
    }
}
