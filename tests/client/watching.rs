//! `offload status --watch` on a terminal, with a thousand machines.

use std::io::Read;
use std::process::Stdio;

use crate::fixture::{Fixture, GUIX_CLIENT};
use crate::harness::terminal::{Terminal, with_job_control};

/// The client on a terminal, started by a shell with job control, which continues a job that was stopped.
fn start(fixture: &Fixture, words: &[&str]) -> Terminal {
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let mut command = fixture.site.command("setsid");
    let line = format!(
        "trap : INT; {GUIX_CLIENT} {}; fg; echo end=$?",
        quoted.join(" ")
    );
    with_job_control(&mut command, &line);
    Terminal::start(command, 80, 24)
}

/// Waits for a whole screen of which this is true; returns its lines.
#[track_caller]
fn wait_for(
    terminal: &mut Terminal,
    what: &str,
    is_right: impl Fn(&[&str]) -> bool,
) -> Vec<String> {
    terminal.read_until(what, |text| {
        screen(text).is_some_and(|lines| is_right(&lines))
    });
    let lines = screen(&terminal.text).unwrap_or_default();
    lines.into_iter().map(str::to_owned).collect()
}

/// The lines of the last screen that is drawn to its end.
fn screen(text: &str) -> Option<Vec<&str>> {
    let (drawn, _) = text.rsplit_once("\x1b[K\x1b[J")?;
    // (The terminal adds a carriage return of its own.)
    let lines = drawn.rsplit("\x1b[H").next()?.split("\x1b[K\r");
    Some(
        lines
            .map(|line| line.trim_start_matches(['\r', '\n']))
            .collect(),
    )
}

/// A machine file with a thousand machines, which nobody can reach.
fn thousand(fixture: &Fixture) -> String {
    let entry = |number: usize| {
        format!(
            "[[machine]]\nname = \"build-{number:04}.invalid\"\nsystems = [\"x86_64-linux\"]\n\
             user = \"u\"\nhost-key = \"t AAAAAXQAAAABaw==\"\nprivate-key = \"/none-{number}\"\n\n"
        )
    };
    let text: String = (0..1000).map(entry).collect();
    let file = fixture.write("thousand.toml", &text);
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_thousand_machines_fit_on_a_screen_of_any_size() {
    let fixture = Fixture::new();
    let file = thousand(&fixture);
    let mut terminal = start(&fixture, &["offload", "status", "--watch=1", &file]);
    // At first nobody has been asked: all are taken for idle.
    let first = wait_for(&mut terminal, "summary", |lines| {
        lines[0].starts_with("1000 machines, ")
    });
    assert!(first.len() <= 24, "{first:#?}");
    // Some are asked each second, and fail.
    let lines = wait_for(&mut terminal, "failing machines", |lines| {
        lines[0].contains(" failing")
    });
    assert!(lines[1].starts_with("machine  "), "{lines:#?}");
    assert!(lines[2].starts_with("build-0000.invalid  "), "{lines:#?}");
    assert!(lines.last().unwrap().contains(" idle: "), "{lines:#?}");
    wait_for(&mut terminal, "full screen", |lines| lines.len() == 24);
    terminal.resize(40, 10);
    let small = wait_for(&mut terminal, "small screen", |lines| lines.len() == 10);
    let widest = small.iter().map(|line| line.chars().count()).max();
    assert!(widest <= Some(40), "{small:#?}");
    terminal.resize(120, 50);
    wait_for(&mut terminal, "large screen", |lines| {
        lines.len() > 24 && lines[0].contains(" failing")
    });

    // Ctrl-Z, after which the shell lets it go on, and Ctrl-C.
    terminal.type_in(b"\x1a");
    let taken_again = |text: &str| text.matches("\x1b[?1049h").count() == 2;
    terminal.read_until("screen again", taken_again);
    let before = terminal.text.len();
    let drawn = |text: &str| text[before..].contains("\x1b[H1000 machines, ");
    terminal.read_until("machines again", drawn);
    terminal.type_in(b"\x03");
    let (_, text) = terminal.end();
    let (taken, given_back) = (
        "\x1b[?1049h\x1b[?25l\x1b[?7l",
        "\x1b[?7h\x1b[?25h\x1b[?1049l",
    );
    assert_eq!(text.matches(taken).count(), 2, "{text:?}");
    assert_eq!(text.matches(given_back).count(), 2, "{text:?}");
    // Nothing is on the screen after that but what the terminal and the shell say.
    let rest = text.rsplit(given_back).next().unwrap();
    assert!(!rest.contains('\x1b'), "{rest:?}");
}

#[test]
fn what_is_no_screen_gets_tables() {
    let fixture = Fixture::new();
    let file = fixture.write("machines.toml", crate::offloading::NOWHERE);
    let words = ["offload", "status", "--watch=1", file.to_str().unwrap()];
    let mut command = fixture.command(&words.map(str::to_owned));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    let mut out = child.stdout.take().unwrap();
    let mut buffer = [0; 4096];
    while text.matches(" machine ").count() < 2 {
        let count = out.read(&mut buffer).unwrap();
        assert!(count > 0, "{text}");
        text += &String::from_utf8_lossy(&buffer[..count]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!text.contains('\u{1b}'), "{text:?}");
}
