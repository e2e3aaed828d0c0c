//! Durability and cleanup: a process that is killed at any moment, a full disk, a store that is
//! mounted read-only.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::*;
use formats::hash::Algorithm;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use store::{GcAction, Quiet, Store, StoreOptions, VerifyRequest};

/// The variable that holds the store's directory for the child.
const PLACE: &str = "STORE_TEST_PLACE";

/// How often the child is killed; `STORE_TEST_KILLS` overrides it.
const KILLS: u64 = 12;

fn open(root: &Path) -> Store {
    Store::open(directories(root), StoreOptions::default(), &Quiet).unwrap()
}

/// The process that is killed. Adds, imports, collects and optimises for ever; prints
/// each item that it has made a root, which must persist.
#[test]
#[ignore = "not a test: the process that another test starts"]
fn worker() {
    let place = std::env::var_os(PLACE).expect("another test starts this");
    let store = open(Path::new(&place));
    let say = |path: &formats::StorePath| {
        let root = store.directories().state.join("gcroots").join(path.name());
        store
            .add_permanent_root(path, &root, false, false, &Quiet)
            .unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "\nLASTS {path}").unwrap();
        out.flush().unwrap();
    };
    let salt = u64::from(std::process::id());
    std::thread::scope(|scope| {
        for worker in 0..3_u64 {
            let (store, say) = (&store, &say);
            scope.spawn(move || {
                for round in 0_u64.. {
                    let roots = store.temp_roots();
                    let name = format!("{salt}-{worker}-{round}");
                    let options = adding(&roots);
                    let empty = BTreeSet::new();
                    let text = store
                        .add_text("dead", name.as_bytes(), &empty, &options)
                        .unwrap();
                    let nar = Tree::Directory(vec![
                        ("a", Tree::File(true, noise(round, 9_000))),
                        ("b", Tree::File(false, noise(salt + worker, 400_000))),
                    ]);
                    let tree = store
                        .add_nar(
                            &name,
                            true,
                            Algorithm::Sha256,
                            &mut nar.nar().as_slice(),
                            &options,
                        )
                        .unwrap();
                    say(&tree);
                    let mut archive = Vec::new();
                    store
                        .export_items(&[text, tree], None, &mut archive, &Quiet)
                        .unwrap();
                    store
                        .import_items(&mut archive.as_slice(), &importing(&roots, None))
                        .unwrap();
                }
            });
        }
        scope.spawn(|| {
            for round in 0_u64.. {
                store
                    .collect_garbage(&request(GcAction::DeleteDead), &Quiet)
                    .unwrap();
                if round % 3 == 0 {
                    store.optimise(&store.temp_roots(), &Quiet).unwrap();
                }
            }
        });
    });
}

#[test]
fn being_killed_loses_nothing_acknowledged_and_leaves_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(scratch.path()).unwrap();
    let kills = std::env::var("STORE_TEST_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut lasting: BTreeSet<PathBuf> = BTreeSet::new();
    for round in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker", "--nocapture", "--ignored"])
            .env(PLACE, &root)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            let paths = lines.filter_map(|line| line.strip_prefix("LASTS ").map(PathBuf::from));
            paths.collect::<Vec<_>>()
        });
        let jitter = noise(round + u64::from(std::process::id()), 1)[0];
        std::thread::sleep(Duration::from_millis(60 + u64::from(jitter)));
        let alive = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(alive, "{}", String::from_utf8_lossy(&output.stderr));
        lasting.extend(reader.join().unwrap());

        let store = open(&root);
        let listener = Listener::default();
        let request = VerifyRequest {
            contents: true,
            repair: None,
        };
        assert!(
            !store.verify(&request, &listener).unwrap(),
            "{:?}",
            listener.0
        );
        assert!(!listener.heard("disappeared"), "{:?}", listener.0);
        for path in &lasting {
            let path = store.dir().parse(path.to_str().unwrap()).unwrap();
            assert!(store.is_valid(&path).unwrap(), "{path} was acknowledged");
            assert_canonical(path.as_path());
        }
    }
    assert!(!lasting.is_empty());
    let store = open(&root);
    store
        .collect_garbage(&common::request(GcAction::DeleteDead), &Quiet)
        .unwrap();
    let entries: BTreeSet<PathBuf> = fs::read_dir(store.dir().as_path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.ends_with(".links"))
        .collect();
    let valid: BTreeSet<PathBuf> = store
        .query_all_valid_paths()
        .unwrap()
        .iter()
        .map(|path| path.as_path().to_owned())
        .collect();
    assert_eq!(entries, valid);
    assert!(valid.is_superset(&lasting));
    let sessions = fs::read_dir(root.join("state/temproots")).unwrap().count();
    assert_eq!(sessions, 0);
}

/// Gives the calling thread its own mount namespace; `None` where that isn't permitted.
fn own_mounts() -> Option<()> {
    unshare(CloneFlags::CLONE_NEWNS).ok()?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).ok()
}

/// A mount that goes with the test, so that the directory can be deleted.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_an_error_and_works_again_with_space() {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(scratch.path()).unwrap();
    if own_mounts().is_none() {
        return skip("not allowed to mount");
    }
    mount(
        Some("tmpfs"),
        &root,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=6m"),
    )
    .unwrap();
    let _mounted = Mounted(&root);
    let options = StoreOptions {
        reserved_space: 64 * 1024,
        ..StoreOptions::default()
    };
    let store = Store::open(directories(&root), options, &Quiet).unwrap();
    let roots = store.temp_roots();
    let mut added = Vec::new();
    let error = loop {
        let nar = Tree::Directory(vec![(
            "f",
            Tree::File(false, noise(added.len() as u64, 300_000)),
        )]);
        let nar = nar.nar();
        match store.add_nar(
            "x",
            true,
            Algorithm::Sha256,
            &mut nar.as_slice(),
            &adding(&roots),
        ) {
            Ok(path) => added.push(path),
            Err(error) => break error.to_string(),
        }
        assert!(added.len() < 100);
    };
    assert!(
        error.contains("No space left on device") || error.contains("full"),
        "{error}"
    );
    assert!(added.len() > 3);
    // Nothing remains of the failed item except its lock.
    let names: BTreeSet<String> = fs::read_dir(store.dir().as_path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".links" && !name.ends_with(".lock"))
        .collect();
    assert_eq!(
        names,
        added
            .iter()
            .map(|path| path.base_name().to_owned())
            .collect()
    );
    assert!(
        !store
            .verify(
                &VerifyRequest {
                    contents: true,
                    repair: None
                },
                &Quiet
            )
            .unwrap()
    );
    // The collector works on a full disk once the reserve is freed.
    store.set_reserved_space(false);
    drop(roots);
    let result = store
        .collect_garbage(&request(GcAction::DeleteDead), &Quiet)
        .unwrap();
    assert!(result.paths.len() >= added.len());
    let roots = store.temp_roots();
    store
        .add_text("again", b"x", &BTreeSet::new(), &adding(&roots))
        .unwrap();
}

#[test]
fn a_read_only_store_is_an_error_unless_it_is_made_writable() {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::canonicalize(scratch.path()).unwrap();
    if own_mounts().is_none() {
        return skip("not allowed to mount");
    }
    let path = {
        let store = open(&root);
        let roots = store.temp_roots();
        store
            .add_text("before", b"x", &BTreeSet::new(), &adding(&roots))
            .unwrap()
    };
    let place = root.join("store");
    let none = None::<&str>;
    mount(Some(&place), &place, none, MsFlags::MS_BIND, none).unwrap();
    let _mounted = Mounted(&place);
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(none, &place, none, read_only, none).unwrap();
    {
        let store = open(&root);
        let roots = store.temp_roots();
        let error = store
            .add_text("after", b"x", &BTreeSet::new(), &adding(&roots))
            .unwrap_err();
        assert!(
            error.to_string().ends_with("Read-only file system"),
            "{error}"
        );
        assert!(store.is_valid(&path).unwrap());
    }
    store::writable::make_writable(&directories(&root)).unwrap();
    let store = open(&root);
    let roots = store.temp_roots();
    store
        .add_text("after", b"x", &BTreeSet::new(), &adding(&roots))
        .unwrap();
}
