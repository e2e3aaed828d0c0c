//! `guix-client build --root`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fixture::Fixture;
use crate::harness::derivations::{Client, Script};

fn target(link: &Path) -> PathBuf {
    fs::read_link(link).unwrap_or_else(|error| panic!("{}: {error}", link.display()))
}

#[test]
fn a_root_is_a_link_that_keeps_the_result() {
    let fixture = Fixture::new();
    let (client, drv) = fixture.derivation("result", "echo >$out");
    // Relative to the client's working directory.
    let words = ["build", drv.path.as_str(), "--root=link"];
    fixture
        .run(&words)
        .succeeds()
        .prints_lines(&[drv.out().as_str()]);
    let link = fixture.file("link");
    assert_eq!(target(&link), drv.out().as_path());
    drop(client);
    fixture.wait_for_sessions_to_end();
    fixture.run(&["gc"]).succeeds();
    assert!(fixture.has(drv.out()));
    let roots = fixture.run(&["gc", "--list-roots"]).succeeds().lines();
    let kept = roots.iter().any(|root| Path::new(root) == link);
    assert!(kept, "{roots:?}");

    fs::remove_file(link).unwrap();
    fixture.wait_for_sessions_to_end();
    fixture.run(&["gc"]).succeeds();
    assert!(!fixture.has(drv.out()));
}

#[test]
fn several_outputs_have_numbered_roots() {
    let fixture = Fixture::new();
    let script = Script::new("two", "echo >$out; echo >$doc").output("doc");
    let (_client, drv) = fixture.derivation_of(script);
    let link = fixture.file("link");
    let words = ["build", drv.path.as_str(), "-r", link.to_str().unwrap()];
    fixture.run(&words).succeeds();
    assert_eq!(target(&fixture.file("link-0")), drv.output("doc").as_path());
    assert_eq!(target(&fixture.file("link-1")), drv.out().as_path());
    assert!(!fixture.has(link));
}

#[test]
fn derivations_and_items_can_have_roots_too() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("unbuilt", "echo >$out");
    let words = ["build", "-d", drv.path.as_str(), "--root=derivation"];
    fixture.run(&words).succeeds();
    assert_eq!(target(&fixture.file("derivation")), drv.path.as_path());
    let item = fixture.add_text("text", "", &[]);
    fixture.run(&["build", &item, "--root=item"]).succeeds();
    assert_eq!(target(&fixture.file("item")), Path::new(&item));
}

#[test]
fn the_first_result_gets_the_last_root() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let first = client.write(Script::new("first", "echo >$out"));
    let second = client.write(Script::new("second", "echo >$out"));
    let (first_path, second_path) = (first.path.as_str(), second.path.as_str());
    let words = ["build", first_path, second_path, "-r", "a", "-r", "b"];
    fixture.run(&words).succeeds();
    assert_eq!(target(&fixture.file("b")), first.out().as_path());
    assert_eq!(target(&fixture.file("a")), second.out().as_path());
}

#[test]
fn a_root_is_not_replaced_and_needs_a_directory() {
    let fixture = Fixture::new();
    let item = fixture.add_text("text", "", &[]);
    fixture.write("taken", "precious");
    fixture
        .run(&["build", &item, "--root=taken"])
        .fails("failed to create GC root `")
        .says("File exists");
    assert_eq!(fs::read(fixture.file("taken")).unwrap(), b"precious");
    fixture
        .run(&["build", &item, "--root=missing/link"])
        .fails("failed to create GC root `missing/link': No such file or directory");
    fixture
        .run(&["build", &item, "--root=.."])
        .fails("failed to create GC root `..'");
}

#[test]
fn nothing_is_built_for_a_root_that_cannot_be_made() {
    let fixture = Fixture::new();
    let script = Script::new("two", "echo >$out; echo >$doc").output("doc");
    let (_client, drv) = fixture.derivation_of(script);
    fixture.write("taken-1", "precious");
    for (root, why) in [
        ("taken", "File exists"),
        ("missing/link", "No such file or directory"),
        ("taken-1/link", "Not a directory"),
    ] {
        let root = format!("--root={root}");
        fixture
            .run(&["build", drv.path.as_str(), &root])
            .fails("failed to create GC root `")
            .says(why);
        assert!(!fixture.has(drv.out()), "{root}");
    }
    let run = fixture.run(&["build", "--hello", "--root=taken-1"]);
    run.fails("File exists");
    assert!(!run.err.contains("hello from the builder"), "{}", run.err);
    fixture
        .run(&["build", drv.path.as_str(), "--root=free"])
        .succeeds();
}

#[test]
fn a_dry_run_makes_no_root() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("unbuilt", "echo >$out");
    let words = ["build", "-n", drv.path.as_str(), "--root=link"];
    fixture.run(&words).succeeds();
    assert!(!fixture.has(fixture.file("link")));
}

#[test]
fn names_that_others_chose_control_no_terminal() {
    let fixture = Fixture::new();
    let item = fixture.add_text("kept", "", &[]);
    let root = "evil\n/forged\x1b[2J";
    fs::create_dir_all(fixture.file("evil\n")).unwrap();
    fixture
        .run(&["build", &item, &format!("--root={root}")])
        .succeeds();
    let roots = fixture.run(&["gc", "--list-roots"]).succeeds().lines();
    let shown = "/evil\\n/forged\\u{1b}[2J";
    assert!(roots.iter().any(|root| root.ends_with(shown)), "{roots:?}");
    assert!(!roots.iter().any(|root| root.contains('\x1b')), "{roots:?}");
    // What an error quotes.
    fixture
        .run(&["gc", "--references", "/no\x1b[2Jwhere\r"])
        .fails("/no\\u{1b}[2Jwhere\\r");
}
