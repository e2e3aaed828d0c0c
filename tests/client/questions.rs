//! `guix-client gc`: queries about items.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::fixture::Fixture;
use crate::harness::derivations::Client;

/// `top` refers to `middle` and `base`, `middle` to `base`.
fn with_graph() -> (Fixture, [String; 3]) {
    let fixture = Fixture::new();
    let base = fixture.add_text("base", "", &[]);
    let middle = fixture.add_text("middle", &base, &[&base]);
    let text = format!("{base} {middle}");
    let top = fixture.add_text("top", &text, &[&base, &middle]);
    (fixture, [base, middle, top])
}

#[test]
fn references_and_referrers_are_listed() {
    let (fixture, [base, middle, top]) = with_graph();
    let ask = |question: &str, item: &str| fixture.run(&["gc", question, item]);
    ask("--references", &top)
        .succeeds()
        .prints_all_of(&[&base, &middle])
        .says_nothing();
    ask("--references", &base).succeeds().prints_nothing();
    ask("--referrers", &base)
        .succeeds()
        .prints_all_of(&[&middle, &top]);
    ask("--referrers", &top).succeeds().prints_nothing();
    // For several items, one by one.
    fixture
        .run(&["gc", "--references", &middle, &middle])
        .succeeds()
        .prints_lines(&[&base, &base]);
}

#[test]
fn requisites_are_the_item_and_all_it_needs() {
    let (fixture, [base, middle, top]) = with_graph();
    let run = fixture.run(&["gc", "--requisites", &top]);
    run.succeeds().prints_all_of(&[&base, &middle, &top]);
    // The nearest comes last.
    assert_eq!(run.lines().last(), Some(&top));
    let run = fixture.run(&["gc", "-R", &middle]);
    run.succeeds().prints_lines(&[&base, &middle]);
}

#[test]
fn derivers_are_the_derivations_an_item_comes_from() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("built", "echo >$out");
    fixture.run(&["build", drv.path.as_str()]).succeeds();
    fixture
        .run(&["gc", "--derivers", drv.out().as_str()])
        .succeeds()
        .prints_lines(&[drv.path.as_str()]);
    let text = fixture.add_text("text", "", &[]);
    let run = fixture.run(&["gc", "--derivers", &text]);
    run.succeeds().prints_nothing();
}

#[test]
fn links_and_files_lead_to_the_item_they_are_in() {
    let (fixture, [base, middle, _]) = with_graph();
    symlink(&middle, fixture.file("first")).unwrap();
    symlink("first", fixture.file("second")).unwrap();
    for name in ["first", "second"] {
        let run = fixture.run(&["gc", "--references", name]);
        run.succeeds().prints_lines(&[&base]);
    }
    let inside = format!("{middle}/some/file");
    let run = fixture.run(&["gc", "--references", &inside]);
    run.succeeds().prints_lines(&[&base]);
}

#[test]
fn questions_about_what_is_not_in_the_store_are_errors() {
    let fixture = Fixture::new();
    let missing = fixture.no_item("missing");
    for question in ["--references", "--requisites"] {
        fixture.run(&["gc", question, &missing]).fails(&missing);
    }
    for question in ["--references", "--delete"] {
        fixture
            .run(&["gc", question, "/etc/passwd"])
            .fails("/etc/passwd");
    }
}

#[test]
fn roots_are_listed_by_their_links() {
    let fixture = Fixture::new();
    let list = || fixture.run(&["gc", "--list-roots"]).succeeds().lines();
    let item = fixture.add_text("text", "", &[]);
    fixture.run(&["build", &item, "--root=link"]).succeeds();
    let link = fixture.file("link");
    assert!(list().iter().any(|root| Path::new(root) == link));
}

#[test]
fn items_that_processes_use_are_listed() {
    let fixture = Fixture::new();
    let client = Client::connect(&fixture.daemon);
    let busybox = client.busybox().as_str();
    let list = || fixture.run(&["gc", "--list-busy"]).succeeds().lines();
    let is_busy = || list().iter().any(|item| item == busybox);
    assert!(!is_busy());
    // No daemon is asked.
    let mut command = fixture.command(&["gc", "--list-busy"]);
    command.env("GUIX_DAEMON_SOCKET", fixture.file("nothing-there"));
    assert!(command.output().unwrap().status.success());
    let mut child = Command::new(format!("{busybox}/bin/busybox"))
        .args(["sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let was_busy = is_busy();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(was_busy);
}
