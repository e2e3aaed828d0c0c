//! How much it sends and remembers, how long it reads, and what it says of what is missing.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rusqlite::params;
use serde_json::{Value, json};
use system::clock::unix_time;

use super::browser::Dashboard;
use super::limits::resident_kib;
use crate::fixture::Fixture;
use crate::harness::eventually;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn write_machines(fixture: &Fixture, count: usize) {
    let entries: String = (0..count)
        .map(|number| {
            format!(
                "[[machine]]\nname = \"m{number}\"\nsystems = [\"x86_64-linux\"]\nuser = \"u\"\nhost-key = \"{KEY}\"\n"
            )
        })
        .collect();
    fs::write(fixture.site.configuration().join("machines.toml"), entries).unwrap();
}

#[test]
fn a_day_of_long_reasons_makes_no_long_document() {
    let Some((fixture, mut connection)) = Fixture::with_history() else {
        return;
    };
    write_machines(&fixture, 1000);
    let now = i64::try_from(unix_time()).unwrap();
    let long = "r".repeat(480);
    let transaction = connection.transaction().unwrap();
    for number in 0..100 {
        let time = now - 80_000 + 780 * number;
        for machine in 0..1000 {
            let state = "insert into states values (null, ?1, ?2, 'set-aside', ?3, 0.0, 0, 0, 2)";
            let reason = format!("{machine} {number} {long}");
            let values = params![time, format!("m{machine}:22"), reason];
            transaction.execute(state, values).unwrap();
        }
        let attempt = "insert into attempts values (null, ?1, 'x.drv', 'x', '1', 'x86_64-linux', 'm1:22', 1.0, 'build',
            0, 1500, 1000, 70000, 5000000, 0, 'failed', ?2, null)";
        let values = params![time, format!("{number} {}", long.repeat(10))];
        transaction.execute(attempt, values).unwrap();
    }
    transaction.commit().unwrap();
    let dashboard = Dashboard::start(&fixture);
    let all = |document: &Value| {
        document["failures"].as_array().map(Vec::len) == Some(100)
            && document["machines"].as_array().map(Vec::len) == Some(1000)
    };
    let document = dashboard.wait_until(all);
    let size = dashboard.get("/api/v1/farm").body.len();
    assert!(size < 4 << 20, "{size} bytes");
    let kib = resident_kib(&dashboard);
    assert!(kib < 150 << 10, "{kib} KiB");
    // Every machine has its last state, and it is said how much is left out.
    let machines = document["machines"].as_array().unwrap();
    let last = |machine: &Value| machine["states"].as_array().unwrap().last().cloned();
    for machine in machines {
        assert_eq!(last(machine).unwrap()["state"], "failing", "{machine:#}");
    }
    let reason = last(&machines[7]).unwrap()["reason"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        reason.starts_with("7 99 rrr") && reason.ends_with("r…"),
        "{reason}"
    );
    let number = |field: &str| document[field].as_u64().unwrap();
    let left_out = number("unlisted_states") + number("unlisted_reasons");
    assert!((90_000..100_000).contains(&left_out), "{left_out}");
    let reason = document["failures"][0]["reason"].as_str().unwrap();
    assert!(reason.len() <= 300 && reason.ends_with('…'), "{reason}");
    dashboard.stop();
}

/// How many threads of it have this name.
fn threads(dashboard: &Dashboard, name: &str) -> usize {
    let threads = fs::read_dir(format!("/proc/{}/task", dashboard.child.id())).unwrap();
    let names = threads.filter_map(|one| fs::read_to_string(one.ok()?.path().join("comm")).ok());
    names.filter(|one| one.trim_end() == name).count()
}

/// The log of a derivation that there isn't; returns its address.
fn write_log(fixture: &Fixture, name: &str, suffix: &str, contents: &[u8]) -> String {
    let logs: PathBuf = fixture.site.log().join("drvs/00");
    fs::create_dir_all(&logs).unwrap();
    let hash = "0".repeat(32);
    fs::write(
        logs.join(format!("{}-{name}.drv{suffix}", &hash[2..])),
        contents,
    )
    .unwrap();
    format!("/api/v1/log?drv={hash}-{name}.drv")
}

#[test]
fn logs_that_take_long_are_read_by_few_and_not_for_long() {
    let fixture = Fixture::new();
    let dashboard = Dashboard::start(&fixture);
    // An empty stream of bzip2, again and again: one read of the decompressor's reads all of them.
    let empty = [
        0x42, 0x5a, 0x68, 0x39, 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, 0, 0, 0, 0,
    ];
    let log = write_log(&fixture, "empty", ".bz2", &empty.repeat(12 << 20));
    let begun = Instant::now();
    let answer = dashboard.get(&log);
    assert_eq!(answer.status, 500, "{answer:?}");
    assert!(
        answer.text().contains("too long to be read here"),
        "{answer:?}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(60),
        "{:?}",
        begun.elapsed()
    );
    // Few of those who follow it have theirs read at the same time, and no thread goes on for those who have gone.
    let follow = format!("{log}&follow=1");
    let request = format!("GET {follow} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let ask = || {
        let mut stream = dashboard.connect();
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        stream
    };
    let followers: Vec<TcpStream> = (0..64).map(|_| ask()).collect();
    assert!(eventually(|| threads(&dashboard, "log") > 0));
    for _ in 0..10 {
        assert!(
            threads(&dashboard, "log") <= 4,
            "{}",
            threads(&dashboard, "log")
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(followers);
    for _ in 0..200 {
        drop(ask());
        assert!(threads(&dashboard, "log") <= 64);
    }
    assert!(eventually(|| threads(&dashboard, "log") == 0));
    // Who follows is told why there is no more.
    let mut events = dashboard.follow(&follow);
    let (name, data) = events.next().unwrap();
    assert_eq!(name, "end");
    let error = data["error"].as_str().unwrap();
    assert!(error.contains("too long to be read here"), "{error}");
    let damaged = write_log(&fixture, "damaged", ".gz", b"this is no gzip file at all");
    let mut events = dashboard.follow(&format!("{damaged}&follow=1"));
    let (name, data) = events.next().unwrap();
    assert_eq!(name, "end");
    assert!(data["error"].is_string(), "{data}");
    dashboard.stop();
}

#[test]
fn machines_that_are_missing_are_missed() {
    let fixture = Fixture::new();
    let mut entries = String::new();
    for (name, key) in [
        ("bad1", String::new()),
        ("good", format!("host-key = \"{KEY}\"\n")),
        ("bad2", String::new()),
    ] {
        let _ = write!(
            entries,
            "[[machine]]\nname = \"{name}\"\nsystems = [\"x86_64-linux\"]\nuser = \"u\"\n{key}"
        );
    }
    fs::write(fixture.site.configuration().join("machines.toml"), entries).unwrap();
    let dashboard = Dashboard::start(&fixture);
    let document = dashboard.wait_until(|document| !document["machines_error"].is_null());
    let error = document["machines_error"].as_str().unwrap();
    assert!(
        error.contains("host-key") && error.ends_with("; and one more problem"),
        "{error}"
    );
    let names = |document: &Value| -> Vec<Value> {
        let machines = document["machines"].as_array().unwrap().iter();
        machines.map(|machine| machine["name"].clone()).collect()
    };
    assert_eq!(names(&document), [json!("good")]);
    dashboard.stop();
}

#[test]
fn a_machine_whose_files_cannot_be_read_hides_no_other() {
    let fixture = Fixture::new();
    write_machines(&fixture, 2);
    let hook = fixture.site.state().join("offload");
    fs::create_dir_all(&hook).unwrap();
    fs::write(hook.join("m0:22"), "no directory").unwrap();
    let dashboard = Dashboard::start(&fixture);
    let two = |document: &Value| document["machines"].as_array().map(Vec::len) == Some(2);
    let document = dashboard.wait_until(two);
    let machines = &document["machines"];
    assert_eq!(machines[0]["state"], "failing", "{document:#}");
    let why = machines[0]["why_not"].as_str().unwrap();
    assert!(why.contains("Not a directory"), "{why}");
    assert_eq!(machines[1]["state"], "ready", "{document:#}");
    // The hook's own files are shown of it, not what the daemon tells.
    assert_eq!(machines[1]["speed"], 1.0);
    dashboard.stop();
}
