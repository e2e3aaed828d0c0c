//! What is different on a terminal.

use crate::fixture::{Fixture, GUIX_CLIENT};
use crate::harness::derivations::{Client, Script};
use crate::harness::terminal::Terminal;
use crate::offloading::NOWHERE;

#[test]
fn colors_are_for_terminals_that_want_them() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let mut number = 0;
    let mut build = |environment: &[(&str, &str)]| {
        number += 1;
        let drv = client.write(Script::new(&format!("colored-{number}"), "echo >$out"));
        let words = ["build", drv.path.as_str()];
        fixture
            .run_on_terminal(&words, environment)
            .succeeds()
            .text()
    };
    assert!(build(&[]).contains("\x1b["));
    assert!(build(&[("NO_COLOR", "")]).contains("\x1b["));
    for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        assert!(!build(&[plain]).contains('\x1b'));
    }
    let help = |environment: &[(&str, &str)]| {
        let run = fixture.run_on_terminal(&["build", "--help"], environment);
        run.succeeds().text()
    };
    assert!(help(&[]).contains("\x1b["));
    assert!(!help(&[("NO_COLOR", "1")]).contains('\x1b'));
}

#[test]
fn help_fits_into_80_columns() {
    let fixture = Fixture::new();
    for command in [
        "build", "log", "archive", "gc", "offload", "weather", "download", "hash", "add",
    ] {
        let help = fixture.run_on_terminal(&[command, "--help"], &[("NO_COLOR", "1")]);
        let long = help
            .lines()
            .into_iter()
            .find(|line| line.trim_end().chars().count() > 80);
        assert_eq!(long, None, "{command}");
    }
}

#[test]
fn the_table_of_machines_fits_into_80_columns() {
    let fixture = Fixture::new();
    let file = fixture
        .write("machines.toml", NOWHERE)
        .display()
        .to_string();
    let run = fixture.run_on_terminal(&["offload", "status", &file], &[]);
    run.succeeds();
    let lines = run.lines();
    assert!(
        lines.iter().any(|line| line.contains("nowhere")),
        "{lines:#?}"
    );
    let long = lines
        .iter()
        .find(|line| line.trim_end().chars().count() > 80);
    assert_eq!(long, None, "{lines:#?}");
}

#[test]
fn an_archive_is_not_written_to_a_terminal() {
    let fixture = Fixture::new();
    let text = fixture.add_text("text", "", &[]);
    fixture.run(&["archive", "--generate-key"]).succeeds();
    let run = fixture.run_on_terminal(&["archive", "--export", &text], &[]);
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    assert!(
        run.text().contains("archives are not for terminals"),
        "{run:?}"
    );
    assert!(!run.text().contains("nix-archive"), "{run:?}");
}

#[test]
fn a_command_that_waits_for_typing_says_so() {
    let fixture = Fixture::new();
    // The terminal's input ends at once.
    for words in [
        &["authorize"][..],
        &["archive", "--authorize"],
        &["archive", "--import"],
        &["archive", "--missing"],
        &["archive", "--list"],
        &["add-text", "name"],
        &["hash", "-"],
    ] {
        let run = fixture.run_on_terminal(words, &[]);
        let text = run.text();
        assert!(
            text.contains(" from the terminal; Ctrl-D ends it"),
            "{run:?}"
        );
    }
}

#[test]
fn downloads_are_shown_on_a_terminal() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let [one, two] = ["one-1.0", "two"].map(|name| fixture.no_item(name));
    let mut derivation = |name: &str| {
        let script = format!(
            "echo '@ download-started {one} http://h/1 1000'
             echo '@ download-started {two} http://h/2 1000'
             echo '@ download-progress {one} http://h/1 1000 500'
             echo said meanwhile
             {}
             echo '@ download-succeeded {one} http://h/1 1000'
             echo '@ download-succeeded {two} http://h/2 1000'
             echo >$out",
            fixture.await_gate("go")
        );
        client.write(Script::new(name, &script)).path
    };
    let on_terminal = derivation("on-terminal");
    let elsewhere = derivation("elsewhere");
    let mut command = fixture.site.command(GUIX_CLIENT);
    command
        .args(["build", on_terminal.as_str()])
        .env("NO_COLOR", "1");
    let mut terminal = Terminal::start(command, 80, 24);
    terminal.wait_for("download", |screen| {
        let row = screen
            .lines
            .iter()
            .find(|line| line.starts_with("on-terminal  here"));
        row.is_some_and(|row| row.ends_with("  500 B of 1000 B"))
    });
    fixture.open("go");
    let (status, shown) = terminal.end();
    assert!(status.success(), "{shown:?}");
    let elsewhere = fixture.run(&["build", elsewhere.as_str()]);
    elsewhere.succeeds();
    for text in [&shown, &elsewhere.err] {
        for line in [
            "downloading from http://h/1 ...",
            "said meanwhile",
            "downloaded one-1.0, 1000 B in ",
            "(1 of 2)",
            "(2 of 2)",
            "2 files downloaded, 1.95 KiB in ",
        ] {
            assert!(text.contains(line), "no `{line}': {text:?}");
        }
    }
    assert!(!elsewhere.err.contains("500 B of"), "{}", elsewhere.err);
}
