//! Queries see everything that was committed before, by any process, and the snapshots that make
//! them fast don't block checkpoints.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use rusqlite::Connection;
use store::{Quiet, Store, StoreOptions};

/// The variable that holds the store's directory for the child.
const PLACE: &str = "STORE_TEST_SNAPSHOTS";

/// The other process. Adds an item for each line that it reads, and prints its path.
#[test]
#[ignore = "not a test: the process that another test starts"]
fn committer() {
    let place = std::env::var_os(PLACE).expect("another test starts this");
    let directories = directories(Path::new(&place));
    let store = Store::open(directories, StoreOptions::default(), &Quiet).unwrap();
    let roots = store.temp_roots();
    for line in std::io::stdin().lines() {
        let text = line.unwrap();
        let options = adding(&roots);
        let path = store
            .add_text("text", text.as_bytes(), &[].into(), &options)
            .unwrap();
        println!("\nADDED {path}");
    }
}

#[test]
fn what_another_process_commits_is_seen_at_once() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let own = fixture.add(&roots, "own", "own", &[]);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["committer", "--exact", "--nocapture", "--ignored"])
        .env(PLACE, fixture.root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to_child = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for round in 0..100 {
        assert!(fixture.store.is_valid(&own).unwrap());
        writeln!(to_child, "{round}").unwrap();
        let added = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some(path) = line.strip_prefix("ADDED ") {
                break fixture.store.dir().parse(path).unwrap();
            }
        };
        assert!(fixture.store.is_valid(&added).unwrap(), "{round}");
        assert_eq!(fixture.store.path_info(&added).unwrap().nar_size % 8, 0);
        // And the other way round: our item is a reference that the other process may not have
        // seen.
        let mine = fixture.add(&roots, "mine", &round.to_string(), &[&added]);
        fixture.store.invalidate(&mine).unwrap();
        assert!(!fixture.store.is_valid(&mine).unwrap());
    }
    drop(to_child);
    assert!(child.wait().unwrap().success());
}

#[test]
fn many_who_ask_see_what_many_commit() {
    let fixture = Fixture::new();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let fixture = &fixture;
            scope.spawn(move || {
                // Every other thread opens the store itself.
                let own = fixture.again();
                let store = if worker % 2 == 0 {
                    &fixture.store
                } else {
                    &own
                };
                let roots = store.temp_roots();
                let mut last = None;
                for round in 0..100 {
                    let text = format!("{worker} {round}");
                    let references = last.into_iter().collect();
                    let path = store
                        .add_text("text", text.as_bytes(), &references, &adding(&roots))
                        .unwrap();
                    for asked in [&fixture.store, &own] {
                        let info = asked.path_info(&path).unwrap();
                        assert_eq!(info.references, references);
                        assert!(asked.query_valid_paths([&path]).unwrap().contains(&path));
                    }
                    last = Some(path);
                }
            });
        }
    });
    assert_eq!(fixture.store.query_all_valid_paths().unwrap().len(), 400);
}

/// Checkpoints and truncates the whole log, waiting for readers for at most `patience`. Returns
/// whether that succeeded.
fn checkpoint(database: &Connection, patience: Duration) -> bool {
    let patience = patience.as_millis() as i64;
    database
        .pragma_update_and_check(None, "busy_timeout", patience, |_| Ok(()))
        .unwrap();
    database
        .query_row("pragma wal_checkpoint(truncate)", [], |row| {
            row.get::<_, i64>(0)
        })
        .unwrap()
        == 0
}

#[test]
fn snapshots_end_by_themselves_and_when_we_commit() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let first = fixture.add(&roots, "first", "first", &[]);
    let database = Connection::open(fixture.root().join("state/db/db.sqlite")).unwrap();
    assert!(fixture.store.is_valid(&first).unwrap());
    let second = fixture.add(&roots, "second", "second", &[&first]);
    assert!(
        checkpoint(&database, Duration::ZERO),
        "after our own commit"
    );
    assert!(fixture.store.is_valid(&second).unwrap());
    let forget = "delete from ValidPaths where path = ?";
    database.execute(forget, [second.as_str()]).unwrap();
    // Long enough for a loaded machine.
    assert!(
        checkpoint(&database, Duration::from_secs(60)),
        "after a while"
    );
    assert!(!fixture.store.is_valid(&second).unwrap());
    assert!(fixture.store.is_valid(&first).unwrap());
}

#[test]
fn the_log_does_not_grow_while_questions_are_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let directories = directories(&fs::canonicalize(scratch.path()).unwrap());
    // Small pages, so that a large number of pages has a small size.
    const PAGE: u32 = 512;
    fs::create_dir_all(&directories.database).unwrap();
    let file = directories.database.join("db.sqlite");
    let writer = Connection::open(&file).unwrap();
    writer.pragma_update(None, "page_size", PAGE).unwrap();
    writer
        .execute_batch("create table Filler (x); insert into Filler values (zeroblob(1000000))")
        .unwrap();
    // Otherwise it would be replaced.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let store = Store::open(directories, StoreOptions::default(), &Quiet).unwrap();
    let roots = store.temp_roots();
    let path = store
        .add_text("text", b"text", &[].into(), &adding(&roots))
        .unwrap();
    // With Guix's settings.
    writer
        .execute_batch("pragma synchronous = off; pragma wal_autocheckpoint = 40000")
        .unwrap();
    for _ in 0..60 {
        writer
            .execute("update Filler set x = randomblob(1000000)", [])
            .unwrap();
        assert!(store.is_valid(&path).unwrap());
    }
    let log = fs::metadata(file.with_extension("sqlite-wal"))
        .unwrap()
        .len();
    assert!(log < 60_000 * u64::from(PAGE), "{log} bytes");
}

/// How many items a copy of `db.sqlite` alone has; nothing if it has no tables.
fn items_in_copy(fixture: &Fixture) -> Option<i64> {
    let copy = fixture.root().join("copy");
    // By another process: closing a file gives up the locks that SQLite has on it in this one.
    let copied = Command::new("cp")
        .arg(fixture.root().join("state/db/db.sqlite"))
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let database = Connection::open(&copy).unwrap();
    database
        .query_row("select count(*) from ValidPaths", [], |row| row.get(0))
        .ok()
}

#[test]
fn after_some_time_without_changes_the_database_is_whole() {
    let options = StoreOptions {
        checkpoint_after: Duration::from_secs(1),
        ..StoreOptions::default()
    };
    let fixture = Fixture::with(options);
    let roots = fixture.store.temp_roots();
    for round in 1..=2 {
        for item in 0..50 {
            fixture.add(&roots, &format!("{round}-{item}"), "x", &[]);
        }
        assert_ne!(items_in_copy(&fixture), Some(round * 50));
        let started = Instant::now();
        while items_in_copy(&fixture) != Some(round * 50) {
            assert!(started.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn the_database_is_whole_when_it_is_asked_for() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    fixture.add(&roots, "x", "x", &[]);
    assert_eq!(items_in_copy(&fixture), None);
    fixture.store.checkpoint().unwrap();
    assert_eq!(items_in_copy(&fixture), Some(1));
}
