//! Tests of [`super`]: this test program, started anew, confines itself and tries what it must not do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use farm::history::{Limits, Writer, WriterOptions};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use system::lock::{self, LockFile, Mode};

use super::*;
use crate::daemon;

/// Set in the process that confines itself: the directory that has all the others.
const SCRATCH: &str = "GUIX_TEST_CONFINED";

fn reason<T>(result: io::Result<T>) -> Option<Errno> {
    let number = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or_default());
    result.err().map(number)
}

/// Does nothing unless it is started by a test below.
#[test]
fn inside() {
    let Some(scratch) = std::env::var_os(SCRATCH).map(PathBuf::from) else {
        return;
    };
    let directories = daemon::directories().unwrap();
    let (configuration, own) = (&directories.configuration, directories.offload());
    let address = daemon_address(&directories.state).unwrap();
    let _kept = confine(&directories, &address).unwrap();
    let has_filter = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    let has_landlock = landlock::confine(None).unwrap();
    let file = |name: &str| scratch.join(name);
    let write = |path: &Path| reason(fs::write(path, "x"));
    let new_socket = |kind| {
        let flags = SockFlag::SOCK_CLOEXEC;
        reason(socket(AddressFamily::Inet, kind, flags, None).map_err(io::Error::from))
    };
    // What it needs.
    let history = || Reader::open(&own, PATIENCE).unwrap().is_some();
    assert!(history());
    assert!(lock::is_locked(&own.join("machine:22/0")).unwrap());
    assert!(!lock::is_locked(&own.join("machine:22/1")).unwrap());
    let machines = configuration.join("machines.toml");
    assert_eq!(reason(fs::read(&machines)), None);
    assert_eq!(reason(fs::read_dir(&own)), None);
    assert_eq!(reason(UnixStream::connect(file("sockets/socket"))), None);
    // What it must not do.
    let mut tried = BTreeMap::new();
    if has_filter {
        let permissions = fs::Permissions::from_mode(0o4755);
        tried.extend([
            ("answer", write(&own.join("generated/x.json"))),
            ("job", write(&own.join("machine:22/0.job"))),
            ("history", write(&own.join("history.sqlite"))),
            ("file", write(&file("elsewhere"))),
            (
                "mode",
                reason(fs::set_permissions(file("elsewhere"), permissions)),
            ),
            (
                "owner",
                reason(chown(file("elsewhere"), Some(ids::effective_uid()), None)),
            ),
            ("remove", reason(fs::remove_file(file("elsewhere")))),
            ("program", reason(Command::new("/bin/true").spawn())),
        ]);
        assert!(
            tried.values().all(|it| *it == Some(Errno::EPERM)),
            "{tried:?}"
        );
        tried.clear();
        tried.extend([
            ("udp", reason(UdpSocket::bind("127.0.0.1:0"))),
            ("tcp", new_socket(SockType::Stream)),
            ("raw", new_socket(SockType::Raw)),
        ]);
        assert!(
            tried.values().all(|it| *it == Some(Errno::EAFNOSUPPORT)),
            "{tried:?}"
        );
    }
    tried.clear();
    if has_landlock {
        tried.extend([
            (
                "key",
                reason(fs::read(configuration.join("signing-key.sec"))),
            ),
            ("others", reason(fs::read(file("elsewhere")))),
            ("listing", reason(fs::read_dir(&scratch))),
            ("socket's", reason(fs::read(file("sockets/key")))),
        ]);
    }
    // What is made later can be read where there are no secrets.
    println!("ready");
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
    let has_key = tried.contains_key("key") && configuration.join("signing-key.sec").exists();
    if has_key {
        tried.insert(
            "later",
            reason(fs::read(configuration.join("machines.scm"))),
        );
    } else {
        tried.remove("key");
        assert_eq!(reason(fs::read(configuration.join("machines.scm"))), None);
    }
    assert!(
        tried.values().all(|it| *it == Some(Errno::EACCES)),
        "{tried:?}"
    );
}

fn try_all(has_key: bool) {
    let directory = tempfile::tempdir().unwrap();
    let scratch = directory.path();
    let file = |name: &str| scratch.join(name);
    for name in [
        "etc",
        "log",
        "store",
        "sockets",
        "state/offload/generated",
        "state/offload/machine:22",
    ] {
        fs::create_dir_all(file(name)).unwrap();
    }
    for name in ["elsewhere", "sockets/key", "etc/acl", "etc/machines.toml"] {
        fs::write(file(name), "").unwrap();
    }
    if has_key {
        let key = file("etc/signing-key.sec");
        fs::write(&key, "secret").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    }
    let own = file("state/offload");
    let history = Writer::new(WriterOptions {
        directory: own.clone(),
        limits: Limits::default(),
        patience: PATIENCE,
        warn: Arc::new(|text| panic!("{text}")),
    });
    history.prepare();
    history.finish();
    assert!(own.join("history.sqlite").exists());
    let slots = ["0", "1"].map(|name| LockFile::open(own.join("machine:22").join(name)).unwrap());
    assert!(slots[0].try_lock(Mode::Exclusive).unwrap());
    let _daemon = UnixListener::bind(file("sockets/socket")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "dashboard::confine::tests::inside",
            "--nocapture",
        ])
        .env(SCRATCH, scratch)
        .env("GUIX_CONFIGURATION_DIRECTORY", file("etc"))
        .env("GUIX_STATE_DIRECTORY", file("state"))
        .env("GUIX_LOG_DIRECTORY", file("log"))
        .env("NIX_STORE_DIR", file("store"))
        .env("GUIX_DAEMON_SOCKET", file("sockets/socket"))
        .env_remove("GUIX_OFFLOAD_MACHINES")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let is_ready = lines
        .by_ref()
        .map_while(Result::ok)
        .any(|line| line.ends_with("ready"));
    fs::write(file("etc/machines.scm"), "").unwrap();
    drop(child.stdin.take());
    let rest: Vec<_> = lines.map_while(Result::ok).collect();
    assert!(child.wait().unwrap().success() && is_ready, "{rest:#?}");
}

#[test]
fn it_reads_what_it_needs_and_changes_nothing() {
    try_all(true);
    try_all(false);
}
