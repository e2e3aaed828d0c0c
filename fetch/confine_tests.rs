//! Tests of [`super`]: this test program, started anew, confines itself and tries what it must not do.

use super::*;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Set in the process that confines itself: a directory where everybody may write.
const SCRATCH: &str = "GUIX_TEST_CONFINED";
/// A port on which somebody listens.
const PORT: &str = "GUIX_TEST_PORT";

/// Everything that is tried inside, and what it should come to: `None` is success.
fn expectations(is_own_user: bool, has_landlock: bool) -> BTreeMap<&'static str, Option<Errno>> {
    let filtered = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    let mut expected = BTreeMap::from([
        ("read hosts", None),
        ("look up a name", None),
        ("start a thread", None),
        ("connect", None),
        ("write to a pipe", None),
        ("connect to a local server", None),
        ("wake a thread", None),
        ("read a password", Some(Errno::EACCES)),
        ("allocate", Some(Errno::ENOMEM)),
    ]);
    if filtered {
        expected.extend([
            ("create a file", Some(Errno::EPERM)),
            ("write to a file", Some(Errno::EPERM)),
            ("remove a file", Some(Errno::EPERM)),
            ("rename a file", Some(Errno::EPERM)),
            ("make a directory", Some(Errno::EPERM)),
            ("start a program", Some(Errno::EPERM)),
            ("signal the parent", Some(Errno::EPERM)),
            ("listen", Some(Errno::EPERM)),
            ("connect to a local server", Some(Errno::EAFNOSUPPORT)),
            ("unshare", Some(Errno::EPERM)),
            ("use other networks", Some(Errno::EAFNOSUPPORT)),
        ]);
    }
    if has_landlock {
        expected.insert("read a file", Some(Errno::EACCES));
        expected.insert("listen", Some(Errno::EACCES));
        if !is_own_user {
            expected.insert("read the list of users", Some(Errno::EACCES));
        }
    }
    expected
}

/// Does nothing unless it is started by the test below.
#[test]
fn inside() {
    let Some(scratch) = std::env::var_os(SCRATCH) else {
        return;
    };
    let scratch = Path::new(&scratch);
    let has_landlock = confine().unwrap();
    let port: u16 = std::env::var(PORT).unwrap().parse().unwrap();
    let number = |errno: nix::Result<()>| errno.err().map(|errno| errno as i32);
    let attempts = [
        ("read hosts", reason(fs::read("/etc/hosts"))),
        (
            "look up a name",
            reason(("localhost", 80).to_socket_addrs()),
        ),
        ("start a thread", reason(try_thread())),
        ("connect", reason(TcpStream::connect(("127.0.0.1", port)))),
        ("write to a pipe", reason(try_pipe())),
        ("read a password", reason(fs::read("/etc/shadow"))),
        ("read the list of users", reason(fs::read("/etc/passwd"))),
        ("read a file", reason(fs::read(scratch.join("file")))),
        ("create a file", reason(File::create(scratch.join("new")))),
        (
            "write to a file",
            reason(File::options().write(true).open(scratch.join("file"))),
        ),
        (
            "remove a file",
            reason(fs::remove_file(scratch.join("file"))),
        ),
        (
            "rename a file",
            reason(fs::rename(scratch.join("file"), scratch.join("other"))),
        ),
        (
            "make a directory",
            reason(fs::create_dir(scratch.join("new"))),
        ),
        ("start a program", reason(Command::new("/bin/true").spawn())),
        (
            "signal the parent",
            number(kill(nix::unistd::getppid(), None)),
        ),
        ("listen", reason(TcpListener::bind("127.0.0.1:0"))),
        (
            "unshare",
            number(nix::sched::unshare(CloneFlags::CLONE_NEWUSER)),
        ),
        (
            "connect to a local server",
            reason(UnixStream::connect(scratch.join("socket"))),
        ),
        ("wake a thread", reason(UnixStream::pair())),
        (
            "use other networks",
            number(
                socket(
                    AddressFamily::Vsock,
                    SockType::Stream,
                    SockFlag::empty(),
                    None,
                )
                .map(drop),
            ),
        ),
        (
            "allocate",
            Vec::<u8>::new()
                .try_reserve_exact(MEMORY as usize + 1)
                .err()
                .map(|_| Errno::ENOMEM as i32),
        ),
    ];
    for (what, errno) in attempts {
        println!("tried: {what}: {}", errno.unwrap_or(0));
    }
    // Whatever belongs to a thread is read from outside.
    println!("ready: {has_landlock} {}", nix::unistd::gettid());
    let _ = std::io::stdin().read(&mut [0]);
}

fn reason<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn try_thread() -> io::Result<()> {
    std::thread::Builder::new().spawn(|| ())?.join().unwrap();
    Ok(())
}

fn try_pipe() -> io::Result<()> {
    let (_reader, writer) = system::pipe::pipe()?;
    File::from(writer).write_all(b"x")
}

/// The first word that the kernel's list has for a name.
fn value<'a>(list: &'a str, name: &str) -> Vec<&'a str> {
    let line = list.lines().find(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in {list}"));
    line[name.len()..].split_whitespace().collect()
}

fn try_all(as_user: Option<u32>) {
    let directory = tempfile::tempdir().unwrap();
    let scratch = directory.path();
    fs::set_permissions(scratch, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(scratch.join("file"), "contents").unwrap();
    fs::set_permissions(scratch.join("file"), fs::Permissions::from_mode(0o666)).unwrap();
    let _local = UnixListener::bind(scratch.join("socket")).unwrap();
    fs::set_permissions(scratch.join("socket"), fs::Permissions::from_mode(0o666)).unwrap();
    // A checkout may be where nobody else can look. A process of its own copies the program: one that
    // another test starts meanwhile could inherit our open file, and then it can't be executed.
    let program = scratch.join("program");
    let copied = Command::new("cp")
        .args([&std::env::current_exe().unwrap(), &program])
        .status();
    assert!(copied.unwrap().success());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(&program);
    command
        .args([
            "--exact",
            "confine::tests::inside",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(SCRATCH, scratch)
        .env(PORT, listener.local_addr().unwrap().port().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if let Some(user) = as_user {
        command.uid(user).gid(user);
    }
    let mut child = command.spawn().unwrap();
    let mut tried = BTreeMap::new();
    let mut ready = None;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.by_ref() {
        let line = line.unwrap();
        if let Some((_, words)) = line.split_once("ready: ") {
            ready = words
                .split_once(' ')
                .map(|(landlock, thread)| (landlock == "true", thread.to_owned()));
            break;
        }
        if let Some((_, attempt)) = line.split_once("tried: ") {
            let (what, errno) = attempt.split_once(": ").unwrap();
            tried.insert(what.to_owned(), errno.parse::<i32>().unwrap());
        }
    }
    let (has_landlock, thread) = ready.expect("it said everything");
    let process = format!("/proc/{}", child.id());
    let status = fs::read_to_string(format!("{process}/task/{thread}/status")).unwrap();
    let limits = fs::read_to_string(format!("{process}/limits")).unwrap();
    let owner = fs::metadata(format!("{process}/maps")).unwrap().uid();
    drop(child.stdin.take());
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());

    let is_root = ids::effective_uid() == 0;
    let is_own_user = is_root && as_user.is_none();
    for (what, expected) in expectations(is_own_user, has_landlock) {
        let expected = expected.map_or(0, |errno| errno as i32);
        assert_eq!(
            tried[what],
            expected,
            "{what}: {}",
            io::Error::from_raw_os_error(tried[what])
        );
    }
    assert_eq!(fs::read(scratch.join("file")).unwrap(), b"contents");
    if is_own_user {
        let user = (0x7100_0000 + child.id()).to_string();
        assert_eq!(value(&status, "Uid:"), [&user; 4]);
        assert_eq!(value(&status, "Gid:"), [&user; 4]);
        assert!(value(&status, "Groups:").is_empty());
    }
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(value(&status, set), ["0000000000000000"], "{set}");
    }
    if is_own_user {
        assert_eq!(value(&status, "CapBnd:"), ["0000000000000000"]);
    }
    assert_eq!(value(&status, "NoNewPrivs:"), ["1"]);
    if is_root {
        assert_eq!(owner, 0, "it isn't hidden");
    }
    for limit in ["Max file size", "Max core file size"] {
        assert_eq!(value(&limits, limit)[..2], ["0", "0"], "{limit}");
    }
}

#[test]
fn a_confined_process_can_only_talk() {
    try_all(None);
}

#[test]
fn without_root_most_of_it_holds_too() {
    if ids::effective_uid() == 0 {
        try_all(Some(0x7200_0000));
    }
}
