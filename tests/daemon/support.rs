//! A daemon with its own store, and what its tests share.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use formats::{Algorithm, StoreDir, StorePath};
use gcrypt::KeyPair;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::client::{Connection, Error, Options};
use protocol::operations::{Collected, GcAction};

use crate::harness::{self, Bytes, Daemon, End, RawClient, Site, TEST_TIMEOUT, is_ours};
use crate::items::{Tree, new_keys};

/// A user other than root.
pub const NOBODY: u32 = 65534;

/// A running daemon and its directories.
pub struct Fixture {
    // In the order in which they have to end.
    pub daemon: Daemon,
    pub mount: Option<PrivateMount>,
    pub site: Site,
}

impl Fixture {
    /// A daemon with an empty store, without substitutes.
    pub fn new() -> Fixture {
        Fixture::with(Site::new(), &["--no-substitutes"])
    }

    /// A daemon with the directories of `site`, started with `options`.
    pub fn with(site: Site, options: &[&str]) -> Fixture {
        Fixture {
            daemon: site.start(options),
            mount: None,
            site,
        }
    }

    /// Like [`Fixture::with`], run by this user, who owns the store.
    pub fn run_by(user: u32, mount: Option<PrivateMount>, site: Site) -> Fixture {
        fs::create_dir_all(site.store()).unwrap();
        for directory in ["state", "log", "etc", "store"] {
            chown(site.path(directory), Some(user), Some(user)).unwrap();
        }
        let mut command = site.command(site.for_everybody(harness::program()));
        command.arg("--no-substitutes").uid(user).gid(user);
        let daemon = site.launch_command(command);
        daemon.wait_to_serve();
        Fixture {
            daemon,
            mount,
            site,
        }
    }

    /// Like [`Fixture::with`], with the directories on the test's own file system.
    pub fn on(mount: PrivateMount, site: Site, options: &[&str]) -> Fixture {
        Fixture {
            daemon: site.start(options),
            mount: Some(mount),
            site,
        }
    }

    /// A client after the handshake.
    pub fn client(&self) -> Connection {
        self.greet(self.daemon.connect())
    }

    /// A client after all other sessions have ended, and their temporary roots with them.
    pub fn only_client(&self) -> Connection {
        let roots = self.site.state().join("temproots");
        let none_left = || {
            // Guix's daemon leaves the files of sessions that were killed.
            let files = fs::read_dir(&roots).map_or(0, Iterator::count);
            self.session_processes().is_empty() && (files == 0 || !is_ours())
        };
        self.daemon.wait_until(none_left, "to end sessions");
        self.client()
    }

    /// Performs the handshake over a connection.
    pub fn greet(&self, stream: UnixStream) -> Connection {
        Connection::over_unix(stream, &self.dir(), &Options::default()).unwrap()
    }

    /// A client after the handshake that sends bytes.
    pub fn raw(&self) -> RawClient {
        RawClient::new(&self.daemon)
    }

    /// The store directory.
    pub fn dir(&self) -> StoreDir {
        StoreDir::new(self.site.store().to_str().unwrap()).unwrap()
    }

    /// The path of an item, which need not exist.
    pub fn path(&self, name: &str) -> StorePath {
        self.dir()
            .join(&format!("00000000000000000000000000000000-{name}"))
            .unwrap()
    }

    /// The names in the store directory, except `.links`, and the lock files that failures leave to
    /// the next collection.
    pub fn entries(&self) -> BTreeSet<String> {
        let mut entries = self.entries_and_locks();
        entries.retain(|name| !name.ends_with(".lock"));
        entries
    }

    /// The names in the store directory, except `.links`.
    pub fn entries_and_locks(&self) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.site.store()) else {
            return BTreeSet::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".links")
            .collect()
    }

    /// The files in `.links`.
    pub fn links(&self) -> usize {
        fs::read_dir(self.site.store().join(".links")).map_or(0, Iterator::count)
    }

    /// Checks that the store has exactly `paths`, in the directory and for clients.
    #[track_caller]
    pub fn assert_holds<'a>(&self, paths: impl IntoIterator<Item = &'a StorePath>) {
        let paths: BTreeSet<StorePath> = paths.into_iter().cloned().collect();
        let names: BTreeSet<String> = paths.iter().map(|path| path.base_name().into()).collect();
        assert_eq!(self.entries(), names);
        assert_eq!(self.client().query_all_valid_paths().unwrap(), paths);
    }

    /// Checks that no item is valid, and that no files are left.
    #[track_caller]
    pub fn assert_empty(&self) {
        assert_eq!(
            self.client().query_all_valid_paths().unwrap(),
            BTreeSet::new()
        );
        // Guix leaves files that could not be registered to the collector.
        if is_ours() {
            assert_eq!(self.entries(), BTreeSet::new());
        }
    }

    /// Checks that the daemon still answers new clients.
    #[track_caller]
    pub fn assert_serves(&self) {
        assert_eq!(
            self.client().builtin_builders().unwrap(),
            ["download", "git-download"]
        );
    }

    /// Makes an item a permanent root.
    pub fn root(&self, name: &str, path: &StorePath) -> PathBuf {
        let link = self.site.state().join("gcroots").join(name);
        std::os::unix::fs::symlink(path.as_path(), &link).unwrap();
        link
    }

    /// Installs a new key pair as the daemon's, and authorises it.
    pub fn install_keys(&self) -> KeyPair {
        let pair = new_keys();
        pair.save(&self.site.configuration()).unwrap();
        pair
    }

    /// The peak memory use of the daemon, or of one of its sessions' processes, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let own = self.daemon.pid();
        self.session_processes()
            .into_iter()
            .chain([own])
            .filter_map(peak_of)
            .max()
            .unwrap()
    }

    /// The processes of sessions, which only Guix's daemon has.
    pub fn session_processes(&self) -> Vec<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.daemon.pid())).unwrap();
        let children = |task: std::io::Result<fs::DirEntry>| {
            // A thread may end meanwhile.
            let children = task.unwrap().path().join("children");
            let children = fs::read_to_string(children).unwrap_or_default();
            children
                .split_whitespace()
                .map(|pid| pid.parse().unwrap())
                .collect::<Vec<i32>>()
        };
        tasks.flat_map(children).collect()
    }

    /// Kills the daemon with all its processes.
    pub fn kill(&self) {
        let sessions = self.session_processes();
        self.daemon.signal(Signal::SIGKILL);
        for pid in sessions {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Restarts the daemon.
    pub fn restart(self, options: &[&str]) -> Fixture {
        let Fixture {
            mut daemon,
            mount,
            site,
        } = self;
        daemon.wait();
        drop(daemon);
        Fixture {
            daemon: site.start(options),
            mount,
            site,
        }
    }
}

fn peak_of(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Adds a text that refers to `references`.
#[track_caller]
pub fn add_text(
    client: &mut Connection,
    name: &str,
    text: &str,
    references: &[&StorePath],
) -> StorePath {
    let references = references.iter().map(|&path| path.clone()).collect();
    client.add_text_to_store(name, text, references).unwrap()
}

/// Adds a tree with the SHA-256 of its nar.
pub fn add_tree(client: &mut Connection, name: &str, tree: &Tree) -> Result<StorePath, Error> {
    client.add_to_store(name, true, Algorithm::Sha256, |writer| tree.write(writer))
}

/// Collects garbage, without a limit.
#[track_caller]
pub fn collect(client: &mut Connection, action: GcAction, paths: &[&StorePath]) -> Collected {
    try_collect(client, action, paths).unwrap()
}

/// Like [`collect`], but may fail.
pub fn try_collect(
    client: &mut Connection,
    action: GcAction,
    paths: &[&StorePath],
) -> Result<Collected, Error> {
    let paths = paths.iter().map(|&path| path.clone()).collect();
    client.collect_garbage(action, paths, u64::MAX, &mut |_| {})
}

/// The daemon's error message, with Guix's usual quotes, which its authors sometimes forget.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Daemon { message, status: 1 }) => message.replace('‘', "`").replace('’', "'"),
        other => panic!("no refusal, but {other:?}"),
    }
}

/// The log that the daemon sends a client from now on.
pub fn listen(client: &mut Connection) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let writer = log.clone();
    client.set_log(move |text| {
        writer
            .lock()
            .unwrap()
            .push_str(&String::from_utf8_lossy(text))
    });
    log
}

/// The log since the last time.
pub fn take(log: &Mutex<String>) -> String {
    std::mem::take(&mut *log.lock().unwrap())
}

/// Checks that an operation failed with a message that contains `part`.
#[track_caller]
pub fn assert_error(end: End, part: &str) {
    match end {
        End::Error(message, 1) if message.contains(part) => {}
        other => panic!("no error with `{part}', but {other:?}"),
    }
}

/// Sends data that the daemon may not read to its end.
pub fn offer(client: &mut RawClient, bytes: &Bytes) {
    match client.stream.write_all(&bytes.0) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Checks that the connection was closed, with or without an error.
#[track_caller]
pub fn assert_hung_up(client: &mut RawClient) {
    match client.end() {
        End::Closed => {}
        End::Error(..) => assert!(client.is_closed(), "the connection goes on"),
        End::Last => panic!("it was accepted"),
    }
}

/// A connection to the daemon from a process of another user, which has ended by now.
pub fn connect_as(user: u32, socket: &Path) -> UnixStream {
    connect_often_as(user, socket, 1).pop().unwrap()
}

/// Several such connections, all from one process.
pub fn connect_often_as(user: u32, socket: &Path, count: usize) -> Vec<UnixStream> {
    let (mut other, streams) = OtherUser::start(user, socket, count);
    other.control.shutdown(Shutdown::Both).unwrap();
    assert!(other.process.0.wait().unwrap().success());
    streams
}

/// A connection to the daemon from a process of another user, which lives as long as the first value.
pub fn stay_connected_as(user: u32, socket: &Path) -> (OtherUser, UnixStream) {
    let (other, mut streams) = OtherUser::start(user, socket, 1);
    (other, streams.pop().unwrap())
}

/// A process of another user that has connected to the daemon.
pub struct OtherUser {
    process: Process,
    control: UnixStream,
}

impl OtherUser {
    fn start(user: u32, socket: &Path, count: usize) -> (OtherUser, Vec<UnixStream>) {
        let (control, theirs) = UnixStream::pair().unwrap();
        let process = Command::new("/proc/self/exe")
            .args(["--exact", "support::other_user", "--nocapture", "--ignored"])
            .env(SOCKET, socket)
            .env(COUNT, count.to_string())
            .uid(user)
            .gid(user)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(process);
        let receive = |_| {
            let (_, mut fds) = system::socket::receive_with_fds(&control, &mut [0; 4]).unwrap();
            let stream = UnixStream::from(fds.pop().expect("a connection"));
            stream.set_read_timeout(Some(TEST_TIMEOUT)).unwrap();
            stream.set_write_timeout(Some(TEST_TIMEOUT)).unwrap();
            stream
        };
        let streams = (0..count).map(receive).collect();
        (OtherUser { process, control }, streams)
    }
}

/// The variables that tell the other user's process the daemon's socket and the number of
/// connections.
const SOCKET: &str = "DAEMON_TEST_SOCKET";
const COUNT: &str = "DAEMON_TEST_CONNECTIONS";

/// The process of [`OtherUser`]. Connects, hands the connections over, and waits for its end.
#[test]
#[ignore = "not a test: the process that other tests start"]
fn other_user() {
    use std::os::fd::{AsFd, AsRawFd};
    let socket = std::env::var_os(SOCKET).expect("another test starts this");
    let count: usize = std::env::var(COUNT).unwrap().parse().unwrap();
    let mut parent = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    for _ in 0..count {
        let stream = UnixStream::connect(&socket).unwrap();
        system::socket::send_with_fds(&parent, b"here", &[stream.as_raw_fd()]).unwrap();
    }
    assert_eq!(parent.read(&mut [0]).unwrap(), 0);
}

/// A process started by a test; killed on drop.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory with a separate file system, which only this thread and its children see.
pub struct PrivateMount(PathBuf);

impl PrivateMount {
    /// Mounts a tmpfs of `size` on `directory`, which is created if missing.
    pub fn tmpfs(directory: PathBuf, size: &str) -> PrivateMount {
        system::namespace::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        system::mount::make_private(Path::new("/")).unwrap();
        fs::create_dir_all(&directory).unwrap();
        let options = format!("size={size},mode=755");
        let none = nix::mount::MsFlags::empty();
        system::mount::mount_new("tmpfs", &directory, none, &options).unwrap();
        PrivateMount(directory)
    }

    /// Makes the whole file system read-only, or writable again.
    pub fn set_read_only(&self, read_only: bool) {
        let mut flags = nix::mount::MsFlags::empty();
        flags.set(nix::mount::MsFlags::MS_RDONLY, read_only);
        system::mount::remount(&self.0, flags).unwrap();
    }
}

impl Drop for PrivateMount {
    fn drop(&mut self) {
        let _ = system::mount::unmount(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A helper program for a daemon, in place of `guix`: it has substitutes for the files in
/// `SITE/substitutes`, which are named like items, and implements nothing else.
pub fn fake_guix(site: &Site) -> PathBuf {
    let program = site.path("guix");
    fs::create_dir(site.path("substitutes")).unwrap();
    let script = include_str!("guix.sh").replace("@SITE@", site.path("").to_str().unwrap());
    let mut file = File::create(&program).unwrap();
    file.write_all(script.as_bytes()).unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755))
        .unwrap();
    program
}

/// Ends a test of what Guix's daemon does differently, if that is the daemon under test.
#[macro_export]
macro_rules! only_ours {
    () => {
        if !$crate::harness::is_ours() {
            return;
        }
    };
}
