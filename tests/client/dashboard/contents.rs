//! What it serves.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use system::clock::unix_time;

use super::browser::Dashboard;
use crate::fixture::{Fixture, GUIX_CLIENT};
use crate::harness::derivations::{Building, Client, Drv, Script};
use crate::harness::{eventually, is_ours, skip, wait_for};

/// A build that has printed `begun`, and goes on when the gate `go` opens.
fn running(fixture: &Fixture, name: &str, end: &str) -> (Building, Drv) {
    let mut client = Client::connect(&fixture.daemon);
    let wait = fixture.await_gate("go");
    let script = format!("echo '<b>begun</b>'; {wait}; {end}");
    let drv = client.write(Script::new(name, &script));
    let building = client.start(&[&drv]);
    (building, drv)
}

fn base_name(drv: &Drv) -> &str {
    drv.path.base_name()
}

#[test]
fn the_document_follows_a_build() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new();
    let dashboard = Dashboard::start(&fixture);
    assert_eq!(dashboard.url, format!("http://{}/", dashboard.address));
    let mut events = dashboard.follow("/api/v1/events");
    let head = events.head.to_lowercase();
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    let idle = events.wait_until(|_| true);
    assert_eq!(
        (&idle["version"], &idle["error"]),
        (&json!(1), &Value::Null)
    );
    assert_eq!(idle["requests"], json!([]));
    assert!(idle["time"].as_u64().unwrap().abs_diff(unix_time()) < 600);
    assert_eq!(idle["history_error"], Value::Null);
    for field in ["machines", "failures"] {
        assert_eq!(idle[field], json!([]), "{field}");
    }
    // At first nothing has been written to it.
    let begin = |document: &Value| document["throughput"].as_array().map(Vec::len);
    assert_eq!(begin(&idle), Some(145));

    let (building, drv) = running(&fixture, "seen", "echo oops; exit 3");
    let busy = events.wait_until(|document| document["requests"][0]["running"] == 1);
    let build = &busy["requests"][0]["builds"][0];
    assert_eq!(build["path"], drv.path.as_str(), "{busy:#}");
    assert_eq!(build["place"], "here");
    assert_eq!(busy["users"], json!({"0": "root"}));
    // The same as `guix-client status' tells.
    let status = fixture.run(&["status", "--format=json"]);
    let status: Value = serde_json::from_slice(&status.succeeds().out).unwrap();
    assert_eq!(
        status["requests"][0]["number"],
        busy["requests"][0]["number"]
    );

    fixture.open("go");
    building.finish().1.failed(100, "failed");
    let done = events.wait_until(|document| {
        document["failures"][0]["drv"] == drv.path.as_str() && document["requests"] == json!([])
    });
    let failure = &done["failures"][0];
    for (field, value) in [
        ("name", json!("seen")),
        ("result", json!("failed")),
        ("machine", json!("local")),
        ("kind", json!("build")),
        ("has_log", json!(true)),
    ] {
        assert_eq!(failure[field], value, "{field}: {failure:#}");
    }
    assert_eq!(done["history_error"], Value::Null);
    let intervals = done["throughput"].as_array().unwrap();
    let sum = |field: &str| {
        intervals
            .iter()
            .map(|one| one[field].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((sum("builds"), sum("failed")), (0, 1));
    dashboard.stop();
}

#[test]
fn logs_are_shown_and_followed() {
    if !is_ours() {
        return;
    }
    for compression in ["none", "gzip", "bzip2"] {
        let option = format!("--log-compression={compression}");
        let fixture = Fixture::with_options(&["--no-substitutes", &option]);
        let dashboard = Dashboard::start(&fixture);
        let script = "i=0; while test $i -lt 9000; do echo \"line $i\"; i=$((i + 1)); done; echo done; echo >$out";
        let (building, drv) = running(&fixture, "logged", script);
        let log = format!("/api/v1/log?drv={}", base_name(&drv));
        let there = eventually(|| dashboard.get(&log).body == b"<b>begun</b>\n");
        assert!(there, "{compression}: {:?}", dashboard.get(&log));
        let mut events = dashboard.follow(&format!("{log}&follow=1"));
        assert_eq!(events.wait_for_log("begun"), "<b>begun</b>\n");
        fixture.open("go");
        let rest = events.wait_for_log("done\n");
        assert!(
            rest.ends_with("line 8998\nline 8999\ndone\n"),
            "{compression}: {rest}"
        );
        let (name, _) = events.next().expect("an end");
        assert_eq!((name.as_str(), events.next()), ("end", None));
        building.finish().1.succeeded();
        // The end of it, in whole lines.
        let answer = dashboard.get(&log);
        assert!(
            answer
                .head
                .contains("content-type: text/plain; charset=utf-8")
        );
        let text = answer.text();
        assert!(
            text.len() <= 64 << 10 && text.len() > 60_000,
            "{}",
            text.len()
        );
        assert!(text.starts_with("line ") && text.ends_with("line 8999\ndone\n"));
        // Following what has ended is the same.
        let mut events = dashboard.follow(&format!("{log}&follow=1"));
        assert_eq!(events.wait_for_log("done\n"), text);
        assert_eq!(events.next().unwrap().0, "end");
        dashboard.stop();
    }
}

#[test]
fn only_logs_of_derivations_are_shown() {
    let fixture = Fixture::new();
    let dashboard = Dashboard::start(&fixture);
    let hash = "0".repeat(32);
    let logs = fixture.site.log().join("drvs/00");
    fs::create_dir_all(&logs).unwrap();
    let rest = &hash[2..];
    std::os::unix::fs::symlink("/etc/passwd", logs.join(format!("{rest}-link.drv"))).unwrap();
    nix::unistd::mkfifo(
        &logs.join(format!("{rest}-pipe.drv")),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .unwrap();
    fs::write(
        logs.join(format!("{rest}-damaged.drv.gz")),
        "this is no gzip file at all",
    )
    .unwrap();
    for (name, status) in [
        (format!("{hash}-missing.drv"), 404),
        (format!("{hash}-link.drv"), 500),
        (format!("{hash}-pipe.drv"), 500),
        (format!("{hash}-damaged.drv"), 500),
        (format!("{hash}-x"), 400),
        (format!("{hash}.drv"), 400),
        ("..".to_owned(), 400),
        ("../../etc/passwd".to_owned(), 400),
        ("..%2f..%2fetc%2fpasswd".to_owned(), 400),
        (format!("00/{rest}-x.drv"), 400),
        (format!("/gnu/store/{hash}-x.drv"), 400),
        (format!("{hash}-x%00.drv"), 400),
        (format!("{hash}-%ff.drv"), 400),
        (format!("é{hash}-x.drv"), 400),
        (format!("{hash}-{}.drv", "x".repeat(300)), 400),
        (String::new(), 400),
    ] {
        for follow in ["", "&follow=1"] {
            if follow == "&follow=1" && status == 500 {
                continue; // it has begun to answer before the log is read
            }
            let answer = dashboard.get(&format!("/api/v1/log?drv={name}{follow}"));
            assert_eq!(answer.status, status, "{name}: {answer:?}");
            assert!(!answer.text().contains("root:"), "{name}");
        }
    }
    assert_eq!(dashboard.get("/api/v1/log").status, 400);
    assert_eq!(dashboard.get("/api/v1/log?follow=1").status, 400);
    let link = format!("/api/v1/log?drv={hash}-link.drv&follow=1");
    let (name, data) = dashboard.follow(&link).next().unwrap();
    assert_eq!(name, "end");
    let error = data["error"].as_str().unwrap();
    assert!(error.starts_with("reading the log "), "{error}");
}

#[test]
fn a_daemon_that_is_away_is_missed_until_it_is_back() {
    let mut fixture = Fixture::new();
    let dashboard = Dashboard::start(&fixture);
    let mut events = dashboard.follow("/api/v1/events");
    events.wait_until(|document| document["error"] == Value::Null);
    fixture.daemon.signal(Signal::SIGTERM);
    fixture.daemon.wait();
    let missed = events.wait_until(|document| document["error"] != Value::Null);
    assert!(
        missed["error"].as_str().unwrap().contains("connect"),
        "{missed:#}"
    );
    assert_eq!(missed["requests"], json!([]));
    fixture.daemon = fixture.site.start(&["--no-substitutes"]);
    events.wait_until(|document| document["error"] == Value::Null);
    // One that hangs.
    fixture.daemon.signal(Signal::SIGSTOP);
    let missed = events.wait_until(|document| document["error"] != Value::Null);
    assert_eq!(
        missed["error"],
        "the build daemon has not answered within 5 s"
    );
    assert_eq!(dashboard.get("/").status, 200);
    fixture.daemon.signal(Signal::SIGCONT);
    events.wait_until(|document| document["error"] == Value::Null);
    dashboard.stop();
}

const EVIL: &str = "<script>alert(1)</script>&\"'\u{202e}\u{1b}[2J\n\\";

fn add(connection: &Connection, machine: &str, ago: u64, took: i64, result: &str, reason: &str) {
    let time = i64::try_from(unix_time() - ago).unwrap();
    let insert =
        "insert into attempts values (null, ?1, ?6, ?6, '1', 'x86_64-linux', ?2, 1.0, 'build',
        0, 1500, ?3, 70000, 5000000, 0, ?4, ?5, null)";
    let values = params![time, machine, took * 1000, result, reason, EVIL];
    connection.execute(insert, values).unwrap();
}

#[test]
fn the_last_day_is_that_of_the_history() {
    let Some((fixture, connection)) = Fixture::with_history() else {
        return;
    };
    let machines = "[[machine]]\nname = \"m1\"\nsystems = [\"x86_64-linux\"]\nuser = \"u\"\n\
        host-key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\n\
        parallel-builds = 2\nspeed = 2.5\n";
    fs::write(fixture.site.configuration().join("machines.toml"), machines).unwrap();
    add(&connection, "m1:22", 30 * 3600, 100, "failed", "long ago");
    add(&connection, "m1:22", 5 * 3600, 3600, "done", "");
    add(&connection, "m1:22", 4 * 3600, 10, "cancelled", "");
    add(&connection, "", 1000, 10, "machine-failed", EVIL);
    let state = "insert into states values (null, ?1, 'm1:22', 'set-aside', ?2, 0.0, 0, 0, 2)";
    connection
        .execute(
            state,
            params![i64::try_from(unix_time() - 7200).unwrap(), EVIL],
        )
        .unwrap();
    let dashboard = Dashboard::start(&fixture);
    let document = dashboard.wait_until(|document| document["history_error"] == Value::Null);
    let failures = document["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1, "{document:#}");
    assert_eq!(failures[0]["machine"], Value::Null);
    assert_eq!(failures[0]["has_log"], false);
    let shown = "<script>alert(1)</script>&\"'\\u{202e}\\u{1b}[2J\\n\\";
    assert_eq!(
        (&failures[0]["reason"], &failures[0]["name"]),
        (&json!(shown), &json!(shown))
    );
    let intervals = document["throughput"].as_array().unwrap();
    let sum = |field: &str| {
        intervals
            .iter()
            .map(|one| one[field].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((sum("builds"), sum("failed")), (1, 1));
    assert_eq!((sum("busy_s"), sum("bytes_sent")), (3620, 3 * 5_000_000));
    let most = intervals
        .iter()
        .map(|one| one["busy_s"].as_u64().unwrap())
        .max();
    assert!(most <= Some(610), "{most:?}");
    let machine = &document["machines"][0];
    for (field, value) in [
        ("name", json!("m1")),
        ("port", json!(22)),
        ("slots", json!(2)),
        ("slots_used", json!(0)),
        ("state", json!("ready")),
        ("drained", json!(false)),
        ("generated", json!(false)),
        ("speed", json!(2.5)),
        ("systems", json!(["x86_64-linux"])),
        ("load", Value::Null),
        ("free_space", Value::Null),
    ] {
        assert_eq!(machine[field], value, "{field}: {machine:#}");
    }
    let states = machine["states"].as_array().unwrap();
    let names: Vec<&str> = states
        .iter()
        .map(|one| one["state"].as_str().unwrap())
        .collect();
    let expected = ["busy", "ready", "busy", "ready", "failing"];
    assert_eq!(names, expected, "{machine:#}");
    // What is added is shown, and so is what an administrator does.
    add(&connection, "m1:22", 0, 20, "timed-out", "");
    fixture
        .run(&["offload", "drain", "m1", "--reason=<b>disk</b>"])
        .succeeds();
    let document = dashboard.wait_until(|document| {
        document["failures"].as_array().unwrap().len() == 2
            && document["machines"][0]["drained"] == true
    });
    assert_eq!(document["failures"][0]["result"], "timed-out");
    assert_eq!(
        document["machines"][0]["why_not"],
        "it is drained: <b>disk</b>"
    );
    assert_eq!(document["machines"][0]["state"], "drained");
    let metrics = dashboard.get("/metrics");
    assert!(
        metrics
            .head
            .contains("content-type: text/plain; version=0.0.4"),
        "{metrics:?}"
    );
    for line in [
        "guix_farm_up 1",
        "guix_farm_requests 0",
        "guix_offload_slots{machine=\"m1:22\"} 2",
        "guix_offload_drained{machine=\"m1:22\"} 1",
        "guix_offload_up{machine=\"m1:22\"} 0",
    ] {
        let text = metrics.text();
        assert!(text.lines().any(|one| one == line), "{line}: {text}");
    }
    // Whoever has no history has no past.
    drop(connection);
    let file = fixture.site.state().join("offload/history.sqlite");
    fs::remove_file(&file).unwrap();
    dashboard.wait_until(|document| document["failures"] == json!([]));
}

#[test]
fn a_history_that_cannot_be_read_is_said_to_be_so() {
    let Some((fixture, connection)) = Fixture::with_history() else {
        return;
    };
    add(&connection, "m1:22", 0, 20, "failed", "");
    let dashboard = Dashboard::start(&fixture);
    dashboard.wait_until(|document| document["failures"][0]["result"] == "failed");
    connection
        .execute_batch("pragma user_version = 99")
        .unwrap();
    drop(connection);
    let says = |text: &'static str| {
        move |document: &Value| {
            let error = document["history_error"].as_str().unwrap_or_default();
            error.starts_with("cannot read the history: ") && error.contains(text)
        }
    };
    dashboard.wait_until(says("has version 99, and this program knows version 1"));
    let file = fixture.site.state().join("offload/history.sqlite");
    fs::write(&file, "x".repeat(10_000)).unwrap();
    dashboard.wait_until(says("is damaged"));
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    dashboard.wait_until(says("is not a regular file"));
    dashboard.stop();
}

#[test]
fn it_changes_nothing() {
    let Some((fixture, connection)) = Fixture::with_history() else {
        return;
    };
    let dashboard = Dashboard::start(&fixture);
    dashboard.wait_until(|document| document["history_error"] == Value::Null);
    // Whoever else opens the history corrects its mode, which Landlock would let it do, too.
    let file = fixture.site.state().join("offload/history.sqlite");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    add(&connection, "m1:22", 0, 20, "failed", "");
    dashboard.wait_until(|document| document["failures"][0]["result"] == "failed");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
    // A history that is begun anew, by another file.
    let copy = file.with_extension("copy");
    fs::copy(&file, &copy).unwrap();
    fs::rename(&copy, &file).unwrap();
    let connection = Connection::open(&file).unwrap();
    add(&connection, "m1:22", 0, 20, "timed-out", "");
    dashboard.wait_until(|document| document["failures"][0]["result"] == "timed-out");
    dashboard.stop();
}

#[test]
fn an_ordinary_user_sees_what_everybody_may_see() {
    let Some((fixture, connection)) = Fixture::with_history() else {
        return;
    };
    drop(connection);
    let Some(nobody) = system::ids::user_by_name("nobody").unwrap() else {
        return;
    };
    let program = fixture.site.for_everybody(GUIX_CLIENT);
    let mut command: Command = fixture.site.command(program);
    command
        .args(["dashboard", "--listen=127.0.0.1:0"])
        .uid(nobody.uid)
        .gid(nobody.gid)
        .current_dir("/")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let dashboard = Dashboard::of(command.spawn().unwrap());
    let (building, drv) = running(&fixture, "seen", "echo >$out");
    let document = dashboard.wait_until(|document| document["requests"][0]["running"] == 1);
    assert_eq!(document["error"], Value::Null);
    let error = document["history_error"].as_str().unwrap();
    assert!(error.contains("ermission denied"), "{document:#}");
    let log = format!("/api/v1/log?drv={}", base_name(&drv));
    assert!(eventually(|| dashboard.get(&log).body == b"<b>begun</b>\n"));
    fixture.open("go");
    building.finish().1.succeeded();
    dashboard.stop();
}

#[test]
fn it_reads_and_starts_nothing_else() {
    let fixture = Fixture::new();
    // As usual, there is a store.
    fixture.derivation("any", "echo >$out");
    let dashboard = Dashboard::start(&fixture);
    dashboard.wait_until(|document| document["machines_error"] == Value::Null);
    let status = fs::read_to_string(format!("/proc/{}/status", dashboard.child.id())).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
        assert!(status.lines().any(|one| one == line), "{line}: {status}");
    }
    let errors = || fs::read_to_string(fixture.site.path("dashboard-errors")).unwrap();
    if errors().contains("it has no Landlock") {
        return skip("the kernel has no Landlock");
    }
    assert_eq!(errors(), "");
    // What it can't read, the daemon tells, who knows no speeds.
    let with_speed = |speed: Value| {
        move |document: &Value| {
            document["machines"][0]["name"] == "m" && document["machines"][0]["speed"] == speed
        }
    };
    // A machine file that leads to what is elsewhere.
    let machine = "[[machine]]\nname = \"m\"\nsystems = [\"x86_64-linux\"]\nuser = \"u\"\nhost-key = \"ssh-ed25519 \
                   AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\n";
    let elsewhere = fixture.write("elsewhere.toml", machine);
    let file = fixture.site.configuration().join("machines.toml");
    std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
    dashboard.wait_until(with_speed(Value::Null));
    fs::remove_file(&file).unwrap();
    fs::write(&file, machine).unwrap();
    dashboard.wait_until(with_speed(json!(1.0)));
    // Guile is a program.
    if system::process::find_program("guile").is_none() {
        return dashboard.stop();
    }
    let scheme = fixture.site.configuration().join("machines.scm");
    fs::write(&scheme, "(map (lambda (x) x) (list))").unwrap();
    dashboard.wait_until(with_speed(Value::Null));
    dashboard.stop();
    // Where it was needed from the start on, it is run.
    let dashboard = Dashboard::start(&fixture);
    dashboard.wait_until(with_speed(json!(1.0)));
    dashboard.stop();
}

#[test]
fn where_it_cannot_listen_it_says_why() {
    let fixture = Fixture::new();
    let dashboard = Dashboard::start(&fixture);
    let taken = format!("--listen={}", dashboard.address);
    let text = format!(
        "cannot listen on {}: Address already in use",
        dashboard.address
    );
    fixture.run(&["dashboard", &taken]).fails(&text);
    for bad in ["8090", "127.0.0.1", "example.org:80", "127.0.0.1:99999", ""] {
        let option = format!("--listen={bad}");
        fixture
            .run(&["dashboard", &option])
            .fails("expected an address and a port");
    }
    fixture
        .run(&["dashboard", "--host=a:80"])
        .fails("expected a host name, without a port");
    let errors = || fs::read_to_string(fixture.site.path("dashboard-errors")).unwrap();
    assert_eq!(errors(), "");
    dashboard.stop();
    let mut public = Dashboard::start_with(&fixture, &["--listen=0.0.0.0:0"]);
    assert!(
        errors().contains("warning: whoever can connect to 0.0.0.0:"),
        "{}",
        errors()
    );
    let answer = public.ask("GET", "/", &format!("Host: {}\r\n", public.address));
    assert_eq!(answer.status, 421); // nobody comes to that address
    assert_eq!(public.get("/").status, 200);
    public.signal(Signal::SIGINT);
    let status = wait_for(&mut public.child, crate::harness::TEST_TIMEOUT);
    assert!(status.expect("it ends").success());
}
