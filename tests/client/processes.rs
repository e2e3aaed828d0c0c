//! `guix-client processes`.

use std::fs;
use std::process::Child;

use crate::fixture::{Fixture, GUIX_CLIENT, wait, wait_for_file};
use crate::harness::derivations::Drv;
use crate::harness::{is_ours, program, skip};

/// The printed records of the sessions of one client process.
fn records_of(fixture: &Fixture, client: u32) -> Vec<String> {
    let run = fixture.run(&["processes"]);
    let wanted = format!("\nClientPID: {client}\n");
    run.succeeds()
        .text()
        .split_inclusive("\n\n")
        .filter(|record| record.contains(&wanted))
        .map(str::to_owned)
        .collect()
}

/// A build that has started, and goes on until the gate `go' is opened, with its client.
fn building(fixture: &Fixture) -> (Drv, Child) {
    let started = fixture.gate("started");
    let script = format!(
        "echo >{}; {}; echo >$out",
        started.display(),
        fixture.await_gate("go")
    );
    let (_, drv) = fixture.derivation("slow", &script);
    let words = ["build", "-q", drv.path.as_str()];
    let child = fixture.command(&words).spawn().unwrap();
    wait_for_file(&started);
    (drv, child)
}

#[test]
fn a_session_is_listed_with_its_client_and_what_is_built() {
    if program().file_name() != Some("guix-daemon".as_ref()) {
        return skip("daemons are found by their name, and the one under test has another");
    }
    let fixture = Fixture::new();
    let (drv, child) = building(&fixture);
    let pid = child.id();

    let records = records_of(&fixture, pid);
    assert_eq!(records.len(), 1, "{records:?}");
    let record = &records[0];
    let has = |line: &str| record.lines().any(|other| other == line);
    assert!(
        has(&format!(
            "ClientCommand: {GUIX_CLIENT} build -q {}",
            drv.path
        )),
        "{record}"
    );
    if is_ours() {
        assert!(
            has(&format!("SessionPID: {}", fixture.daemon.pid())),
            "{record}"
        );
    }
    assert!(has(&format!("LockHeld: {}.lock", drv.out())), "{record}");
    let child_listed = record.lines().any(|line| line.starts_with("ChildPID: "));
    assert!(child_listed, "{record}");

    fixture.open("go");
    assert!(wait(child, "the build").success());
    fixture
        .daemon
        .wait_until(|| records_of(&fixture, pid).is_empty(), "to end a session");
}

#[test]
fn guix_processes_finds_no_session_of_ours_and_no_fault() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new();
    let (_, child) = building(&fixture);
    // What it looks for: processes named `guix-daemon' with a number as their first argument. Of the
    // daemon's children, the fork server and the builder, none looks like that.
    let own = fixture.daemon.pid();
    let mut children = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if !status.lines().any(|line| line == format!("PPid:\t{own}")) {
            continue;
        }
        children += 1;
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let mut words = command.split('\0');
        let name = words.next().unwrap_or_default().rsplit('/').next();
        let is_session = name == Some("guix-daemon") && words.next().is_some_and(is_number);
        assert!(!is_session, "{command:?}");
    }
    assert!(children >= 2, "{children}");
    let pid = child.id();
    let end = || {
        fixture.open("go");
        assert!(wait(child, "the build").success());
    };
    let Some(guix) = std::env::var_os("GUIX") else {
        end();
        return;
    };
    for format in ["recutils", "normalized"] {
        let mut command = fixture.site.command(&guix);
        let output = command
            .args(["processes", &format!("--format={format}")])
            .output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert!(!text.contains(&format!("ClientPID: {pid}\n")), "{text}");
    }
    end();
}

fn is_number(word: &str) -> bool {
    word.parse::<u32>().is_ok()
}

#[test]
fn the_only_format_is_recutils() {
    let fixture = Fixture::new();
    fixture.run(&["processes", "--format=recutils"]).succeeds();
    fixture.run(&["processes", "-f", "json"]).fails("json");
}
