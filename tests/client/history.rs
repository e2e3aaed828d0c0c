//! `guix-client history`: what it shows of a database that the test fills.

use rusqlite::{Connection, params};
use serde_json::Value;
use system::clock::unix_time;

use crate::fixture::{Fixture, Run};

/// A fixture whose daemon has built something, so that there is a database, in which are only the rows of
/// [`Rows::add`].
struct Rows {
    fixture: Fixture,
    connection: Connection,
}

impl Rows {
    fn new() -> Option<Rows> {
        let (fixture, connection) = Fixture::with_history()?;
        Some(Rows {
            fixture,
            connection,
        })
    }

    /// Adds a build of `hello` that ended so many seconds ago, and took so many.
    fn add(&self, version: &str, machine: &str, ago: i64, took: i64, result: &str, reason: &str) {
        let time = i64::try_from(unix_time()).unwrap() - ago;
        let insert =
            "insert into attempts values (null, ?1, 'x-hello.drv', 'hello', ?2, 'x86_64-linux',
            ?3, 1.0, 'build', 0, 1500, ?4, 70000, 5000000, 0, ?5, ?6, null)";
        let values = params![time, version, machine, took * 1000, result, reason];
        self.connection.execute(insert, values).unwrap();
    }

    fn run(&self, words: &[&str]) -> Run {
        self.fixture.run(&[&["history"], words].concat())
    }

    fn json(&self, words: &[&str]) -> Value {
        let run = self.run(&[words, &["--format=json"]].concat());
        serde_json::from_slice(&run.succeeds().out).unwrap()
    }

    /// The versions of the rows that are shown.
    fn versions(&self, words: &[&str]) -> Vec<String> {
        let rows = self.json(words);
        let rows = rows.as_array().unwrap().iter();
        rows.map(|row| row["version"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn without_a_history() {
    let fixture = Fixture::new();
    let run = fixture.run(&["history", "--format=json"]);
    assert_eq!(run.succeeds().out, b"[]\n");
    assert!(run.err.contains("there is no history in "), "{run:?}");
    fixture
        .run(&["history", "hello"])
        .fails("nothing is known of 'hello'");
    for (word, reason) in [
        (
            "--since=yesterday",
            "expected a number of hours, days or weeks",
        ),
        (
            "--result=good",
            "expected one of done, failed, timed-out, cancelled, ",
        ),
        ("--limit=0", "expected a whole number from 1"),
        ("--format=xml", "possible values: table, json"),
    ] {
        fixture.run(&["history", word]).fails(reason);
    }
}

#[test]
fn rows_are_filtered() {
    let Some(rows) = Rows::new() else { return };
    rows.add("1", "build-1:22", 20 * 86400, 1, "done", "");
    rows.add("2", "build-2:22", 3 * 86400, 2, "failed", "it has failed");
    rows.add("3", "local", 3600, 3, "done", "");
    rows.add("4", "", -1000, 4, "cancelled", "");
    assert_eq!(rows.versions(&[]), ["4", "3", "2", "1"]);
    assert_eq!(rows.versions(&["--limit=2"]), ["4", "3"]);
    assert_eq!(rows.versions(&["--since=2w"]), ["4", "3", "2"]);
    assert_eq!(rows.versions(&["--since=2h"]), ["4", "3"]);
    assert_eq!(rows.versions(&["--machine=build-1"]), ["1"]);
    assert_eq!(rows.versions(&["--result=done"]), ["3", "1"]);
    assert_eq!(rows.versions(&["--system=aarch64-linux"]), [""; 0]);
    assert_eq!(rows.versions(&["--name=hel*", "--machine=local"]), ["3"]);
    assert_eq!(rows.versions(&["--name=hel"]), [""; 0]);
    let run = rows.run(&[]);
    let table = run.succeeds().text();
    for text in [
        "ended",
        "in the future",
        "20 d 0 h ago",
        "hello 2",
        "build-2:22",
        "?",
        "1.5 s, 4.77 MiB",
        "1 min 10 s",
        "failed: it has failed",
    ] {
        assert!(table.contains(text), "{text}: {table}");
    }
    let row = &rows.json(&["--limit=1"])[0];
    assert_eq!(row["machine"], Value::Null);
    let derivation = rows.fixture.site.store().join("x-hello.drv");
    assert_eq!(row["derivation"], derivation.to_str().unwrap());
}

#[test]
fn how_long_something_takes() {
    let Some(rows) = Rows::new() else { return };
    for took in 1..=9 {
        rows.add("2.11", "build-1:22", 100 * took, took, "done", "");
    }
    rows.add("2.12", "local", 50, 100, "done", "");
    rows.add("2.12", "local", 40, 1, "failed", "it has failed");
    rows.add("2.12", "local", 30, 1, "machine-failed", "");
    let run = rows.run(&["hello"]);
    let text = run.succeeds().text();
    let line = "hello for x86_64-linux takes 5.0 s; nine of ten take no more than 9.0 s (the last 10, on a machine of speed 1)\n";
    assert!(text.starts_with(line), "{text}");
    assert!(text.contains("failed: it has failed"), "{text}");
    let about = rows.json(&["hello", "--limit=3"]);
    assert_eq!(about["name"], "hello");
    assert_eq!(about["last"].as_array().unwrap().len(), 3);
    let system = &about["systems"][0];
    assert_eq!(
        (&system["usual_ms"], &system["long_ms"]),
        (&5000.into(), &9000.into())
    );
    let local = &system["machines"][1];
    assert_eq!(local["machine"], "local");
    let counts = [&local["done"], &local["failed"], &local["other"]];
    assert_eq!(counts, [1, 1, 1]);
    assert_eq!(local["usual_ms"], 100_000);
    // Of that version, if it is known; of all otherwise. A derivation is as good as a name.
    let samples = |word: &str| {
        rows.json(&[word])["systems"][0]["samples"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(samples("hello-2.12"), 1);
    assert_eq!(samples("hello-2.13"), 10);
    assert_eq!(samples(&rows.fixture.no_item("hello-2.12.drv")), 1);
    assert_eq!(samples(&rows.fixture.no_item("hello-3.drv")), 10);
    rows.run(&["hel*"]).fails("nothing is known of 'hel*'");
}

#[test]
fn hostile_words_control_no_terminal() {
    let Some(rows) = Rows::new() else { return };
    let hostile = "\x1b[2J\u{9b}2J\u{202e}\r\n<b onload='alert(1)'>\"";
    rows.add(hostile, hostile, 10, 1, "failed", hostile);
    for words in [
        &[][..],
        &["hello"],
        &["--format=json"],
        &["hello", "--format=json"],
    ] {
        let run = rows.run(words);
        let text = run.succeeds().text();
        let bad = |c: char| c != '\n' && formats::printable::is_unprintable(c);
        assert!(!text.contains(bad), "{text:?}");
        assert!(text.contains("<b onload='alert(1)'>"), "{text:?}");
    }
    // JSON keeps the words.
    assert_eq!(rows.json(&[])[0]["reason"], hostile);
    // What a newer program may have written is left out.
    rows.add("5", "local", 1, 1, "exploded", "");
    assert_eq!(rows.versions(&[]).len(), 1);
}

#[test]
fn a_history_that_cannot_be_read() {
    let Some(rows) = Rows::new() else { return };
    rows.connection
        .execute_batch("pragma user_version = 99")
        .unwrap();
    let words = "history.sqlite has version 99, and this program knows version 1";
    rows.run(&[]).fails(words);
    let file = rows.fixture.site.state().join("offload/history.sqlite");
    std::fs::write(&file, "no database".repeat(1000)).unwrap();
    rows.run(&[]).fails("history.sqlite is damaged");
}
