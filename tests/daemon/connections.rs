//! One user's connections don't lock others out.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::harness::derivations::{Client, Script};
use crate::harness::users::BuildUsers;
use crate::harness::{Bytes, End, RawClient, Site, program, skip};
use crate::only_ours;
use crate::support::*;

/// With 256 descriptors, the daemon serves 32 clients at a time: 28 that aren't root, 8 of each
/// user.
const PER_USER: usize = 8;
const UNPRIVILEGED: usize = 28;

/// A daemon with a low limit of descriptors.
fn small_daemon(build_users: &BuildUsers) -> Fixture {
    let site = Site::new();
    let mut command = site.command("sh");
    command.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\""]);
    command.arg(program()).arg("--no-substitutes");
    command.arg(format!("--build-users-group={}", build_users.group));
    let daemon = site.launch_command(command);
    daemon.wait_to_serve();
    Fixture {
        daemon,
        mount: None,
        site,
    }
}

#[test]
fn with_too_few_descriptors_it_says_so_and_serves_nobody() {
    only_ours!();
    let site = Site::new();
    let mut command = site.command("sh");
    command.args(["-c", "ulimit -n 127; exec \"$0\" \"$@\""]);
    let output = command.arg(program()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "the limit of open files is 127, and this daemon needs 128 at least";
    assert!(
        !output.status.success() && said.contains(expected),
        "{said}"
    );
}

/// The reason why the daemon refuses a client; `None` if it serves it.
fn refused(stream: UnixStream) -> Option<String> {
    let mut client = RawClient { stream };
    client.send(Bytes::hello(0x64));
    assert_eq!((client.word(), client.word()), (0x6478_696f, 0x164));
    match client.end() {
        End::Last => None,
        End::Error(message, 1) => Some(message),
        other => panic!("neither served nor refused: {other:?}"),
    }
}

#[test]
fn one_users_connections_keep_nobody_else_out() {
    only_ours!();
    let Some(users) = BuildUsers::claim() else {
        return skip("connecting as other users needs root");
    };
    let fixture = small_daemon(&users);
    let socket = fixture.site.socket();
    let (mallory, alice) = (users.uids[0], users.uids[1]);
    let mut crowd = connect_often_as(mallory, &socket, 100);
    // Silent clients count, too.
    let late = crowd.split_off(PER_USER);
    for stream in late.into_iter().rev().take(4) {
        let reason = refused(stream).expect("it is over the limit");
        assert!(
            reason.starts_with("too many connections: you have 8"),
            "{reason}"
        );
    }
    assert_eq!(refused(connect_as(alice, &socket)), None);
    let mut client = Client::connect(&fixture.daemon);
    let drv = client.write(Script::new("built", "echo x > $out"));
    client.build(&[&drv]).succeeded();
    drop(crowd);
    let is_served = || refused(connect_as(mallory, &socket)).is_none();
    fixture.daemon.wait_until(is_served, "to free places");
}

#[test]
fn all_users_connections_together_keep_root_not_out() {
    only_ours!();
    let Some(users) = BuildUsers::claim() else {
        return skip("connecting as other users needs root");
    };
    let fixture = small_daemon(&users);
    let socket = fixture.site.socket();
    let others = [users.uids[0], users.uids[1], users.uids[2], NOBODY];
    let crowd: Vec<_> = others
        .iter()
        .flat_map(|&user| connect_often_as(user, &socket, PER_USER))
        .collect();
    assert!(crowd.len() >= UNPRIVILEGED);
    let last = connect_as(NOBODY - 1, &socket);
    let reason = refused(last).expect("it is over the limit");
    assert!(
        reason.starts_with("too many connections: this daemon serves 28"),
        "{reason}"
    );
    // Descriptors for a build are available, too.
    let mut client = Client::connect(&fixture.daemon);
    let drv = client.write(Script::new("built", "echo x > $out"));
    client.build(&[&drv]).succeeded();
    drop(crowd);
}

#[test]
fn builds_leave_descriptors_to_others() {
    only_ours!();
    let Some(users) = BuildUsers::claim() else {
        return skip("build users need root");
    };
    // Builds have 64 descriptors at a time, each of them 12 and one for each output.
    let fixture = small_daemon(&users);
    let mut client = Client::connect(&fixture.daemon);
    let many = (0..60).fold(Script::new("many", "true"), |script, number| {
        script.output(&format!("o{number}"))
    });
    let many = client.write(many);
    client.build(&[&many]).failed(
        1,
        "has 61 outputs, of which this daemon can lock 52 at a time",
    );
    // Those that have no descriptors yet wait for them.
    client.set(|options| options.set("build-max-jobs", "3"));
    let drvs: Vec<_> = (0..6)
        .map(|number| client.write(Script::new(&format!("small-{number}"), "echo x > $out")))
        .collect();
    client.build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    assert!(!fixture.daemon.messages().contains("Too many open files"));
}

#[test]
fn who_does_not_finish_the_handshake_loses_the_connection() {
    only_ours!();
    let fixture = Fixture::new();
    let mut served = fixture.client();
    let silent = fixture.daemon.connect();
    let mut half = fixture.daemon.connect();
    std::io::Write::write_all(&mut half, &Bytes::hello(0x64).0[..12]).unwrap();
    let start = Instant::now();
    for stream in [silent, half] {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let answer = std::io::Read::bytes(stream).map_while(Result::ok).count();
        assert!(answer <= 16, "{answer} bytes of answer");
    }
    let waited = start.elapsed();
    assert!(
        Duration::from_secs(20) < waited && waited < Duration::from_secs(55),
        "{waited:?}"
    );
    // After the handshake, a client may be silent.
    assert_eq!(served.builtin_builders().unwrap().len(), 2);
}
