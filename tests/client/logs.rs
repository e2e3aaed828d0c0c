//! `guix-client log`.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use crate::fixture::{Fixture, wait, wait_for_file};
use crate::harness::derivations::{Client, Drv};
use crate::harness::{eventually, is_ours};

#[test]
fn a_log_is_found_by_the_derivation_and_by_what_was_built() {
    for compression in ["none", "gzip", "bzip2"] {
        let option = format!("--log-compression={compression}");
        let fixture = Fixture::with_options(&["--no-substitutes", &option]);
        let (_client, drv) = fixture.derivation("logged", "echo for the log; echo >$out");
        let show = |item: &str| fixture.run(&["log", item]);
        let missing = format!("guix-client log: error: no build log for '{}'\n", drv.path);
        show(drv.path.as_str()).fails(&missing);
        fixture
            .run(&["build", drv.path.as_str(), "--root=result"])
            .succeeds();
        for item in [drv.path.as_str(), drv.out().as_str(), "result"] {
            show(item).succeeds().prints("for the log\n").says_nothing();
        }
        let (_client, failing) = fixture.derivation("failing", "echo before the end; exit 1");
        fixture
            .run(&["build", failing.path.as_str()])
            .fails("failed");
        show(failing.path.as_str())
            .succeeds()
            .prints("before the end\n")
            .says_nothing();
    }
}

#[test]
fn what_has_no_log_is_an_error() {
    let fixture = Fixture::new();
    let text = fixture.add_text("text", "", &[]);
    fixture
        .run(&["log", &text])
        .fails(&format!("no build log for '{text}'"));
    fixture.run(&["log", "/etc/passwd"]).fails("/etc/passwd");
    fixture.run(&["log"]).fails("required");
    fixture.run(&["log", &text, &text]).fails("unexpected");
}

/// A build that has printed `first`, and prints `second` when the gate `go` opens.
fn running(fixture: &Fixture, end: &str) -> (Client, Drv, Child) {
    let script = format!(
        "echo first; echo >{}; {}; echo second; {end}",
        fixture.gate("started").display(),
        fixture.await_gate("go")
    );
    let (client, drv) = fixture.derivation("running", &script);
    let mut command = fixture.command(&["build", "-q", drv.path.as_str()]);
    let build = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    wait_for_file(&fixture.gate("started"));
    (client, drv, build.unwrap())
}

#[test]
fn a_running_build_is_followed_to_its_end() {
    // Guix's daemon keeps compressed output to itself.
    let compressions = if is_ours() {
        &["none", "gzip", "bzip2"][..]
    } else {
        &["none"]
    };
    for compression in compressions {
        let option = format!("--log-compression={compression}");
        let fixture = Fixture::with_options(&["--no-substitutes", &option]);
        for (end, verdict) in [
            ("echo >$out", "has been built"),
            ("exit 1", "was not built"),
        ] {
            let (_client, drv, build) = running(&fixture, end);
            let shown = fixture.file("shown");
            let mut command = fixture.command(&["log", drv.path.as_str()]);
            command.stdout(File::create(&shown).unwrap());
            command.stderr(File::create(fixture.file("messages")).unwrap());
            let log = command.spawn().unwrap();
            let read = || fs::read_to_string(&shown).unwrap();
            assert!(eventually(|| read() == "first\n"), "{}", read());
            let now = fixture.run(&["log", "--no-follow", drv.path.as_str()]);
            now.succeeds().prints("first\n").says_nothing();
            fixture.open("go");
            assert!(wait(log, "following a log").success());
            assert_eq!(read(), "first\nsecond\n");
            assert_eq!(
                fs::read_to_string(fixture.file("messages")).unwrap(),
                format!("guix-client log: `{}' {verdict}\n", drv.path)
            );
            wait(build, "a build");
            for name in ["go", "started"] {
                fs::remove_file(fixture.gate(name)).unwrap();
            }
        }
    }
}

#[test]
fn following_ends_with_the_reader() {
    let fixture = Fixture::new();
    let (_client, drv, build) = running(&fixture, "echo >$out");
    let (reader, writer) = system::pipe::pipe().unwrap();
    let mut command = fixture.command(&["log", drv.path.as_str()]);
    let log = command.stdout(writer).spawn().unwrap();
    drop(command);
    drop(reader);
    assert_eq!(wait(log, "a log without reader").signal(), Some(13));
    fixture.open("go");
    assert!(wait(build, "a build").success());
}

#[test]
fn on_a_terminal_there_is_a_pager() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("logged", "echo one; echo two; echo >$out");
    fixture.run(&["build", drv.path.as_str()]).succeeds();
    let words = ["log", drv.path.as_str()];
    let paged = fixture.run_on_terminal(&words, &[("PAGER", "sed s/^/paged:/")]);
    paged.succeeds().prints("paged:one\r\npaged:two\r\n");
    for no_pager in ["", "cat"] {
        let plain = fixture.run_on_terminal(&words, &[("PAGER", no_pager)]);
        plain.succeeds().prints("one\r\ntwo\r\n");
    }
    // A pager that has seen enough is no error.
    let quick = fixture.run_on_terminal(&words, &[("PAGER", "head -1")]);
    quick.succeeds().prints("one\r\n");
    let mut command = fixture.command(&words);
    command.env("PAGER", "sed s/^/paged:/");
    fixture.finish(command).succeeds().prints("one\ntwo\n");
}
