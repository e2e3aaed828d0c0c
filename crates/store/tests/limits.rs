//! Deep trees, damaged streams, locks held by others, and queries that have to use an index.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::*;
use formats::hash::Algorithm;
use formats::nar::{Sink, Writer};
use proptest::prelude::*;
use store::{GcAction, ImportOptions, PathLocks, Quiet};

#[test]
fn deep_trees_come_and_go_with_few_descriptors() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let mut writer = Writer::new(Vec::new());
    const DEPTH: usize = 1500;
    for _ in 0..DEPTH {
        writer.begin_directory().unwrap();
        writer.entry("d".into()).unwrap();
    }
    writer
        .regular(false, 9_000, &mut noise(1, 9_000).as_slice())
        .unwrap();
    for _ in 0..DEPTH {
        writer.end_directory().unwrap();
    }
    let nar = writer.into_inner();
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    let path = fixture
        .store
        .add_nar(
            "deep",
            true,
            Algorithm::Sha256,
            &mut nar.as_slice(),
            &adding(&roots),
        )
        .unwrap();
    // Descriptors of other tests, which run at the same time, are counted too.
    assert!(descriptors() < before + DEPTH / 4);
    let mut dumped = Vec::new();
    fixture.store.dump(&path, &mut dumped).unwrap();
    assert_eq!(dumped, nar);
    assert_eq!(fixture.links(), 1);
    drop(roots);
    fixture.collect(GcAction::DeleteDead);
    assert!(fixture.entries().is_empty());
    assert_eq!(fixture.links(), 0);
}

#[test]
fn a_lock_that_the_caller_holds_is_not_waited_for() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let path = fixture.add(&roots, "text", "x", &[]);
    let mut archive = Vec::new();
    fixture
        .store
        .export_items(std::slice::from_ref(&path), None, &mut archive, &Quiet)
        .unwrap();
    fixture.store.invalidate(&path).unwrap();
    let _held = PathLocks::acquire(&fixture.store, [&path], "", &Quiet).unwrap();
    let held_locks = [path.clone()];
    let options = ImportOptions {
        wanted: None,
        held_locks: &held_locks,
        ..importing(&roots, None)
    };
    fixture
        .store
        .import_items(&mut archive.as_slice(), &options)
        .unwrap();
    assert!(fixture.store.is_valid(&path).unwrap());
    // Without `held_locks`, importing waits.
    fixture.store.invalidate(&path).unwrap();
    let stop = Stopper::default();
    std::thread::scope(|scope| {
        let importer = scope.spawn(|| {
            let options = ImportOptions {
                wanted: None,
                progress: &stop,
                ..importing(&roots, None)
            };
            fixture
                .store
                .import_items(&mut archive.as_slice(), &options)
        });
        std::thread::sleep(Duration::from_millis(200));
        assert!(!importer.is_finished());
        stop.0.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(matches!(
            importer.join().unwrap(),
            Err(store::Error::Interrupted)
        ));
    });
}

/// Interrupts on request.
#[derive(Default)]
struct Stopper(std::sync::atomic::AtomicBool);

impl store::Progress for Stopper {
    fn message(&self, _level: store::Level, _text: &str) {}
    fn interrupted(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[test]
fn every_question_is_answered_by_an_index() {
    let fixture = Fixture::new();
    let database = rusqlite::Connection::open(fixture.root().join("state/db/db.sqlite")).unwrap();
    let source = include_str!("../src/queries.rs").replace("\\\n", " ");
    let mut asked = 0;
    for text in source.split('"').skip(1).step_by(2) {
        if !text.starts_with("select") || !text.contains('?') {
            continue;
        }
        asked += 1;
        let mut plan = database
            .prepare(&format!("explain query plan {text}"))
            .unwrap();
        let count = plan.parameter_count();
        let steps: Vec<String> = plan
            .query_map(rusqlite::params_from_iter(vec!["x"; count]), |row| {
                row.get(3)
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(
            steps.iter().all(|step| !step.starts_with("SCAN")),
            "{text}: {steps:?}"
        );
    }
    assert!(asked >= 8, "only {asked} questions found");
}

#[test]
fn the_database_is_set_up_as_guix_does() {
    let fixture = Fixture::new();
    let root = fixture.root().join("state/db");
    assert_eq!(std::fs::read_to_string(root.join("schema")).unwrap(), "7");
    assert_eq!(
        std::fs::metadata(root.join("reserved")).unwrap().len(),
        8 * 1024 * 1024
    );
    let database = rusqlite::Connection::open(root.join("db.sqlite")).unwrap();
    let mode: String = database
        .query_row("pragma journal_mode", [], |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
    let mut names = database
        .prepare("select type || ' ' || name from sqlite_master where sql is not null order by 1")
        .unwrap();
    let names: Vec<String> = names
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        names,
        [
            "index IndexDerivationOutputs",
            "index IndexReference",
            "index IndexReferrer",
            "table DerivationOutputs",
            "table FailedPaths",
            "table Refs",
            "table ValidPaths",
            "table sqlite_sequence",
            "trigger DeleteSelfRefs",
        ]
    );
    std::fs::write(root.join("schema"), "8").unwrap();
    let opened = store::Store::open(
        fixture.store.directories().clone(),
        fixture.store.options().clone(),
        &Quiet,
    );
    let error = opened.err().unwrap().to_string();
    assert_eq!(
        error,
        "current store schema is version 8, but I only support 7"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens to a signed archive in transit, nothing is imported that was not signed,
    /// and nothing is left behind.
    #[test]
    fn damaged_archives_are_refused(
        at in 0_usize..4096, byte in any::<u8>(), cut in proptest::bool::ANY
    ) {
        let fixture = Fixture::new();
        let roots = fixture.store.temp_roots();
        let nar = Tree::Directory(vec![("f", Tree::File(true, noise(1, 300))), ("l", Tree::Link("f"))]);
        let text = fixture.add(&roots, "text", "x", &[]);
        let tree = fixture.store.add_nar(
            "tree", true, Algorithm::Sha256, &mut nar.nar().as_slice(), &adding(&roots)
        ).unwrap();
        let seal = Seal("secret");
        let mut archive = Vec::new();
        fixture.store.export_items(std::slice::from_ref(&tree), Some(&seal), &mut archive, &Quiet).unwrap();
        fixture.store.invalidate(&tree).unwrap();
        let at = at % archive.len();
        let changed = cut || archive[at] != byte;
        if cut { archive.truncate(at) } else { archive[at] = byte }
        let result =
            fixture.store.import_items(&mut archive.as_slice(), &importing(&roots, Some(&seal)));
        drop(roots);
        if changed && result.is_ok() {
            // Only an archive that was cut or changed after its last item can be accepted.
            prop_assert!(fixture.store.is_valid(&tree).unwrap());
        }
        if fixture.store.is_valid(&tree).unwrap() {
            let info = fixture.store.path_info(&tree).unwrap();
            prop_assert_eq!(fixture.store.hash_path(tree.as_path(), &store::Quiet).unwrap().0, info.hash);
        }
        fixture.collect(GcAction::DeleteDead);
        prop_assert!(fixture.entries().is_empty());
        prop_assert!(!fixture.store.is_valid(&text).unwrap());
    }

    /// Every path is sorted after its references, in any graph without cycles.
    #[test]
    fn sorting_respects_references(edges in proptest::collection::vec((0_usize..12, 0_usize..12), 0..30)) {
        let fixture = Fixture::new();
        let roots = fixture.store.temp_roots();
        let mut paths = Vec::new();
        for node in 0..12_usize {
            let references: Vec<&formats::StorePath> = edges
                .iter()
                .filter(|(from, to)| *from == node && *to < node)
                .map(|(_, to)| &paths[*to])
                .collect();
            let path = fixture.add(&roots, "node", &node.to_string(), &references);
            paths.push(path);
        }
        let set: BTreeSet<_> = paths.iter().cloned().collect();
        let sorted = fixture.store.sort_topologically(&set).unwrap();
        prop_assert_eq!(sorted.len(), set.len());
        for (index, path) in sorted.iter().enumerate() {
            for reference in fixture.store.query_references(path).unwrap() {
                prop_assert!(sorted[..index].contains(&reference));
            }
        }
    }
}
