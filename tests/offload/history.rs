//! What a hook remembers of its builds, under our daemon and under Guix's.

use rusqlite::Connection;
use serde_json::Value;

use crate::farm::{CLIENT, Farm, HOOK, SYSTEM};
use crate::harness::derivations::Script;
use crate::harness::{eventually, is_ours};
use crate::hook_process::HookProcess;

/// The rows that the client shows, the newest first.
fn rows(farm: &Farm, words: &[&str]) -> Vec<Value> {
    let words = [&["history", "--format=json"], words].concat();
    let (succeeded, text) = farm.try_run(CLIENT, &words);
    assert!(succeeded, "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The same once there are so many: a daemon writes them a little after the client's reply.
#[track_caller]
fn wait_for_rows(farm: &Farm, words: &[&str], count: usize) -> Vec<Value> {
    assert!(eventually(|| rows(farm, words).len() >= count));
    let rows = rows(farm, words);
    assert_eq!(rows.len(), count, "{rows:#?}");
    rows
}

/// A column of rows.
fn column<'a>(rows: &'a [Value], name: &str) -> Vec<&'a str> {
    let word = |row: &'a Value| row[name].as_str().unwrap_or("");
    rows.iter().map(word).collect()
}

fn file(farm: &Farm) -> std::path::PathBuf {
    farm.offload_directory().join("history.sqlite")
}

#[test]
fn builds_of_a_hook_are_remembered_once() {
    let mut farm = Farm::new(1);
    farm.configure(&[farm.entry(0).plain("speed", "2.5")]);
    let mut client = farm.client();
    let data = client.text("data", &"some data\n".repeat(10_000), &[]);
    let script = format!("sleep 0.1; cat {data} >$out");
    let good = client.write(Script::new("good-1.2", &script).source(&data));
    client.build(&[&good]).succeeded();
    let bad = client.write(Script::new("bad-2", "exit 3"));
    client.build(&[&bad]).failed(100, "failed");
    // A graft is one wherever it is made.
    let graft = Script::new("good-1.2", "echo graft >$out")
        .variable("guix properties", "((type . graft) (graft (count . 2)))");
    let graft = client.write(graft);
    client.build(&[&graft]).succeeded();
    // The daemon adds nothing to what the hook says.
    let first = wait_for_rows(&farm, &[], 3);
    drop(client);
    farm.daemon = None;
    let rows = rows(&farm, &[]);
    assert_eq!(rows, first);
    assert_eq!(column(&rows, "name"), ["good (graft)", "bad", "good"]);
    assert_eq!(column(&rows, "version"), ["1.2", "2", "1.2"]);
    assert_eq!(column(&rows, "result"), ["done", "failed", "done"]);
    assert_eq!(column(&rows, "machine"), ["build-1:22"; 3]);
    assert_eq!(column(&rows, "system"), [SYSTEM; 3]);
    assert!(
        column(&rows, "reason")[1].contains("failed with exit code 3"),
        "{rows:#?}"
    );
    let good = &rows[2];
    assert_eq!(good["speed"], 2.5);
    let number = |name: &str| good[name].as_u64().unwrap();
    assert!(number("built_ms") >= 100, "{good:#?}");
    // The shell is sent, too.
    assert!(number("bytes_sent") >= 200_000, "{good:#?}");
    assert!(
        (100_000..200_000).contains(&number("bytes_retrieved")),
        "{good:#?}"
    );
    // The machine's own daemon has built it, too.
    if crate::machine::is_machine_ours() {
        let theirs = farm.machines[0].run(&farm.site, CLIENT, &["history", "--format=json"]);
        let theirs: Vec<Value> = serde_json::from_str(&theirs).unwrap();
        assert_eq!(column(&theirs, "machine"), ["local"; 3]);
    }
}

#[test]
fn a_machine_that_fails_and_one_that_takes_over_have_a_row_each() {
    let farm = Farm::new(2);
    farm.configure(&[farm.entry(0).plain("speed", "9.0"), farm.entry(1)]);
    let mut client = farm.client();
    let script = format!("{}; echo >$out", farm.await_gate("go"));
    let drv = client.write(Script::new("waiting", &script));
    let building = client.start(&[&drv]);
    assert_eq!(farm.wait_for_builder("go"), "build-1");
    let daemons = farm.machines[0].processes("guix-daemon");
    daemons.iter().for_each(crate::farm::Process::kill);
    assert_eq!(farm.wait_for_builder("go"), "build-2");
    farm.open("go");
    building.finish().1.succeeded();
    let rows = wait_for_rows(&farm, &[], 2);
    assert_eq!(column(&rows, "result"), ["done", "machine-failed"]);
    assert_eq!(column(&rows, "machine"), ["build-2:22", "build-1:22"]);
    assert!(
        column(&rows, "reason")[1].starts_with("lost 'build-1'"),
        "{rows:#?}"
    );
    // The machines' states: the first one worked, and then did not.
    let states = wait_for_rows(&farm, &["--states", "--machine=build-1"], 2);
    assert_eq!(column(&states, "state"), ["set-aside", "ready"]);
    assert_eq!(states[1]["slots"], 2);
}

#[test]
fn what_a_killed_hook_has_not_written_the_daemon_writes() {
    let mut farm = Farm::new(1);
    let mut client = farm.client();
    let script = format!("{}; echo >$out", farm.await_gate("go"));
    let drv = client.write(Script::new("waiting-1", &script));
    // First a hook that is killed, then a client that goes away.
    let building = client.start(&[&drv]);
    farm.wait_for_builder("go");
    farm.hooks().iter().for_each(crate::farm::Process::kill);
    if is_ours() {
        // Guix's daemon gives up at once.
        farm.wait_for_builder("go");
    }
    building.hang_up();
    assert!(eventually(|| farm.hooks().is_empty()));
    farm.daemon = None;
    let connection = Connection::open(file(&farm)).ok();
    let whole = connection.map(|connection| {
        let query = "pragma integrity_check";
        connection
            .query_row(query, [], |row| row.get::<_, String>(0))
            .unwrap()
    });
    assert_eq!(whole.as_deref().unwrap_or("ok"), "ok");
    if is_ours() {
        let rows = rows(&farm, &[]);
        assert_eq!(column(&rows, "result"), ["cancelled", "hook-failed"]);
        assert_eq!(column(&rows, "name"), ["waiting"; 2]);
        assert!(rows.iter().all(|row| row["machine"].is_null()), "{rows:#?}");
    }
}

/// A hook that offloads a trivial build; returns what it has said.
fn offload(farm: &Farm, name: &str) -> String {
    let mut client = farm.client();
    let drv = client.write(Script::new(name, "echo >$out"));
    let mut hook = HookProcess::start(farm);
    assert_eq!(hook.ask(&drv), "accept");
    let inputs: Vec<&formats::StorePath> = vec![client.busybox()];
    hook.send_paths(&inputs, &[drv.out()]);
    assert_eq!(hook.end(), Some(0), "{}", hook.output);
    std::mem::take(&mut hook.output)
}

#[test]
fn nothing_in_its_place_stops_a_hook() {
    let farm = Farm::new(1);
    offload(&farm, "zeroth");
    let good = std::fs::read(file(&farm)).unwrap();
    let newer = || {
        std::fs::write(file(&farm), &good).unwrap();
        let connection = Connection::open(file(&farm)).unwrap();
        connection
            .execute_batch("pragma user_version = 99")
            .unwrap();
    };
    let warned = |name: &str, words: &str| {
        let said = offload(&farm, name);
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("history"))
            .collect();
        assert!(
            lines.len() == 1 && lines[0].contains(words),
            "{lines:?} in {said}"
        );
    };
    newer();
    warned("newer", "warning: the history cannot be written: ");
    std::fs::write(file(&farm), "no database".repeat(1000)).unwrap();
    warned("damaged", "begun anew");
    assert_eq!(column(&rows(&farm, &[]), "name"), ["damaged"]);
    std::fs::remove_file(file(&farm)).unwrap();
    std::os::unix::fs::symlink(farm.site.path("target"), file(&farm)).unwrap();
    warned("link", "is not a regular file");
    assert!(!farm.site.path("target").exists());
    std::fs::remove_file(file(&farm)).unwrap();
    assert!(!offload(&farm, "deleted").contains("history"));
    let connection = Connection::open(file(&farm)).unwrap();
    connection.execute_batch("begin exclusive").unwrap();
    warned("locked", "another process holds its lock");
    connection.execute_batch("commit").unwrap();
    assert_eq!(column(&rows(&farm, &[]), "name"), ["deleted"]);
}

#[test]
fn a_hook_without_a_history() {
    let farm = Farm::new(1);
    let run = |name: &str, setting: &str| {
        let mut client = farm.client();
        let drv = client.write(Script::new(name, "echo >$out"));
        let words = [
            "-c",
            &format!("GUIX_OFFLOAD_HISTORY={setting} exec \"$@\""),
            "sh",
            HOOK,
        ];
        let mut hook = HookProcess::running(
            &farm,
            "sh",
            &[&words[..], &[SYSTEM, "0", "1", "0"]].concat(),
        );
        assert_eq!(hook.ask(&drv), "accept");
        hook.send_paths(&[client.busybox()], &[drv.out()]);
        assert_eq!(hook.end(), Some(0), "{}", hook.output);
        std::mem::take(&mut hook.output)
    };
    assert!(!run("one", "no").contains("history"));
    assert!(!file(&farm).exists());
    let said = run("two", "maybe");
    assert!(
        said.contains("warning: GUIX_OFFLOAD_HISTORY: 'maybe': expected"),
        "{said}"
    );
    assert_eq!(column(&rows(&farm, &[]), "name"), ["two"]);
    assert!(!run("three", "7,1").contains("history"));
    assert_eq!(column(&rows(&farm, &[]), "name"), ["three"]);
}

#[test]
fn hooks_that_end_at_the_same_time_lose_nothing() {
    const BUILDS: usize = 12;
    let farm = Farm::new(1);
    farm.configure(&[farm.entry(0).plain("parallel-builds", "12")]);
    let mut client = farm.client();
    let script = format!(
        "until test -e {}/go; do sleep 0.02; done; echo >$out",
        farm.gate().display()
    );
    let drvs: Vec<_> = (0..BUILDS)
        .map(|number| client.write(Script::new(&format!("one-{number}"), &script)))
        .collect();
    let building = client.start(&drvs.iter().collect::<Vec<_>>());
    assert!(eventually(|| farm.hooks().len() >= BUILDS));
    farm.open("go");
    let (_client, built) = building.finish();
    built.succeeded();
    built.did_not_say("the history cannot");
    let rows = wait_for_rows(&farm, &["--limit=100"], BUILDS);
    assert_eq!(column(&rows, "machine"), ["build-1:22"; BUILDS]);
}
