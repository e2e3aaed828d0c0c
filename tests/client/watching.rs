//! `offload status --watch` on a terminal, with a thousand machines.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};

use crate::fixture::{Fixture, GUIX_CLIENT};
use crate::harness::{TEST_TIMEOUT, wait_for};

/// The client on a terminal.
struct Terminal {
    child: Child,
    master: File,
    output: Receiver<Vec<u8>>,
    /// Everything that it has written.
    text: String,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

impl Terminal {
    fn start(fixture: &Fixture, words: &[&str]) -> Terminal {
        let terminal = openpty(Some(&size(80, 24)), None).unwrap();
        // Whoever has it too would keep it from hanging up.
        fcntl(&terminal.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        let slave = File::from(terminal.slave);
        // A shell with job control, which continues a job that was stopped.
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let line = format!(
            "trap : INT; {GUIX_CLIENT} {}; fg; echo end=$?",
            quoted.join(" ")
        );
        let mut command = fixture.site.command("setsid");
        command
            .args(["--ctty", "bash", "-mc", &line])
            .env("TERM", "xterm")
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave);
        let child = command.spawn().unwrap();
        // Our copies of the terminal are in it.
        drop(command);
        let master = File::from(terminal.master);
        let mut reader = master.try_clone().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            // It ends with an error when nobody has the terminal any more.
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                let _ = sender.send(buffer[..count].to_vec());
            }
        });
        Terminal {
            child,
            master,
            output,
            text: String::new(),
        }
    }

    /// Waits until this is true of everything that it has written.
    #[track_caller]
    fn read_until(&mut self, what: &str, is_right: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while !is_right(&self.text) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.text += &String::from_utf8_lossy(&bytes),
                Err(error) => panic!("no {what} ({error}): {:?}", self.text),
            }
        }
    }

    /// Waits for a whole screen of which this is true; returns its lines.
    #[track_caller]
    fn wait_for(&mut self, what: &str, is_right: impl Fn(&[&str]) -> bool) -> Vec<String> {
        self.read_until(what, |text| {
            screen(text).is_some_and(|lines| is_right(&lines))
        });
        let lines = screen(&self.text).unwrap_or_default();
        lines.into_iter().map(str::to_owned).collect()
    }

    fn resize(&self, columns: u16, rows: u16) {
        let words = ["cols", &columns.to_string(), "rows", &rows.to_string()].map(str::to_owned);
        let mut stty = Command::new("stty");
        let stty = stty.args(words).stdin(self.master.try_clone().unwrap());
        assert!(stty.status().unwrap().success());
    }

    /// Waits for its end; returns everything that it has written.
    #[track_caller]
    fn end(mut self) -> String {
        let status = wait_for(&mut self.child, 2 * TEST_TIMEOUT);
        assert!(status.is_some(), "it does not end: {:?}", self.text);
        // The reader ends when nobody has the terminal any more.
        for bytes in self.output.iter() {
            self.text += &String::from_utf8_lossy(&bytes);
        }
        std::mem::take(&mut self.text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal hangs up on the rest.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
             user = \"u\"\nhost-key = \"t AAAAAXQAAAABaw==\"\nprivate-key = \"/nonexistent\"\n\n"
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
    let mut terminal = Terminal::start(&fixture, &["offload", "status", "--watch=1", &file]);
    // At first nobody has been asked: all are taken for idle.
    let first = terminal.wait_for("summary", |lines| lines[0].starts_with("1000 machines: "));
    assert!(first.len() <= 24, "{first:#?}");
    // Some are asked each second, and fail.
    let lines = terminal.wait_for("failing machines", |lines| lines[0].contains(" failing"));
    assert!(lines[1].starts_with("build-0000.invalid  "), "{lines:#?}");
    assert!(lines.last().unwrap().contains(" idle: "), "{lines:#?}");
    terminal.wait_for("full screen", |lines| lines.len() == 24);
    terminal.resize(40, 10);
    let small = terminal.wait_for("small screen", |lines| lines.len() == 10);
    let widest = small.iter().map(|line| line.chars().count()).max();
    assert!(widest <= Some(40), "{small:#?}");
    terminal.resize(120, 50);
    terminal.wait_for("large screen", |lines| {
        lines.len() > 24 && lines[0].contains(" failing")
    });

    // Ctrl-Z, after which the shell lets it go on, and Ctrl-C.
    (&terminal.master).write_all(b"\x1a").unwrap();
    let taken_again = |text: &str| text.matches("\x1b[?1049h").count() == 2;
    terminal.read_until("screen again", taken_again);
    let before = terminal.text.len();
    let drawn = |text: &str| text[before..].contains("\x1b[H1000 machines: ");
    terminal.read_until("machines again", drawn);
    (&terminal.master).write_all(b"\x03").unwrap();
    let text = terminal.end();
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
