//! A daemon, and runs of `guix-client` against it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;
use rusqlite::Connection;

use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::users::BuildUsers;
use crate::harness::{Daemon, Site, TEST_TIMEOUT, eventually, is_ours, wait_for};

/// The program under test.
pub const GUIX_CLIENT: &str = env!("CARGO_BIN_EXE_guix-client");

/// What touches the network for it.
pub const GUIX_FETCH: &str = env!("CARGO_BIN_EXE_guix-fetch");

/// A running daemon with build users, and a directory for the client's files.
pub struct Fixture {
    // Dropped in this order.
    pub daemon: Daemon,
    pub site: Site,
    _users: Option<BuildUsers>,
}

impl Fixture {
    /// A daemon with an empty store, without substitutes.
    pub fn new() -> Fixture {
        Fixture::with_options(&["--no-substitutes"])
    }

    /// The same, where `guix-fetch` is installed.
    pub fn with_network() -> Fixture {
        let site = Site::new().env("GUIX_FETCH", GUIX_FETCH);
        Fixture::at(site, &["--no-substitutes"])
    }

    /// A daemon with these options, and others that let tests observe it.
    pub fn with_options(options: &[&str]) -> Fixture {
        Fixture::at(Site::new(), options)
    }

    /// Like [`Fixture::with_options`], with the directories of `site`.
    pub fn at(site: Site, options: &[&str]) -> Fixture {
        for name in ["work", "gate"] {
            fs::create_dir(site.path(name)).unwrap();
            fs::set_permissions(site.path(name), fs::Permissions::from_mode(0o777)).unwrap();
        }
        let users = BuildUsers::claim();
        let group = users
            .as_ref()
            .map(|users| format!("--build-users-group={}", users.group));
        let gate = format!("--chroot-directory={}", site.path("gate").display());
        let mut all = vec!["--log-compression=none", &gate];
        all.extend(group.as_deref());
        all.extend(options);
        Fixture {
            daemon: site.start(&all),
            site,
            _users: users,
        }
    }

    /// A fixture whose daemon has built something, so that there is a history, from which that has been deleted;
    /// nothing with a daemon that has none.
    pub fn with_history() -> Option<(Fixture, Connection)> {
        if !is_ours() {
            return None;
        }
        let fixture = Fixture::new();
        let (mut client, drv) = fixture.derivation("first", "echo >$out");
        client.build(&[&drv]).succeeded();
        let file = fixture.site.state().join("offload/history.sqlite");
        let count = || {
            let connection = Connection::open(&file).ok()?;
            let query = "select count(*) from attempts";
            let count = connection.query_row(query, [], |row| row.get::<_, i64>(0));
            count.ok()
        };
        let is_written = || count() == Some(1);
        fixture.daemon.wait_until(is_written, "to write");
        let connection = Connection::open(&file).unwrap();
        connection.execute_batch("delete from attempts").unwrap();
        Some((fixture, connection))
    }

    /// A file in the directory in which the client runs.
    pub fn file(&self, name: &str) -> PathBuf {
        self.site.path("work").join(name)
    }

    /// Writes such a file, and returns its path.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.file(name), contents).unwrap();
        self.file(name)
    }

    /// A command that runs the client.
    pub fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = self.site.command(GUIX_CLIENT);
        command
            .args(words)
            .current_dir(self.site.path("work"))
            .env_remove("GUIX_OFFLOAD_MACHINES")
            .stdin(Stdio::null());
        command
    }

    /// Runs the client.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Run {
        self.finish(self.command(words))
    }

    /// Runs the client with `input` as its standard input.
    #[track_caller]
    pub fn run_with_input<S: AsRef<OsStr>>(&self, words: &[S], input: impl AsRef<[u8]>) -> Run {
        let name = self.site.path(format!("input-{:x}", rand::random::<u64>()));
        fs::write(&name, input).unwrap();
        let mut command = self.command(words);
        command.stdin(File::open(name).unwrap());
        self.finish(command)
    }

    /// Runs the client on a terminal of 80 columns, with this environment. All it prints is in
    /// [`Run::out`].
    #[track_caller]
    pub fn run_on_terminal(&self, words: &[&str], environment: &[(&str, &str)]) -> Run {
        let quoted = words.iter().map(|word| format!(" '{word}'"));
        let line = format!(
            "stty cols 80 rows 24; {GUIX_CLIENT}{}",
            quoted.collect::<String>()
        );
        let mut script = self.site.command("script");
        script
            .args(["-qec", &line, "/dev/null"])
            .current_dir(self.site.path("work"))
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied())
            .stdin(Stdio::null());
        self.finish(script)
    }

    /// Runs a command to its end, with a timeout.
    #[track_caller]
    pub fn finish(&self, command: Command) -> Run {
        let out = self
            .site
            .path(format!("stdout-{:x}", rand::random::<u64>()));
        let mut run = self.finish_with_output(command, File::create(&out).unwrap().into());
        run.out = fs::read(out).unwrap();
        run
    }

    /// Like [`Fixture::finish`], with another standard output.
    #[track_caller]
    pub fn finish_with_output(&self, mut command: Command, out: Stdio) -> Run {
        let err = self
            .site
            .path(format!("stderr-{:x}", rand::random::<u64>()));
        let child = command
            .stdout(out)
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Run {
            status: wait(child, &format!("{command:?}")),
            command: format!("{command:?}"),
            out: Vec::new(),
            err: String::from_utf8_lossy(&fs::read(err).unwrap()).into_owned(),
        }
    }

    /// Adds a text that refers to `references`, and returns the item's path.
    #[track_caller]
    pub fn add_text(&self, name: &str, text: &str, references: &[&str]) -> String {
        let mut words = vec!["add-text", name];
        for reference in references {
            words.extend(["--reference", reference]);
        }
        self.run_with_input(&words, text).succeeds().line()
    }

    /// Writes a derivation to the store. It is a temporary root as long as the result lives.
    pub fn derivation(&self, name: &str, script: &str) -> (Client, Drv) {
        self.derivation_of(Script::new(name, script))
    }

    /// Like [`Fixture::derivation`], for a script with more options.
    pub fn derivation_of(&self, script: Script) -> (Client, Drv) {
        let mut client = Client::connect(&self.daemon);
        let drv = client.write(script);
        (client, drv)
    }

    /// Shell code that waits until a file with this name exists in the gate directory (see
    /// [`Fixture::open`]).
    pub fn await_gate(&self, name: &str) -> String {
        let file = self.site.path("gate").join(name);
        format!("until test -e {}; do sleep 0.05; done", file.display())
    }

    /// Lets builders that wait for `name` continue.
    pub fn open(&self, name: &str) {
        fs::write(self.site.path("gate").join(name), "").unwrap();
    }

    /// The path of a file in the gate directory, for builders to write to.
    pub fn gate(&self, name: &str) -> PathBuf {
        self.site.path("gate").join(name)
    }

    /// Waits until all sessions have ended, and their temporary roots with them.
    pub fn wait_for_sessions_to_end(&self) {
        let roots = self.site.state().join("temproots");
        // Guix's daemon leaves the files of sessions that were killed.
        let none_left = || !is_ours() || fs::read_dir(&roots).map_or(0, Iterator::count) == 0;
        self.daemon.wait_until(none_left, "to end sessions");
    }

    /// The path of an item, which need not exist.
    pub fn no_item(&self, name: &str) -> String {
        let hash = "00000000000000000000000000000000";
        format!("{}/{hash}-{name}", self.site.store().display())
    }

    /// Whether an item's file exists.
    pub fn has(&self, item: impl AsRef<Path>) -> bool {
        item.as_ref().symlink_metadata().is_ok()
    }
}

/// Waits for a process to exit.
#[track_caller]
pub fn wait(mut child: Child, what: &str) -> ExitStatus {
    if let Some(status) = wait_for(&mut child, 2 * TEST_TIMEOUT) {
        return status;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("does not end: {what}");
}

/// Waits until `path` exists.
#[track_caller]
pub fn wait_for_file(path: &Path) {
    assert!(eventually(|| path.exists()), "no {}", path.display());
}

/// A finished run of the client.
#[derive(Debug)]
pub struct Run {
    command: String,
    pub status: ExitStatus,
    pub out: Vec<u8>,
    pub err: String,
}

impl Run {
    /// Its standard output.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// The lines of its standard output.
    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }

    /// The only line of its standard output.
    #[track_caller]
    pub fn line(&self) -> String {
        let lines = self.lines();
        assert_eq!(lines.len(), 1, "{self:#?}");
        lines[0].clone()
    }

    #[track_caller]
    fn assert(&self, holds: bool, expected: &str) -> &Run {
        assert!(
            holds,
            "expected {expected}\n{}\n{}\n--- standard output:\n{}--- standard error:\n{}---",
            self.command,
            self.status,
            self.text(),
            self.err
        );
        self
    }

    /// Requires exit status 0.
    #[track_caller]
    pub fn succeeds(&self) -> &Run {
        self.assert(self.status.success(), "success")
    }

    /// Requires exit status 1, with `text` in the messages, and no panic.
    #[track_caller]
    pub fn fails(&self, text: &str) -> &Run {
        self.fails_with(1, text)
    }

    /// Requires another exit status, with `text` in the messages.
    #[track_caller]
    pub fn fails_with(&self, status: i32, text: &str) -> &Run {
        self.assert(
            self.status.code() == Some(status),
            &format!("exit status {status}"),
        );
        // Guix's daemon uses other quotes.
        let err = self.err.replace('‘', "`").replace('’', "'");
        self.assert(err.contains(text), &format!("the message {text:?}"));
        self.does_not_say("panicked")
    }

    /// Requires that a signal ended it.
    #[track_caller]
    pub fn is_killed_by(&self, signal: Signal) -> &Run {
        let expected = self.status.signal() == Some(signal as i32);
        self.assert(expected, &format!("an end by {signal}"))
    }

    /// Requires exactly this standard output.
    #[track_caller]
    pub fn prints(&self, text: impl AsRef<str>) -> &Run {
        let text = text.as_ref();
        self.assert(self.text() == text, &format!("to print {text:?}"))
    }

    /// Requires exactly these lines on standard output.
    #[track_caller]
    pub fn prints_lines<S: AsRef<str>>(&self, lines: &[S]) -> &Run {
        let text: String = lines
            .iter()
            .map(|line| format!("{}\n", line.as_ref()))
            .collect();
        self.prints(text)
    }

    /// Requires exactly these lines, in any order.
    #[track_caller]
    pub fn prints_all_of<S: AsRef<str>>(&self, lines: &[S]) -> &Run {
        let mut expected: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        expected.sort_unstable();
        let mut printed = self.lines();
        printed.sort_unstable();
        self.assert(printed == expected, &format!("to print {expected:#?}"))
    }

    /// Requires empty standard output.
    #[track_caller]
    pub fn prints_nothing(&self) -> &Run {
        self.prints("")
    }

    /// Requires `text` on standard error.
    #[track_caller]
    pub fn says(&self, text: impl AsRef<str>) -> &Run {
        let text = text.as_ref();
        self.assert(self.err.contains(text), &format!("the message {text:?}"))
    }

    /// Requires that standard error doesn't contain `text`.
    #[track_caller]
    pub fn does_not_say(&self, text: impl AsRef<str>) -> &Run {
        let text = text.as_ref();
        self.assert(!self.err.contains(text), &format!("no message {text:?}"))
    }

    /// Requires empty standard error.
    #[track_caller]
    pub fn says_nothing(&self) -> &Run {
        self.assert(self.err.is_empty(), "no messages")
    }
}
