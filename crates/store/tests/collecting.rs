//! Garbage collection, roots, locks and verification.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use formats::hash::Algorithm;
use formats::store_path::StorePath;
use store::{Checked, Error, GcAction, GcRequest, PathLocks, Quiet, VerifyRequest};

fn texts(paths: &[&StorePath]) -> Vec<String> {
    let mut texts: Vec<String> = paths.iter().map(|path| path.as_str().to_owned()).collect();
    texts.sort();
    texts
}

#[test]
fn what_roots_lead_to_stays_and_the_rest_goes() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let base = fixture.add(&roots, "base", "b", &[]);
    let kept = fixture.add(&roots, "kept", "k", &[&base]);
    let dead = fixture.add(&roots, "dead", "d", &[&base]);
    let chain = fixture.add(&roots, "chain", "c", &[&dead]);
    let big = fixture.store.add_nar(
        "big",
        true,
        Algorithm::Sha256,
        &mut Tree::Directory(vec![("f", Tree::File(false, noise(3, 50_000)))])
            .nar()
            .as_slice(),
        &adding(&roots),
    );
    let big = big.unwrap();
    let link = fixture.root().join("result");
    fixture
        .store
        .add_permanent_root(&kept, &link, true, true, &Quiet)
        .unwrap();
    assert_eq!(
        fixture.collect(GcAction::ReturnDead).paths.len(),
        0,
        "all are temporary roots"
    );
    drop(roots);
    fs::create_dir_all(fixture.store.dir().as_path().join("stray/inside")).unwrap();
    let stray = format!("{}/stray", fixture.store.dir());
    assert_eq!(
        fixture.collect(GcAction::ReturnLive).paths,
        texts(&[&base, &kept])
    );
    let mut expected = texts(&[&dead, &chain, &big]);
    expected.push(stray);
    expected.sort();
    assert_eq!(fixture.collect(GcAction::ReturnDead).paths, expected);
    let result = fixture.collect(GcAction::DeleteDead);
    assert_eq!(result.paths, expected);
    assert!(result.bytes_freed >= 50_000);
    assert_eq!(
        fixture.entries(),
        BTreeSet::from([base.base_name().to_owned(), kept.base_name().to_owned()])
    );
    assert_eq!(fixture.links(), 0);
    // Deleting the link removes the root, and with it the indirect root.
    fs::remove_file(link).unwrap();
    fixture.collect(GcAction::DeleteDead);
    assert!(fixture.entries().is_empty());
    assert!(fixture.store.query_all_valid_paths().unwrap().is_empty());
    let auto = fixture.store.directories().state.join("gcroots/auto");
    assert_eq!(fs::read_dir(auto).unwrap().count(), 0);
}

#[test]
fn the_asking_session_gives_up_its_own_roots() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let others = fixture.store.temp_roots();
    let path = fixture.add(&roots, "text", "x", &[]);
    let theirs = fixture.add(&others, "theirs", "x", &[]);
    let mut asking = request(GcAction::DeleteDead);
    asking.own_roots = Some(&roots);
    let result = fixture.store.collect_garbage(&asking, &Quiet).unwrap();
    assert_eq!(result.paths, texts(&[&path]));
    assert!(fixture.store.is_valid(&theirs).unwrap());
    assert_eq!(fixture.add(&roots, "text", "x", &[]), path);
    assert_eq!(fixture.collect(GcAction::DeleteDead).paths.len(), 0);
}

#[test]
fn certain_paths_are_deleted_with_their_referrers_unless_alive() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let base = fixture.add(&roots, "base", "b", &[]);
    let user = fixture.add(&roots, "user", "u", &[&base]);
    let other = fixture.add(&roots, "other", "o", &[]);
    let delete = |paths: Vec<StorePath>| {
        let asking = GcRequest {
            paths,
            ..request(GcAction::DeleteSpecific)
        };
        fixture.store.collect_garbage(&asking, &Quiet)
    };
    let error = delete(vec![base.clone()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot delete path `{base}' since it is still alive")
    );
    drop(roots);
    assert_eq!(
        delete(vec![base.clone()]).unwrap().paths,
        texts(&[&base, &user])
    );
    assert!(fixture.store.is_valid(&other).unwrap());
    let links = fixture.store.dir().join(".links").unwrap();
    assert!(matches!(delete(vec![links]), Err(Error::StillAlive(_))));
    assert!(delete(vec![base]).unwrap().paths.is_empty());
}

#[test]
fn a_limit_stops_the_collection() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    for number in 0..40 {
        let text = String::from_utf8(vec![b'a'; 100_000 + number]).unwrap();
        fixture.add(&roots, "text", &text, &[]);
    }
    drop(roots);
    let asking = GcRequest {
        max_freed: 1_000_000,
        ..request(GcAction::DeleteDead)
    };
    let result = fixture.store.collect_garbage(&asking, &Quiet).unwrap();
    assert!(
        (10..=12).contains(&result.paths.len()),
        "{}",
        result.paths.len()
    );
    assert_eq!(fixture.entries().len(), 40 - result.paths.len());
    let none = GcRequest {
        max_freed: 0,
        ..request(GcAction::DeleteDead)
    };
    assert!(
        fixture
            .store
            .collect_garbage(&none, &Quiet)
            .unwrap()
            .paths
            .is_empty()
    );
}

#[test]
fn outputs_and_derivations_keep_each_other_as_asked() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let text = |out: &str| {
        format!(
            "Derive([(\"out\",\"{out}\",\"\",\"\")],[],[],\"x86_64-linux\",\"/bin/sh\",[],\
             [(\"out\",\"{out}\")])"
        )
    };
    let anything = format!("{}/00000000000000000000000000000000-d", fixture.store.dir());
    let error = fixture
        .try_add(&roots, "d.drv", &text(&anything), &[])
        .unwrap_err()
        .to_string();
    let out = error
        .rsplit_once("should be `")
        .unwrap()
        .1
        .trim_end_matches('\'')
        .to_owned();
    let derivation = fixture.add(&roots, "d.drv", &text(&out), &[]);
    let out = fixture.store.dir().parse(&out).unwrap();
    fs::write(out.as_path(), "built").unwrap();
    fixture
        .store
        .canonicalise(
            out.as_path(),
            None,
            &mut store::InodesSeen::new(),
            &store::Quiet,
        )
        .unwrap();
    let scan = fixture
        .store
        .scan_and_hash(out.as_path(), [], &store::Quiet)
        .unwrap();
    let new = store::NewPath {
        path: out.clone(),
        hash: scan.hash,
        nar_size: scan.nar_size,
        references: BTreeSet::new(),
        deriver: Some(derivation.clone()),
        registration_time: None,
    };
    fixture.store.register_valid_paths(&[new]).unwrap();
    drop(roots);
    let live = |root: &StorePath, keep_outputs, keep_derivations| {
        let roots = fixture.store.temp_roots();
        roots.add(root, &Quiet).unwrap();
        let asking = GcRequest {
            keep_outputs,
            keep_derivations,
            ..request(GcAction::ReturnLive)
        };
        let live = fixture
            .store
            .collect_garbage(&asking, &Quiet)
            .unwrap()
            .paths;
        // Queries about single paths must return the same.
        for path in [&derivation, &out] {
            let asking = GcRequest {
                paths: vec![path.clone()],
                max_freed: 0,
                keep_outputs,
                keep_derivations,
                ..request(GcAction::DeleteSpecific)
            };
            if live.contains(&path.as_str().to_owned()) {
                assert!(fixture.store.collect_garbage(&asking, &Quiet).is_err());
            }
        }
        live
    };
    assert_eq!(live(&out, false, false), texts(&[&out]));
    assert_eq!(live(&out, false, true), texts(&[&out, &derivation]));
    assert_eq!(live(&derivation, false, true), texts(&[&derivation]));
    assert_eq!(live(&derivation, true, false), texts(&[&out, &derivation]));
}

#[test]
fn locks_and_build_roots_of_what_is_in_use_stay() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let path = fixture
        .store
        .dir()
        .join("22222222222222222222222222222222-out")
        .unwrap();
    roots.add(&path, &Quiet).unwrap();
    let locks = PathLocks::acquire(&fixture.store, [&path], "", &Quiet).unwrap();
    for suffix in [".chroot", ""] {
        fs::create_dir(format!("{path}{suffix}")).unwrap();
    }
    fs::write(format!("{}/other.lock", fixture.store.dir()), "").unwrap();
    let deleted = fixture.collect(GcAction::DeleteDead).paths;
    assert_eq!(deleted, [format!("{}/other.lock", fixture.store.dir())]);
    assert_eq!(fixture.entries().len(), 3);
    assert!(
        PathLocks::try_acquire(&fixture.again(), [&path])
            .unwrap()
            .is_none()
    );
    drop(locks);
    drop(roots);
    fixture.collect(GcAction::DeleteDead);
    assert!(fixture.entries().is_empty());
}

#[test]
fn path_locks_wait_and_notice_deletion() {
    let fixture = Fixture::new();
    let path = fixture
        .store
        .dir()
        .join("33333333333333333333333333333333-x")
        .unwrap();
    let mut first = PathLocks::acquire(&fixture.store, [&path, &path], "", &Quiet).unwrap();
    first.set_deletion(true);
    let listener = Listener::default();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let locks = PathLocks::acquire(&fixture.store, [&path], "waiting", &listener).unwrap();
            (listener.heard("waiting"), locks)
        });
        std::thread::sleep(Duration::from_millis(50));
        drop(first);
        let (heard, _second) = waiter.join().unwrap();
        assert!(heard);
        // The second one holds a new file, not the deleted one.
        assert!(
            PathLocks::try_acquire(&fixture.store, [&path])
                .unwrap()
                .is_none()
        );
    });
    assert!(
        PathLocks::try_acquire(&fixture.store, [&path])
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_session_that_ends_leaves_no_file_and_a_dead_one_is_cleaned_up() {
    let fixture = Fixture::new();
    let directory = fixture.store.directories().state.join("temproots");
    let roots = fixture.store.temp_roots();
    let path = fixture.add(&roots, "x", "x", &[]);
    let file = fs::read_dir(&directory)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    assert_eq!(fs::read(&file).unwrap(), format!("{path}\0").into_bytes());
    drop(roots);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    fs::write(directory.join("12345"), format!("{path}\0")).unwrap();
    let listener = Listener::default();
    let result = fixture
        .store
        .collect_garbage(&request(GcAction::DeleteDead), &listener)
        .unwrap();
    assert!(listener.heard("removing stale temporary roots file"));
    assert_eq!(result.paths, texts(&[&path]));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn nothing_that_sessions_hold_goes_while_others_collect() {
    let fixture = Fixture::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let adders: Vec<_> = (0..4)
            .map(|worker| {
                let fixture = &fixture;
                scope.spawn(move || {
                    for round in 0..25 {
                        let roots = fixture.store.temp_roots();
                        let base = fixture.add(&roots, "base", &format!("{worker} {round}"), &[]);
                        let nar = Tree::Directory(vec![
                            ("a", Tree::File(false, noise(round, 10_000))),
                            ("b", Tree::File(false, noise(worker, 300_000))),
                        ]);
                        let tree = fixture
                            .store
                            .add_nar(
                                "tree",
                                true,
                                Algorithm::Sha256,
                                &mut nar.nar().as_slice(),
                                &adding(&roots),
                            )
                            .unwrap();
                        let top = fixture.add(&roots, "top", "t", &[&base, &tree]);
                        for path in [&base, &tree, &top] {
                            assert!(fixture.store.is_valid(path).unwrap());
                            let info = fixture.store.path_info(path).unwrap();
                            let found = fixture
                                .store
                                .hash_path(path.as_path(), &store::Quiet)
                                .unwrap();
                            assert_eq!(found.0, info.hash, "{path}");
                        }
                    }
                })
            })
            .collect();
        let collectors: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        fixture.collect(GcAction::DeleteDead);
                        std::thread::sleep(Duration::from_millis(2));
                    }
                })
            })
            .collect();
        let failed = adders
            .into_iter()
            .map(|adder| adder.join())
            .filter(Result::is_err)
            .count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0);
        collectors
            .into_iter()
            .for_each(|collector| collector.join().unwrap());
    });
    fixture.collect(GcAction::DeleteDead);
    assert!(fixture.entries().is_empty(), "{:?}", fixture.entries());
    assert_eq!(fixture.links(), 0);
}

#[test]
fn verification_finds_what_changed_and_what_is_gone() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let good = fixture.add(&roots, "good", "g", &[]);
    let changed = fixture.add(&roots, "changed", "c", &[]);
    let gone = fixture.add(&roots, "gone", "x", &[]);
    let needed = fixture.add(&roots, "needed", "n", &[]);
    let user = fixture.add(&roots, "user", "u", &[&needed]);
    let verify = |contents| {
        let listener = Listener::default();
        let request = VerifyRequest {
            contents,
            repair: None,
        };
        let errors = fixture.store.verify(&request, &listener).unwrap();
        (errors, listener)
    };
    assert!(!verify(true).0);
    assert!(
        fixture
            .store
            .path_contents_good(&changed, &Checked::default(), &Quiet)
            .unwrap()
    );
    std::process::Command::new("chmod")
        .arg("u+w")
        .arg(changed.as_str())
        .status()
        .unwrap();
    fs::write(changed.as_path(), "C").unwrap();
    fs::remove_file(gone.as_path()).unwrap();
    fs::remove_file(needed.as_path()).unwrap();
    let (errors, listener) = verify(true);
    assert!(errors);
    assert!(listener.heard(&format!("path `{changed}' was modified! expected hash")));
    assert!(listener.heard(&format!(
        "path `{gone}' disappeared, removing from database..."
    )));
    assert!(listener.heard(&format!(
        "path `{needed}' disappeared, but it still has valid"
    )));
    assert!(!fixture.store.is_valid(&gone).unwrap());
    assert!(fixture.store.is_valid(&needed).unwrap());
    assert!(fixture.store.is_valid(&good).unwrap() && fixture.store.is_valid(&user).unwrap());
    let repair = |path: &StorePath| {
        let (name, text): (_, &[u8]) = if *path == changed {
            ("changed", b"c")
        } else {
            ("needed", b"n")
        };
        let options = store::AddOptions {
            temp_roots: &roots,
            repair: true,
            progress: &Quiet,
        };
        let added = fixture
            .store
            .add_text(name, text, &BTreeSet::new(), &options);
        added.map(drop).map_err(|error| error.to_string())
    };
    let request = VerifyRequest {
        contents: true,
        repair: Some(&repair),
    };
    assert!(!fixture.store.verify(&request, &Quiet).unwrap());
    assert!(!verify(true).0);
}

#[test]
fn questions_go_on_while_others_write() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let path = fixture.add(&roots, "x", "x", &[]);
    let writer = rusqlite::Connection::open(fixture.root().join("state/db/db.sqlite")).unwrap();
    writer.execute_batch("begin immediate").unwrap();
    assert!(fixture.store.is_valid(&path).unwrap());
    std::thread::scope(|scope| {
        let adder = scope.spawn(|| fixture.add(&roots, "y", "y", &[]));
        std::thread::sleep(Duration::from_millis(1200));
        assert!(!adder.is_finished());
        writer.execute_batch("rollback").unwrap();
        let started = Instant::now();
        assert!(fixture.store.is_valid(&adder.join().unwrap()).unwrap());
        assert!(started.elapsed() < Duration::from_secs(5));
    });
}
