//! What `guix-client build` shows below the log, on a terminal.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::fixture::{Fixture, GUIX_CLIENT, Run, wait_for_file};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::is_ours;
use crate::harness::terminal::{Screen, Terminal, with_job_control};

/// `guix-client build` with these words, as it runs on a terminal.
fn build(fixture: &Fixture, words: &[&str]) -> Command {
    let mut command = fixture.site.command(GUIX_CLIENT);
    command.arg("build").args(words).env_remove("NO_COLOR");
    command
}

fn touch(fixture: &Fixture, name: &str) -> String {
    format!("echo >{}", fixture.gate(name).display())
}

/// Four derivations: `low`, which runs until the gate `go` is opened; `top`, which needs it; `zother`,
/// which fails when `fail` is opened; and `quick`, which succeeds.
fn four(fixture: &Fixture) -> (Client, [Drv; 4]) {
    let mut client = Client::connect(&fixture.daemon);
    let wait = fixture.await_gate("go");
    let low = format!("echo low says; {wait}; echo >$out");
    let low = client.write(Script::new("low-1.0", &low));
    let top = client.write(Script::new("top", "echo top says; echo >$out").input(&low, "out"));
    let other = "for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done";
    let other = format!("{other}; {}; exit 7", fixture.await_gate("fail"));
    let other = client.write(Script::new("zother", &other));
    let quick = client.write(Script::new("quick", "echo >$out"));
    (client, [low, top, other, quick])
}

#[test]
fn what_runs_is_below_the_log_and_failures_are_at_the_end() {
    let fixture = Fixture::new();
    let (_client, drvs) = four(&fixture);
    let [_, top, other, quick] = drvs.each_ref().map(|drv| drv.path.as_str());
    let words = ["-k", "-M3", top, other, quick];
    let mut terminal = Terminal::start(build(&fixture, &words), 200, 24);
    let screen = terminal.wait_for("running builds", |screen| {
        let last = screen.last();
        // (A log has the name of its build in front while there are several.)
        let has = |text: &str| screen.lines.iter().any(|line| line.ends_with(text));
        last.contains("1 of 4 done, 2 building, 1 waiting;") && has("low says") && has("line 9")
    });
    let rows = screen.after(&format!("successfully built {quick} (1 of 4)"));
    // Lines of the log may come in between.
    let is_log = |row: &str| {
        ["building ", "low says", "line "]
            .iter()
            .any(|part| row.contains(part))
    };
    let rows: Vec<_> = rows.iter().filter(|row| !is_log(row)).collect();
    assert!(rows.len() <= 5, "{screen:#?}");
    let row = |name: &str| {
        rows.iter()
            .find(|row| row.starts_with(&format!("{name}  ")))
    };
    assert!(
        row("low-1.0").is_some_and(|row| row.contains("here  0:0")),
        "{screen:#?}"
    );
    assert!(screen.last().starts_with("█"), "{screen:#?}");
    if is_ours() {
        // What only the daemon knows.
        terminal.wait_for("reasons", |screen| screen.has_line("waiting: 1 for inputs"));
    }
    fixture.open("fail");
    terminal.wait_for("failure", |screen| {
        screen.has_line("failed: zother") && screen.last().contains(", 1 failed; 0:")
    });
    fixture.open("go");
    let (status, text) = terminal.end();
    assert_eq!(status.code(), Some(1), "{text:?}");
    let screen = Screen::showing(&text, (200, 1000));
    // Nothing of it is left.
    assert!(
        !screen.lines.iter().any(|line| line.contains('░')),
        "{screen:#?}"
    );
    assert!(screen.wraps);
    let end = screen.after(&format!("failed: {other}")).join("\n");
    assert!(end.starts_with("  here after 0:0"), "{end}");
    assert!(
        end.contains("exit code 7\n  | line 1\n  | line 2\n"),
        "{end}"
    );
    assert!(end.contains("  | line 9\n  whole log: "), "{end}");
    assert!(
        end.contains("\n3 of 4 derivations built, 1 failed in 0:0"),
        "{end}"
    );
    assert!(end.contains(": 3 here\n"), "{end}");
    assert!(end.contains(": error: "), "{end}");
    let log = end
        .lines()
        .find_map(|line| line.strip_prefix("  whole log: "))
        .unwrap();
    let all = std::fs::read_to_string(log).unwrap();
    assert!(all.ends_with("line 9\n"), "{all}");
}

#[test]
fn no_builder_says_where_another_one_was_built_or_that_it_has_failed() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let wait = fixture.await_gate("fail");
    let victim = client.write(Script::new(
        "victim",
        &format!("echo honest; {wait}; exit 5"),
    ));
    let path = &victim.path;
    // Whole, in two pieces, over what a terminal has overwritten, and the daemon's own events.
    let lies = format!(
        "echo '@ build-remote {path} evil'; printf '@ build-rem'; sleep 0.3; printf 'ote {path} evil\\n'; \
         printf 'x\\r@ build-remote {path} evil\\r\\n'; echo '@ build-failed {path} - 1 told by a builder'; \
         echo '@ build-verdict {path} told by a builder'; echo '@ build-succeeded {path} -'; {}; echo >$out",
        touch(&fixture, "fail")
    );
    let liar = client.write(Script::new("liar", &lies));
    let words = ["-k", "-M2", path.as_str(), liar.path.as_str()];
    let terminal = Terminal::start(build(&fixture, &words), 200, 24);
    let (status, text) = terminal.end();
    assert_eq!(status.code(), Some(1), "{text:?}");
    let screen = Screen::showing(&text, (200, 1000));
    let end = screen.after(&format!("failed: {path}")).join("\n");
    assert!(end.starts_with("  here after "), "{end}");
    assert!(end.contains(": builder failed with exit code 5\n"), "{end}");
    assert!(
        end.contains("1 of 2 derivations built, 1 failed in "),
        "{end}"
    );
    assert!(end.contains(": 1 here"), "{end}");
    assert!(!end.contains("evil"), "{end}");
}

#[test]
fn the_log_is_as_if_nothing_were_below_it() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    // Longer than the screen, with lines of many lengths, one of them as wide as the terminal.
    let script = "i=0; while test $i -lt 300; do i=$((i+1)); echo line $i; \
                  printf '%*s\\n' $((i % 170)) x; test $((i % 40)) != 0 || sleep 0.2; done; echo >$out";
    let drv = client.write(Script::new("talkative", script));
    let terminal = Terminal::start(build(&fixture, &[drv.path.as_str()]), 80, 24);
    let (status, text) = terminal.end();
    assert!(status.success(), "{text:?}");
    assert!(text.contains("\x1b[?7l"), "nothing was below it: {text:?}");
    let screen = Screen::showing(&text, (80, 24));
    let mut lines = screen.lines.iter().skip_while(|line| *line != "line 1");
    for number in 1..=300 {
        assert_eq!(lines.next().unwrap(), &format!("line {number}"));
        let mut left = format!("{:>1$}", "x", number % 170);
        while left.len() > 80 {
            assert_eq!(lines.next().unwrap(), &left[..80]);
            left = left[80..].to_owned();
        }
        assert_eq!(lines.next().unwrap(), &left);
    }
    assert!(lines.next().unwrap().starts_with("successfully built"));
}

#[test]
fn hostile_builders_leave_the_terminal_alone() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let script = format!(
        "printf 'a\\033[2J\\033[20A\\033[?1049hb\\033[31mred\\n'; printf '10 %%\\r20 %%\\r\\n'
         printf 'no end \\033[9A'; {}; {}; echo >$out",
        touch(&fixture, "said"),
        fixture.await_gate("go")
    );
    let drv = client.write(Script::new("evil", &script));
    let mut terminal = Terminal::start(build(&fixture, &[drv.path.as_str()]), 80, 24);
    wait_for_file(&fixture.gate("said"));
    // The emulator panics at any sequence that isn't ours.
    let screen = terminal.wait_for("open line", |screen| screen.has_line("no end"));
    for line in ["abred", "20 %"] {
        assert!(screen.has_line(line), "{screen:#?}");
    }
    terminal.wait_for("row", |screen| screen.has_line("evil  here  0:"));
    fixture.open("go");
    let (status, text) = terminal.end();
    assert!(status.success(), "{text:?}");
    assert!(text.contains("\x1b[31mred\x1b[0m"), "{text:?}");
}

#[test]
fn it_fits_on_half_of_any_terminal() {
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    let wait = fixture.await_gate("go");
    let many = (0..30).map(|number| {
        let name = format!("a-package-with-a-long-name-{number}.0");
        client.write(Script::new(&name, &format!("{wait}; echo >$out")))
    });
    let many: Vec<Drv> = many.collect();
    let mut words = vec!["-M30"];
    words.extend(many.iter().map(|drv| drv.path.as_str()));
    let mut command = build(&fixture, &words);
    command.env("NO_COLOR", "1");
    let mut terminal = Terminal::start(command, 80, 24);
    // There may be fewer build users.
    let many_run = |text: &str| {
        let rows = rows(text);
        rows.len() >= 4 && rows.last().is_some_and(|row| row.contains("of 30 done, "))
    };
    terminal.read_until("many builds", many_run);
    for (columns, height) in [(40, 8), (80, 6), (20, 5), (120, 8)] {
        terminal.resize(columns, height);
        let before = terminal.text.len();
        terminal.read_until("rows that fit", |text| {
            let rows = rows(&text[before..]);
            let widest = rows.iter().map(|row| row.chars().count()).max();
            !rows.is_empty()
                && rows.len() == usize::from(height / 2)
                && widest < Some(usize::from(columns))
        });
        let all = rows(&terminal.text);
        assert!(all.last().unwrap().contains("30"), "{all:#?}");
        let first = ["a-package-", "and 3 more"].map(|words| all[0].starts_with(words));
        assert!(first.contains(&true), "{all:#?}");
    }
    fixture.open("go");
    let (status, text) = terminal.end();
    assert!(status.success(), "{text:?}");
    assert!(text.contains("30 derivations built in 0:"), "{text:?}");
}

/// The rows that were drawn last.
fn rows(text: &str) -> Vec<&str> {
    let Some((drawn, _)) = text.rsplit_once("\x1b[K\x1b[J\x1b[?7h") else {
        return Vec::new();
    };
    let last = drawn.rsplit("\x1b[?7l").next().unwrap_or_default();
    let rows = last.split("\x1b[K\r");
    // (The terminal adds a carriage return of its own. Colors take no room.)
    rows.map(|row| row.trim_start_matches(['\r', '\n']))
        .collect()
}

#[test]
fn signals_leave_the_terminal_whole() {
    let fixture = Fixture::new();
    let (_client, drvs) = four(&fixture);
    let mut command = fixture.site.command("setsid");
    let line = format!(
        "trap : INT; {GUIX_CLIENT} build -M2 '{}' '{}'; echo stopped; fg; echo end=$?",
        drvs[1].path, drvs[3].path
    );
    command.env("NO_COLOR", "1");
    with_job_control(&mut command, &line);
    let mut terminal = Terminal::start(command, 80, 24);
    let is_shown =
        |screen: &Screen| screen.last().contains("1 of 3 done") && screen.has_line("low-1.0  here");
    terminal.wait_for("rows", is_shown);
    assert!(!terminal.text.contains("\x1b[3"), "{:?}", terminal.text);
    // Ctrl-Z; the shell says something, and lets it go on.
    terminal.type_in(b"\x1a");
    terminal.read_until("stop", |text| text.contains("stopped\r\n"));
    let stopped = terminal.screen();
    assert!(stopped.wraps, "{stopped:#?}");
    terminal.wait_for("rows again", |screen| {
        is_shown(screen) && screen.has_line("stopped")
    });
    let screen = terminal.screen();
    assert!(
        !screen
            .after("stopped")
            .iter()
            .any(|line| line.contains("stopped"))
    );
    terminal.type_in(b"\x03");
    let (_, text) = terminal.end();
    let screen = Screen::showing(&text, (80, 24));
    assert!(screen.wraps, "{screen:#?}");
    let left = screen.lines.iter().any(|line| line.contains("done, "));
    assert!(!left, "{screen:#?}");

    // It ends by the signal, as if it had done nothing about it.
    let words = [drvs[1].path.as_str()];
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut terminal = Terminal::start(build(&fixture, &words), 80, 24);
        terminal.wait_for("rows", |screen| screen.has_line("low-1.0  here"));
        terminal.signal(signal);
        let (status, text) = terminal.end();
        assert_eq!(status.signal(), Some(signal as i32), "{text:?}");
        let screen = Screen::showing(&text, (80, 24));
        let left = screen.lines.iter().any(|line| line.contains("done, "));
        assert!(screen.wraps && !left, "{screen:#?}");
    }
}

#[test]
fn without_a_screen_there_are_lines() {
    let fixture = Fixture::new();
    let mut number = 0;
    let mut build = |options: &[&str], environment: &[(&str, &str)]| -> Run {
        number += 1;
        let mut client = Client::connect(&fixture.daemon);
        let slow = Script::new(
            &format!("slow-{number}"),
            "echo says; sleep 1.2; echo >$out",
        );
        let bad = Script::new(&format!("bad-{number}"), "echo bad says; exit 3");
        let [slow, bad] = [slow, bad].map(|script| client.write(script));
        let mut words = vec!["build", "-k", "-M2", slow.path.as_str(), bad.path.as_str()];
        words.extend(options);
        match environment {
            [] => fixture.run(&words),
            _ => fixture.run_on_terminal(&words, environment),
        }
    };
    for (options, environment) in [
        (&[][..], &[("TERM", "dumb")][..]),
        (&["--progress=plain"], &[("NO_COLOR", "1")]),
    ] {
        let run = build(options, environment);
        assert_eq!(run.status.code(), Some(1), "{run:?}");
        assert!(!run.text().contains('\x1b'), "{run:?}");
        assert!(run.text().contains("| bad says"), "{run:?}");
    }
    // The failures are told again on standard error; results are alone on standard output.
    let run = build(&[], &[]);
    run.fails("failed: ")
        .says("  | bad says\n  whole log: ")
        .prints_nothing();
    run.says("\n1 of 2 derivations built, 1 failed\n");
    let quiet = build(&["-q"], &[]);
    quiet.fails("The log of").does_not_say("whole log: ");
}

/// What becomes of the question what the daemon does.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// That of Guix's daemon, which does not know the operation.
    Unknown,
    /// None.
    Silence,
    /// The connection ends.
    End,
    /// Something that is no answer.
    Nonsense,
}

/// A socket that is like the daemon's, except for this question.
fn unlike(fixture: &Fixture, answer: Answer) -> PathBuf {
    let path = fixture.file(&format!("{answer:?}"));
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = fixture.site.socket();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let server = UnixStream::connect(&daemon).unwrap();
            let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            std::thread::spawn(move || pass_on(client, server, answer));
        }
    });
    path
}

/// Passes on what a client sends, except for that question.
fn pass_on(mut client: UnixStream, mut server: UnixStream, answer: Answer) {
    let mut buffer = [0; 64 << 10];
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        let sent = &buffer[..count];
        if sent == 1000_u64.to_le_bytes() {
            let text = b"invalid operation 1000\0\0";
            let words = [0x6378_7470_u64, 22].map(u64::to_le_bytes).concat();
            let error = [&words, &text[..], &1_u64.to_le_bytes()].concat();
            match answer {
                Answer::Unknown => _ = client.write_all(&error),
                Answer::Silence => continue,
                Answer::End => {}
                Answer::Nonsense => _ = client.write_all(&[0xff; 1000]),
            }
            break;
        }
        if server.write_all(sent).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

#[test]
fn a_daemon_that_cannot_tell_builds_all_the_same() {
    if !is_ours() {
        return; // The other tests do that.
    }
    let fixture = Fixture::new();
    let mut client = Client::connect(&fixture.daemon);
    for answer in [
        Answer::Unknown,
        Answer::Silence,
        Answer::End,
        Answer::Nonsense,
    ] {
        let go = format!("go-{answer:?}");
        let script = format!("{}; echo >$out", fixture.await_gate(&go));
        let low = client.write(Script::new(&format!("low-{answer:?}"), &script));
        let top = Script::new(&format!("top-{answer:?}"), "echo >$out").input(&low, "out");
        let top = client.write(top);
        let mut command = build(&fixture, &[top.path.as_str()]);
        command.env("GUIX_DAEMON_SOCKET", unlike(&fixture, answer));
        let mut terminal = Terminal::start(command, 80, 24);
        // By then, it has asked.
        terminal.wait_for("rows", |screen| {
            screen
                .last()
                .contains("0 of 2 done, 1 building, 1 waiting; 0:03")
        });
        let screen = terminal.screen();
        assert!(!screen.has_line("waiting:"), "{screen:#?}");
        fixture.open(&go);
        let (status, text) = terminal.end();
        assert!(status.success(), "{answer:?}: {text:?}");
        assert!(text.contains("2 derivations built in 0:0"), "{text:?}");
        assert!(!text.contains("error"), "{text:?}");
    }
}
