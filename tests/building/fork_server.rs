//! The process that forks builders for our daemon: it may die, and it dies with the daemon.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

/// The fork server of a daemon that has built something.
fn fork_server(daemon: &Daemon) -> i32 {
    let there = children_named(daemon, "guix-daemon-forkserver");
    assert_eq!(there.len(), 1, "{there:?}");
    there[0]
}

#[test]
fn builds_survive_the_process_that_forked_them_and_it_is_replaced() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let script = format!("echo begun; {}; echo >$out", setup.await_gate("go"));
    let first = client.write(Script::new("first", &script));
    let second = client.write(Script::new("second", "echo >$out"));
    let first = client.start(&[&first]);
    first.wait_for("begun");
    let killed = fork_server(&setup.daemon);
    kill(Pid::from_raw(killed), Signal::SIGKILL).unwrap();
    setup.client().build(&[&second]).succeeded();
    assert_ne!(fork_server(&setup.daemon), killed);
    assert!(!exists(killed));
    setup.open("go");
    first.finish().1.succeeded();
}

#[test]
fn whenever_it_is_killed_no_build_hangs_and_nothing_is_left() {
    const BUILDS: usize = 20;
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&[]);
    // As many as there are build users.
    let clients: Vec<_> = ["first", "second"]
        .map(|name| {
            let mut client = setup.client();
            std::thread::spawn(move || {
                for number in 0..BUILDS {
                    let name = format!("{name}-{number}");
                    let drv = client.write(Script::new(&name, "echo >$out"));
                    let built = client.build(&[&drv]);
                    assert_eq!(client.is_valid(drv.out()), built.result.is_ok());
                    if let Err((error, status)) = &built.result {
                        // Its successor was killed as well, or the forked process.
                        let excuses = [
                            "the process `guix-daemon-forkserver' has ended",
                            "the process ended without saying why",
                        ];
                        let excused = excuses.iter().any(|excuse| error.contains(excuse));
                        assert!(excused && *status == 1, "{built:#?}");
                    }
                }
            })
        })
        .into();
    while !clients.iter().all(|client| client.is_finished()) {
        for pid in children_named(&setup.daemon, "guix-daemon-forkserver") {
            // A forked process that has not executed its program yet soon has another name.
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if name == "guix-forkserver\n" {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for client in clients {
        client.join().unwrap();
    }
    let mut client = setup.client();
    let drv = client.write(Script::new("afterwards", "echo >$out"));
    client.build(&[&drv]).succeeded();
    fork_server(&setup.daemon);
    let left = setup.store_names();
    let is_chroot = |name: &String| name.ends_with(".chroot");
    assert!(!left.iter().any(is_chroot), "{left:?}");
}

#[test]
fn the_fork_server_ends_with_the_daemon() {
    if !is_ours() {
        return;
    }
    let stop: fn(Daemon) = |daemon| _ = daemon.stop();
    for end in [Daemon::kill, stop] {
        let setup = Setup::new(&[]);
        let mut client = setup.client();
        let drv = client.write(Script::new("trivial", "echo >$out"));
        client.build(&[&drv]).succeeded();
        let it = fork_server(&setup.daemon);
        end(setup.daemon);
        assert!(eventually(|| !exists(it)), "{it}");
    }
}

/// Asks a fork server to kill a user's processes (`daemon/building/sandbox/fork_request.rs`); the reply is the
/// process that is to do it.
fn ask_to_kill(mut connection: &UnixStream, uid: u32) -> impl FnOnce() -> i32 + '_ {
    let mut request = vec![3];
    request.extend(uid.to_ne_bytes());
    connection.write_all(&request).unwrap();
    move || {
        let mut reply = [0; 4];
        connection.read_exact(&mut reply).unwrap();
        i32::from_ne_bytes(reply)
    }
}

#[test]
fn what_a_killed_daemon_wanted_killed_may_be_the_next_ones() {
    let setup = Setup::new(&[]);
    let Some(users) = setup.users.as_ref().filter(|_| is_ours()) else {
        return;
    };
    let [idle, busy, ..] = users.uids[..] else {
        panic!("{:?}", users.uids)
    };
    let (connection, its_end) = UnixStream::pair().unwrap();
    // In the place of the daemon, a shell.
    let script =
        "exec 3<&0; bash -c 'exec -a guix-daemon-forkserver \"$0\"' \"$0\" <&3 & echo $!; wait";
    let mut shell = Command::new("/bin/bash")
        .args(["-c", script])
        .arg(harness::program())
        .stdin(OwnedFd::from(its_end))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 8];
    let count = shell.stdout.as_mut().unwrap().read(&mut line).unwrap();
    let server: i32 = std::str::from_utf8(&line[..count])
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let ended = |pid: i32| eventually(|| !exists(pid));
    let mut builder = Command::new("/bin/sleep")
        .arg("1000")
        .uid(busy)
        .spawn()
        .unwrap();
    assert!(ended(ask_to_kill(&connection, idle)()));
    kill(Pid::from_raw(server), Signal::SIGSTOP).unwrap();
    let killer = ask_to_kill(&connection, busy);
    shell.kill().unwrap();
    shell.wait().unwrap();
    kill(Pid::from_raw(server), Signal::SIGCONT).unwrap();
    assert!(ended(killer()));
    assert!(builder.try_wait().unwrap().is_none(), "it was killed");
    builder.kill().unwrap();
    builder.wait().unwrap();
    drop(connection);
    assert!(ended(server));
}

#[test]
fn started_by_hand_it_says_what_it_is_for() {
    if !is_ours() {
        return;
    }
    let said = Command::new(harness::program())
        .arg0("guix-daemon-forkserver")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(1));
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(text.contains("to be started by guix-daemon only"), "{text}");
}
