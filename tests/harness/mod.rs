//! A separate daemon for each test, with its own store, state, logs and configuration in a
//! temporary directory, started and ended as by an administrator.
//!
//! ```ignore
//! let site = Site::new();                       // directories, nothing running
//! let daemon = site.start(&["--no-offload"]);   // waits until it serves
//! let mut client = daemon.client();             // protocol::client::Connection
//! let raw = daemon.connect();                   // or a bare UnixStream
//! drop(daemon);                                 // SIGTERM, then SIGKILL; prints its stderr if
//!                                               // the test panics
//! ```
//!
//! `GUIX_DAEMON_UNDER_TEST=PROGRAM` makes every test use that daemon instead of ours (Guix's own,
//! to validate the test); [`is_ours`] tells which. `GUIX` is the `guix` program that is given to
//! either daemon as its helper; without it there is none. `GUIX_TEST_KEEP=1` keeps the directories
//! of failed tests, and `GUIX_TEST_KEEP=all` those of all tests.
//!
//! Used by several test programs, none of which needs all of it.
#![allow(dead_code)]

pub mod derivations;
pub mod servers;
mod skip;
pub mod substitutes;
pub mod terminal;
pub mod users;
pub mod web_server;

#[allow(unused_imports, reason = "not every test program skips")]
pub use skip::skip;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The timeout for anything that should happen soon, on a loaded machine.
pub const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The daemon to test.
pub fn program() -> PathBuf {
    std::env::var_os("GUIX_DAEMON_UNDER_TEST")
        .map_or_else(|| env!("CARGO_BIN_EXE_guix-daemon").into(), PathBuf::from)
}

/// Whether the daemon under test is the one built here. Tests of what Guix's daemon does
/// differently (on purpose, see the manual) return early if not.
pub fn is_ours() -> bool {
    std::env::var_os("GUIX_DAEMON_UNDER_TEST").is_none()
}

/// Directories for one daemon.
pub struct Site {
    root: Option<tempfile::TempDir>,
    environment: Vec<(OsString, OsString)>,
}

impl Default for Site {
    fn default() -> Self {
        Site::new()
    }
}

/// Copies a program, so that it can be executed at once. A process of its own writes it: one that another
/// test starts meanwhile could inherit our open file, and what is being written can't be executed.
pub fn copy_program(program: &Path, copy: &Path) {
    let status = Command::new("cp").args([program, copy]).status().unwrap();
    assert!(status.success(), "cp: {status}");
}

impl Site {
    /// New, empty directories.
    pub fn new() -> Site {
        let root = tempfile::Builder::new()
            .prefix("guix-test-")
            .tempdir()
            .unwrap();
        // Clients and builders may be other users.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let site = Site {
            root: Some(root),
            environment: Vec::new(),
        };
        for directory in ["state", "log", "etc", "tmp"] {
            fs::create_dir(site.path(directory)).unwrap();
        }
        fs::set_permissions(site.path("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        site
    }

    /// Adds a variable to the daemon's environment.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Site {
        self.environment
            .push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// A file under the site's directory.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        let root = self.root.as_ref().expect("the site is not being dropped");
        root.path().canonicalize().unwrap().join(name)
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The state directory (`/var/guix`).
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Where build logs are kept.
    pub fn log(&self) -> PathBuf {
        self.path("log")
    }

    /// Keys and the ACL.
    pub fn configuration(&self) -> PathBuf {
        self.path("etc")
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.state().join("daemon-socket/socket")
    }

    /// A command with the site's directories in its environment: the daemon, or another program
    /// that uses the same store.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .env("NIX_STORE_DIR", self.store())
            .env("GUIX_STATE_DIRECTORY", self.state())
            .env("GUIX_LOG_DIRECTORY", self.log())
            .env("GUIX_DATABASE_DIRECTORY", self.state().join("db"))
            .env("GUIX_CONFIGURATION_DIRECTORY", self.configuration())
            .env("GUIX_DAEMON_SOCKET", self.socket())
            .env("TMPDIR", self.path("tmp"))
            .env("LC_ALL", "C")
            // Nothing touches the network unless the test says so.
            .env("GUIX_FETCH", "")
            .env_remove("NIX_BUILD_HOOK")
            .env_remove("NIX_STORE");
        if std::env::var_os("GUIX").is_none() {
            command.env("GUIX", self.path("no-guix-here"));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A copy of one of our programs that every user can execute: a checkout may be in a home
    /// directory that nobody else can enter. The daemon finds its hook next to itself.
    pub fn for_everybody(&self, program: impl AsRef<Path>) -> PathBuf {
        let program = program.as_ref();
        let directory = self.path("programs");
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let copy = directory.join(program.file_name().unwrap());
        copy_program(program, &copy);
        let hook = program.with_file_name("guix-offload");
        if hook.exists() {
            copy_program(&hook, &directory.join("guix-offload"));
        }
        copy
    }

    /// Starts the daemon with `options` and waits until it serves on the site's socket.
    pub fn start(&self, options: &[&str]) -> Daemon {
        let daemon = self.launch(options);
        daemon.wait_to_serve();
        daemon
    }

    /// Starts the daemon and doesn't wait.
    pub fn launch(&self, options: &[&str]) -> Daemon {
        let mut command = self.command(program());
        command.args(options);
        self.launch_command(command)
    }

    /// Starts a daemon with a command that the test made.
    pub fn launch_command(&self, mut command: Command) -> Daemon {
        let errors = self.path(format!("stderr-{:x}", rand::random::<u32>()));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Daemon {
            child,
            socket: self.socket(),
            errors,
            store: self.store(),
        }
    }

    /// Runs the daemon with `options` that should make it exit soon; returns its exit status,
    /// standard output and standard error.
    pub fn run(&self, options: &[&str]) -> (ExitStatus, String, String) {
        let mut command = self.command(program());
        let output = command.args(options).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status, text(&output.stdout), text(&output.stderr))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let Some(root) = self.root.take() else { return };
        let keep = std::env::var_os("GUIX_TEST_KEEP");
        if keep.is_some_and(|which| which == "all" || std::thread::panicking()) {
            eprintln!("kept: {}", root.keep().display());
            return;
        }
        // Store directories are read-only.
        let _ = Command::new("chmod")
            .args(["-R", "u+w"])
            .arg(root.path())
            .status();
    }
}

/// A running daemon, which is ended on drop.
pub struct Daemon {
    child: Child,
    socket: PathBuf,
    errors: PathBuf,
    store: PathBuf,
}

impl Daemon {
    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// A bare connection.
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
        stream
    }

    /// Its standard error so far.
    pub fn messages(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.errors).unwrap_or_default()).into_owned()
    }

    /// Its memory use, in KiB; for Guix's daemon, only that of the listening process.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The number of its open descriptors.
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// The number of its threads.
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid()))
            .unwrap()
            .count()
    }

    /// Waits until clients can connect.
    pub fn wait_to_serve(&self) {
        self.wait_until(|| UnixStream::connect(&self.socket).is_ok(), "to serve");
    }

    /// Waits for something that the daemon should do soon.
    pub fn wait_until(&self, condition: impl Fn() -> bool, what: &str) {
        if !eventually(condition) {
            panic!(
                "the daemon is taking too long {what}; it said:\n{}",
                self.messages()
            );
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for it to exit.
    pub fn wait(&mut self) -> ExitStatus {
        match wait_for(&mut self.child, TEST_TIMEOUT) {
            Some(status) => status,
            None => panic!("the daemon does not end; it said:\n{}", self.messages()),
        }
    }

    /// Ends it as an administrator would, and returns its exit status.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Kills it, as in a power failure.
    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        assert_eq!(self.wait().signal(), Some(Signal::SIGKILL as i32));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon said:\n{}---", self.messages());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits for a process to exit; `None` if it takes longer.
pub fn wait_for(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + timeout;
    while Instant::now() < deadline {
        let status = child.try_wait().unwrap();
        if status.is_some() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Waits for a condition that should be true soon; returns whether it is.
pub fn eventually(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Bytes of the worker protocol, composed by hand.
#[derive(Clone, Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// No bytes.
    pub fn new() -> Bytes {
        Bytes::default()
    }

    /// A word.
    pub fn word(mut self, value: u64) -> Bytes {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A string with its padding.
    pub fn string(self, text: impl AsRef<[u8]>) -> Bytes {
        let text = text.as_ref();
        let mut bytes = self.word(text.len() as u64);
        bytes.0.extend_from_slice(text);
        bytes.0.resize(bytes.0.len().next_multiple_of(8), 0);
        bytes
    }

    /// A list of strings.
    pub fn strings<S: AsRef<[u8]>>(self, list: &[S]) -> Bytes {
        let start = self.word(list.len() as u64);
        list.iter().fold(start, |bytes, text| bytes.string(text))
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Bytes {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The handshake of a client with protocol version `0x100 | minor`.
    pub fn hello(minor: u64) -> Bytes {
        let bytes = Bytes::new().word(0x6e69_7863).word(0x100 | minor);
        let bytes = if minor >= 14 { bytes.word(0) } else { bytes };
        if minor >= 11 { bytes.word(0) } else { bytes }
    }
}

/// A client that sends bytes and reads frames.
pub struct RawClient {
    /// The connection.
    pub stream: UnixStream,
}

/// How an operation ended, on the wire.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// LAST: the reply follows.
    Last,
    /// ERROR, with its text and status.
    Error(String, u64),
    /// The connection was closed.
    Closed,
}

impl RawClient {
    /// Connects and performs the handshake of a client of protocol 0x164.
    pub fn new(daemon: &Daemon) -> RawClient {
        RawClient::with_minor(daemon, 0x64)
    }

    /// Connects and performs the handshake of a client of protocol `0x100 | minor`.
    pub fn with_minor(daemon: &Daemon, minor: u64) -> RawClient {
        let mut client = RawClient {
            stream: daemon.connect(),
        };
        client.send(Bytes::hello(minor));
        assert_eq!(client.word(), 0x6478_696f);
        assert_eq!(client.word() & 0xff00, 0x100);
        assert_eq!(client.end(), End::Last);
        client
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: Bytes) {
        self.stream.write_all(&bytes.0).unwrap();
    }

    /// Reads a word.
    pub fn word(&mut self) -> u64 {
        self.try_word().unwrap()
    }

    fn try_word(&mut self) -> io::Result<u64> {
        let mut word = [0; 8];
        self.stream.read_exact(&mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Reads a string.
    pub fn string(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.word()).unwrap();
        let mut text = vec![0; length.next_multiple_of(8)];
        self.stream.read_exact(&mut text).unwrap();
        text.truncate(length);
        text
    }

    /// Reads a list of strings.
    pub fn strings(&mut self) -> Vec<String> {
        (0..self.word())
            .map(|_| String::from_utf8(self.string()).unwrap())
            .collect()
    }

    /// Reads frames up to the one that ends the operation.
    pub fn end(&mut self) -> End {
        self.end_with_log().0
    }

    /// Like [`RawClient::end`], with the log before it.
    pub fn end_with_log(&mut self) -> (End, Vec<u8>) {
        let mut log = Vec::new();
        loop {
            match self.try_word() {
                Ok(0x6f6c_6d67) => log.extend(self.string()),
                Ok(0x616c_7473) => return (End::Last, log),
                Ok(0x6378_7470) => {
                    let text = String::from_utf8_lossy(&self.string()).into_owned();
                    return (End::Error(text, self.word()), log);
                }
                Ok(other) => panic!("unexpected frame {other:#x}"),
                Err(error) => match error.kind() {
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                        return (End::Closed, log);
                    }
                    _ => panic!("no answer: {error}"),
                },
            }
        }
    }

    /// Whether the daemon has closed the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.try_word(), Err(error) if matches!(error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset))
    }
}
