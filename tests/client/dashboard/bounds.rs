//! How much it sends and remembers, how long it reads, and what it says of what is missing.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use protocol::frames::{DAEMON_MAGIC, LAST, NEXT};
use rusqlite::params;
use serde_json::{Value, json};
use system::clock::unix_time;

use super::browser::Dashboard;
use super::limits::resident_kib;
use crate::fixture::Fixture;
use crate::harness::{TEST_TIMEOUT, eventually};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

pub fn write_machines(fixture: &Fixture, count: usize) {
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

/// A log whose reading takes very long: an empty stream of bzip2, again and again. One read of the decompressor's
/// reads all of them.
fn write_slow_log(fixture: &Fixture) -> String {
    let empty = [
        0x42, 0x5a, 0x68, 0x39, 0x17, 0x72, 0x45, 0x38, 0x50, 0x90, 0, 0, 0, 0,
    ];
    write_log(fixture, "empty", ".bz2", &empty.repeat(12 << 20))
}

/// The same log of so many other derivations.
fn link_slow_log(fixture: &Fixture, count: usize) -> Vec<String> {
    let logs = fixture.site.log().join("drvs/00");
    let hash = "0".repeat(32);
    let link = |number| {
        let name = format!("slow{number}.drv");
        let link = logs.join(format!("{}-{name}.bz2", &hash[2..]));
        fs::hard_link(logs.join(format!("{}-empty.drv.bz2", &hash[2..])), link).unwrap();
        format!("/api/v1/log?drv={hash}-{name}")
    };
    (0..count).map(link).collect()
}

#[test]
fn logs_that_take_long_are_read_by_few_and_not_for_long() {
    let fixture = Fixture::new();
    let dashboard = Dashboard::start(&fixture);
    let log = write_slow_log(&fixture);
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
    // It isn't tried again at once; who follows is told why there is no more.
    let before = dashboard.processor_time();
    for _ in 0..100 {
        assert_eq!(dashboard.get(&log).status, 500);
    }
    let mut events = dashboard.follow(&format!("{log}&follow=1"));
    let (name, data) = events.next().unwrap();
    assert_eq!(name, "end");
    let error = data["error"].as_str().unwrap();
    assert!(error.contains("too long to be read here"), "{error}");
    let took = dashboard.processor_time() - before;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let damaged = write_log(&fixture, "damaged", ".gz", b"this is no gzip file at all");
    let mut events = dashboard.follow(&format!("{damaged}&follow=1"));
    let (name, data) = events.next().unwrap();
    assert_eq!(name, "end");
    assert!(data["error"].is_string(), "{data}");
    dashboard.stop();
}

#[test]
fn those_who_read_long_logs_hold_up_nobody() {
    let fixture = Fixture::new();
    let dashboard = Dashboard::start(&fixture);
    write_slow_log(&fixture);
    let slow = link_slow_log(&fixture, 64);
    let short = write_log(&fixture, "short", "", b"all of it\n");
    let ask = |path: &String| {
        let mut stream = dashboard.connect();
        let request = format!("GET {path}&follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let followers: Vec<TcpStream> = slow.iter().map(ask).collect();
    assert!(eventually(|| threads(&dashboard, "log") == 4));
    // With 16 turns before it of ten seconds each, it would not be read.
    let answer = dashboard.get(&short);
    assert_eq!((answer.status, answer.text()), (200, "all of it\n".into()));
    // No more of them are read (one that hands on its turn may not have ended yet), and no thread goes on for those
    // who have gone.
    assert!(eventually(|| threads(&dashboard, "log") <= 4));
    drop(followers);
    for path in &slow {
        drop(ask(path));
        assert!(threads(&dashboard, "log") <= 64);
    }
    assert!(eventually(|| threads(&dashboard, "log") == 0));
    dashboard.stop();
}

#[test]
fn a_daemon_that_sends_a_byte_now_and_then_holds_up_nobody() {
    let mut fixture = Fixture::new();
    write_machines(&fixture, 2);
    let dashboard = Dashboard::start(&fixture);
    dashboard.wait_until(|document| document["error"].is_null());
    fixture.daemon.signal(Signal::SIGTERM);
    fixture.daemon.wait();
    let socket = fixture.site.state().join("daemon-socket/socket");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let mut events = dashboard.follow("/api/v1/events");
    // It greets as a daemon does, and then it has a very long message.
    let (mut guest, _) = listener.accept().unwrap();
    let trickle = std::thread::spawn(move || {
        let message = [NEXT, 1 << 20];
        let greeting = [DAEMON_MAGIC.into(), 0x164_u64, LAST];
        for number in greeting.into_iter().chain(message) {
            guest.write_all(&number.to_le_bytes()).unwrap();
        }
        let mut sent = 0;
        let begun = Instant::now();
        while begun.elapsed() < TEST_TIMEOUT && guest.write_all(&[0]).is_ok() {
            sent += 1;
            std::thread::sleep(Duration::from_millis(500));
        }
        sent
    });
    let silent = "the build daemon has not answered within 5 s";
    let document = events.wait_until(|document| document["error"] == silent);
    // What is known without it is shown.
    assert_eq!(document["machines"].as_array().map(Vec::len), Some(2));
    drop(listener);
    let sent = trickle.join().unwrap();
    assert!(sent > 1, "{sent}");
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
