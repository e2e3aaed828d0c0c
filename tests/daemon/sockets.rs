//! The daemon's sockets.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;
use protocol::client::{Address, Connection, Options};
use protocol::operations::{GcAction, SetOptions};

use crate::harness::{Bytes, Site, eventually, program, skip};
use crate::only_ours;
use crate::support::*;

/// The error of a daemon that can't start with these options.
#[track_caller]
fn does_not_start(site: &Site, options: &[&str]) -> String {
    let mut daemon = site.launch(options);
    assert_eq!(daemon.wait().code(), Some(1));
    daemon.messages()
}

fn assert_answers(mut client: Connection) {
    assert_eq!(client.builtin_builders().unwrap().len(), 2);
}

#[test]
fn a_socket_is_everybodys_and_goes_with_the_daemon() {
    let fixture = Fixture::new();
    let socket = fixture.site.socket();
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o666);
    assert_eq!(
        fs::metadata(socket.parent().unwrap()).unwrap().mode() & 0o777,
        0o755
    );
    let stream = connect_as(NOBODY, &socket);
    assert_answers(fixture.greet(stream));
}

#[test]
fn names_longer_than_a_socket_address_are_taken() {
    let site = Site::new();
    let socket = site
        .path("a".repeat(90))
        .join("b".repeat(90))
        .join("socket");
    let listen = format!("--listen={}", socket.display());
    let daemon = site.launch(&[&listen]);
    daemon.wait_until(|| system::socket::connect(&socket).is_ok(), "to serve");
    let fixture = Fixture {
        daemon,
        mount: None,
        site,
    };
    assert_answers(fixture.greet(system::socket::connect(&socket).unwrap()));
    // A name whose last component is too long can't be used.
    let long = fixture.site.path("c".repeat(110));
    let errors = does_not_start(&fixture.site, &[&format!("--listen={}", long.display())]);
    assert!(errors.contains("is too long"), "{errors}");
}

#[test]
fn several_sockets_are_served_at_once() {
    let site = Site::new();
    let sockets = [site.path("one"), site.path("two"), site.path("three")];
    let options: Vec<String> = sockets
        .iter()
        .map(|socket| format!("--listen={}", socket.display()))
        .collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let daemon = site.launch(&options);
    for socket in &sockets {
        daemon.wait_until(|| UnixStream::connect(socket).is_ok(), "to serve");
    }
    let fixture = Fixture {
        daemon,
        mount: None,
        site,
    };
    assert!(!fixture.site.socket().exists(), "the default is given up");
    for socket in &sockets {
        assert_answers(fixture.greet(UnixStream::connect(socket).unwrap()));
    }
}

#[test]
fn the_end_of_whoever_still_has_the_socket_is_waited_for() {
    only_ours!();
    // Like a child of a killed daemon, until it executes its program.
    let site = Site::new();
    fs::create_dir(site.state().join("daemon-socket")).unwrap();
    let listener = UnixListener::bind(site.socket()).unwrap();
    let daemon = site.launch(&[]);
    // It has connected, and was accepted.
    drop(listener.accept().unwrap());
    drop(listener);
    daemon.wait_until(|| UnixStream::connect(site.socket()).is_ok(), "to serve");
}

#[test]
fn a_living_daemons_socket_is_not_taken() {
    only_ours!();
    let fixture = Fixture::new();
    let mut client = fixture.client();
    for _ in 0..3 {
        let errors = does_not_start(&fixture.site, &[]);
        assert!(errors.contains("cannot bind to socket"), "{errors}");
        assert!(errors.contains("a daemon is serving there"), "{errors}");
    }
    assert_eq!(client.builtin_builders().unwrap().len(), 2);
    fixture.assert_serves();
    let accepted = |fixture: &Fixture| {
        let said = fixture.daemon.messages();
        said.matches("accepted connection").count()
    };
    let before = accepted(&fixture);
    does_not_start(&fixture.site, &[]);
    assert_eq!(accepted(&fixture), before + 1, "one line for each attempt");
    // Neither the socket of another program, nor a file.
    let site = Site::new();
    fs::create_dir(site.state().join("daemon-socket")).unwrap();
    let listener = UnixListener::bind(site.socket()).unwrap();
    does_not_start(&site, &[]);
    drop(listener);
    fs::remove_file(site.socket()).unwrap();
    fs::write(site.socket(), "precious").unwrap();
    does_not_start(&site, &[]);
    assert_eq!(fs::read(site.socket()).unwrap(), b"precious");
}

#[test]
fn an_ending_daemons_socket_is_waited_for() {
    let Fixture {
        daemon: mut before,
        mut site,
        ..
    } = Fixture::new();
    for _ in 0..20 {
        before.signal(Signal::SIGTERM);
        let fixture = Fixture::with(site, &[]);
        before.wait();
        // Until then, the previous daemon may have answered; when it ends, it only deletes its own
        // socket.
        let socket = fixture.site.socket();
        let serves = || UnixStream::connect(&socket).is_ok();
        fixture.daemon.wait_until(serves, "to serve");
        fixture.assert_serves();
        Fixture {
            daemon: before,
            site,
            ..
        } = fixture;
    }
}

#[test]
fn a_dead_daemons_socket_is_replaced() {
    let fixture = Fixture::new();
    let before = fs::metadata(fixture.site.socket()).unwrap().ino();
    let Fixture { daemon, site, .. } = fixture;
    daemon.kill();
    assert_eq!(fs::metadata(site.socket()).unwrap().ino(), before);
    let fixture = Fixture::with(site, &[]);
    fixture.assert_serves();
}

#[test]
fn the_log_says_where_clients_connect() {
    only_ours!(); // Guix's says so with --debug only.
    let site = Site::new();
    let unix = format!("--listen={}", site.socket().display());
    let fixture = Fixture::with(site, &[&unix, "--listen=127.0.0.1:0"]);
    let daemon = &fixture.daemon;
    daemon.wait_until(|| daemon.messages().contains("listening on '127"), "to log");
    let said = daemon.messages();
    let unix = format!("listening on '{}'", fixture.site.socket().display());
    assert_eq!(
        said.lines().filter(|line| *line == unix).count(),
        1,
        "{said}"
    );
    // Port 0 is any port, and the log says which.
    let tcp = said.lines().find_map(|line| {
        let place = line.strip_prefix("listening on '127.0.0.1:")?;
        place.strip_suffix('\'')?.parse().ok()
    });
    let port = tcp.unwrap_or_else(|| panic!("{said}"));
    assert_answers(over_tcp(&fixture, port));
}

#[test]
fn a_place_where_nothing_can_be_bound_is_an_error() {
    let site = Site::new();
    fs::write(site.path("file"), "").unwrap();
    let place = site.path("file").join("socket");
    let errors = does_not_start(&site, &[&format!("--listen={}", place.display())]);
    let why = ["Not a directory", "File exists", "is not a directory"];
    assert!(why.iter().any(|why| errors.contains(why)), "{errors}");
    let errors = does_not_start(&site, &["--listen=no-such-host.invalid"]);
    assert!(
        errors.contains("failed to look up 'no-such-host.invalid'"),
        "{errors}"
    );
}

/// A free port.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A client over TCP.
fn over_tcp(fixture: &Fixture, port: u16) -> Connection {
    let address = Address::Tcp {
        host: "127.0.0.1".into(),
        port,
    };
    address
        .connect(&fixture.dir(), &Options::default())
        .unwrap()
}

#[test]
fn clients_over_tcp_are_served_and_not_trusted() {
    let site = Site::new();
    let port = free_port();
    let unix = format!("--listen={}", site.socket().display());
    let tcp = format!("--listen=127.0.0.1:{port}");
    let fixture = Fixture::with(site, &["--no-substitutes", &unix, &tcp]);
    let daemon = &fixture.daemon;
    daemon.wait_until(
        || TcpStream::connect(("127.0.0.1", port)).is_ok(),
        "to serve",
    );
    let mut client = over_tcp(&fixture, port);
    let path = add_text(&mut client, "text", "x", &[]);
    assert!(client.is_valid_path(&path).unwrap());
    let mut options = SetOptions::default();
    options.set("user-name", "nobody");
    options.set("substitute-urls", "http://evil.example");
    client.set_options(&options).unwrap();
    let profile = fixture.site.state().join("profiles/per-user/nobody");
    assert_eq!(fs::metadata(profile).unwrap().uid(), NOBODY);
    let refused = refusal(client.verify_store(false, true));
    assert_eq!(refused, "you are not privileged to repair paths");
    let mut client = over_tcp(&fixture, port);
    let refused = refusal(try_collect(&mut client, GcAction::DeleteDead, &[]));
    assert_eq!(refused, "Garbage collection is disabled for remote hosts.");
    client
        .builtin_builders()
        .expect_err("the connection is closed");
    assert!(fixture.client().is_valid_path(&path).unwrap());
    // A port in use.
    let errors = does_not_start(&fixture.site, &[&tcp]);
    assert!(
        errors.contains("cannot bind TCP socket: Address already in use"),
        "{errors}"
    );
}

#[test]
fn addresses_of_ipv6_may_be_in_brackets() {
    only_ours!(); // Guix's takes what follows the last colon for the port
    if TcpListener::bind("[::1]:0").is_err() {
        return skip("there is no IPv6 here");
    }
    let site = Site::new();
    let port = free_port();
    let unix = format!("--listen={}", site.socket().display());
    let tcp = format!("--listen=[::1]:{port}");
    let fixture = Fixture::with(site, &["--no-substitutes", &unix, &tcp]);
    let connect = |text: String| {
        let address = Address::parse(text.as_ref()).unwrap();
        address.connect(&fixture.dir(), &Options::default())
    };
    fixture.daemon.wait_until(
        || connect(format!("guix://[::1]:{port}")).is_ok(),
        "to serve",
    );
    // Without a port it is the usual one, on which another daemon may listen here.
    let unix = format!("--listen={}", fixture.site.path("other").display());
    for name in ["[::1]", "::1"] {
        let usual = TcpListener::bind("[::1]:44146");
        let listen = format!("--listen={name}");
        let errors = does_not_start(&fixture.site, &[&listen, &unix]);
        assert!(
            errors.contains("cannot bind TCP socket: Address already in use"),
            "{errors}"
        );
        drop(usual);
    }
    for name in ["[::1", "[::1]44146", "[::1]:http"] {
        let errors = does_not_start(&fixture.site, &[&format!("--listen={name}")]);
        assert!(
            errors.contains(&format!("failed to look up '{name}'")),
            "{errors}"
        );
    }
}

#[test]
fn sockets_of_a_service_manager_are_used_instead_of_all_others() {
    let site = Site::new();
    let unix = UnixListener::bind(site.path("activated")).unwrap();
    fs::set_permissions(site.path("activated"), fs::Permissions::from_mode(0o666)).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let mut command = site.command("sh");
    let script =
        "exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" \"$@\"";
    command.args(["-c", script]).arg(program());
    command.arg(format!("--listen={}", site.path("other").display()));
    // Like `launch_command`, which would set its own standard input.
    command.stdin(Stdio::from(OwnedFd::from(unix.try_clone().unwrap())));
    command.stdout(Stdio::from(OwnedFd::from(tcp)));
    let errors = fs::File::create(site.path("errors")).unwrap();
    let _daemon = Process(command.stderr(errors).spawn().unwrap());
    // The socket belongs to the service manager: early clients wait.
    let dir = formats::StoreDir::new(site.store().to_str().unwrap()).unwrap();
    for _ in 0..2 {
        let stream = UnixStream::connect(site.path("activated")).unwrap();
        assert_answers(Connection::over_unix(stream, &dir, &Options::default()).unwrap());
    }
    let address = Address::Tcp {
        host: "127.0.0.1".into(),
        port,
    };
    assert_answers(address.connect(&dir, &Options::default()).unwrap());
    assert!(!site.path("other").exists());
    assert!(!site.socket().exists());
    let said = fs::read_to_string(site.path("errors")).unwrap();
    assert!(said.contains("socket-activated with 2 sockets"), "{said}");
}

#[test]
fn variables_meant_for_another_process_are_not_obeyed() {
    let site = Site::new().env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    Fixture::with(site, &[]).assert_serves();
}

#[test]
fn an_administrator_ends_it_with_a_signal_and_sessions_with_it() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let path = add_text(&mut client, "text", "x", &[]);
    let Fixture { daemon, site, .. } = fixture;
    let status = daemon.stop();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(15)
    );
    if crate::harness::is_ours() {
        client
            .builtin_builders()
            .expect_err("the session has ended");
        assert!(!site.socket().exists());
    }
    drop(client);
    assert!(eventually(|| no_sessions(&site.state())));
    let fixture = Fixture::with(site, &[]);
    assert!(fixture.client().is_valid_path(&path).unwrap());
}

/// Whether no session has left its file of temporary roots behind.
fn no_sessions(state: &Path) -> bool {
    fs::read_dir(state.join("temproots")).map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn more_clients_than_files_can_be_opened_do_not_end_it() {
    let site = Site::new();
    let mut command = site.command("sh");
    command.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""]);
    command.arg(program()).arg("--no-substitutes");
    let daemon = site.launch_command(command);
    daemon.wait_until(|| UnixStream::connect(site.socket()).is_ok(), "to serve");
    let fixture = Fixture {
        daemon,
        mount: None,
        site,
    };
    let mut first = fixture.client();
    let text = add_text(&mut first, "x", "x", &[]);
    let open = || {
        let open = fs::read_dir(format!("/proc/{}/fd", fixture.daemon.pid()));
        open.unwrap().count()
    };
    let open_before = open();
    // Nobody waits for an answer: those beyond the limit get none for now.
    let crowd: Vec<_> = (0..100)
        .filter_map(|_| {
            let mut stream = fixture.daemon.connect();
            stream.set_nonblocking(true).unwrap();
            let hello = Bytes::hello(0x64).0;
            std::io::Write::write_all(&mut stream, &hello).ok()?;
            Some(stream)
        })
        .collect();
    assert!(first.is_valid_path(&text).unwrap());
    drop(crowd);
    let are_gone = || open() <= open_before;
    fixture
        .daemon
        .wait_until(are_gone, "to end the sessions of clients that left");
    fixture.assert_serves();
    assert_eq!(add_text(&mut fixture.client(), "x", "x", &[]), text);
}
