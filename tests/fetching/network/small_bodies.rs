//! Small bodies, as narinfos are.

use std::fs;

use substitutes::network::{ErrorKind, Event};

use super::fixture::{HandServer, Program, answer, last_events, next, respond};
use crate::harness::eventually;
use crate::harness::servers::free_port;
use crate::harness::web_server::{Protocol, WebServer};

fn directory(files: usize) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..files {
        let name = directory.path().join(format!("{number}.narinfo"));
        fs::write(name, format!("StorePath: {number}\n")).unwrap();
    }
    directory
}

#[test]
fn bodies_statuses_and_ages() {
    let directory = directory(1);
    let server = WebServer::with(
        directory.path(),
        Protocol::Http,
        "location / { expires 7m; }",
    );
    let program = Program::new();
    assert_eq!(
        program.get(&server.url("0.narinfo"), 100).unwrap(),
        (200, Some(420), b"StorePath: 0\n".to_vec())
    );
    assert_eq!(
        program.get(&server.url("1.narinfo"), 100).unwrap(),
        (404, None, Vec::new())
    );
    let error = program.get(&server.url("0.narinfo"), 12).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let line = &server.log()[0];
    assert!(line.contains("agent=guix-fetch/"), "{line}");
    assert!(line.contains("encoding=- cookie=-"), "{line}");
    assert_eq!(program.starts(), 1);
}

#[test]
fn thousands_of_bodies_by_few_connections() {
    let directory = directory(2000);
    for (protocol, connections, version) in [
        (Protocol::Http, 2..=64, "HTTP/1.1"),
        (Protocol::Http2, 1..=2, "HTTP/2.0"),
    ] {
        let server = WebServer::with(directory.path(), protocol, "");
        let program = Program::new();
        let mut exchange = program.exchange();
        let requests: Vec<_> = (0..2000)
            .map(|number| exchange.get(&server.url(&format!("{number}.narinfo")), 100))
            .collect();
        let mut events = last_events(&mut exchange);
        for (number, id) in requests.iter().enumerate() {
            let body = answer(events.remove(id).unwrap()).unwrap().2;
            assert_eq!(body, format!("StorePath: {number}\n").into_bytes());
        }
        // nginx notes a request after its answer.
        assert!(eventually(|| server.log().len() == 2000));
        assert!(server.log().iter().all(|line| line.contains(version)));
        let used = server.connections();
        assert!(
            connections.contains(&used),
            "{protocol:?}: {used} connections"
        );
        // They outlive requests and exchanges.
        drop(exchange);
        program.get(&server.url("7.narinfo"), 100).unwrap();
        assert_eq!(server.connections(), used);
        assert!(program.peak_kib() < 64 << 10, "{} KiB", program.peak_kib());
    }
}

#[test]
fn whoever_asks_for_little_does_not_wait_for_whoever_asks_for_much() {
    let directory = directory(1);
    let server = WebServer::start(directory.path());
    let program = Program::new();
    let mut greedy = program.exchange();
    for _ in 0..100_000 {
        greedy.get(&server.url("0.narinfo"), 100);
    }
    let mut modest = program.exchange();
    for _ in 0..10 {
        modest.get(&server.url("0.narinfo"), 100);
        answer(next(&mut modest).1).unwrap();
    }
    assert!(greedy.pending() > 50_000, "{}", greedy.pending());
}

#[test]
fn redirections_are_followed_to_a_limit_and_to_the_web_only() {
    let server = HandServer::start(|_, header, stream| {
        let path = header.split(' ').nth(1).unwrap();
        let target = match path {
            "/file" => "file:///etc/passwd".to_owned(),
            "/ftp" => "ftp://127.0.0.1/x".to_owned(),
            "/loop" => "/loop".to_owned(),
            "/0" => return respond(stream, "200 OK", "", b"arrived"),
            number => format!("/{}", number[1..].parse::<u32>().unwrap() - 1),
        };
        let location = format!("Location: {target}\r\n");
        respond(stream, "302 Found", &location, b"elsewhere");
    });
    let program = Program::new();
    let (status, _, body) = program.get(&server.url("10"), 100).unwrap();
    assert_eq!((status, &body[..]), (200, &b"arrived"[..]));
    for (name, kind) in [
        ("11", ErrorKind::Protocol),
        ("loop", ErrorKind::Protocol),
        ("file", ErrorKind::Refused),
        ("ftp", ErrorKind::Refused),
    ] {
        let error = program.get(&server.url(name), 100).unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
    }
}

#[test]
fn a_password_goes_to_its_own_server_only() {
    let other = HandServer::start(|_, _, stream| respond(stream, "200 OK", "", b"other"));
    let elsewhere = other.url("x");
    let own = HandServer::start(move |_, header, stream| match header.split(' ').nth(1) {
        Some("/own") => respond(stream, "302 Found", "Location: /end\r\n", b""),
        Some("/end") => respond(stream, "200 OK", "", b"own"),
        _ => respond(
            stream,
            "302 Found",
            &format!("Location: {elsewhere}\r\n"),
            b"",
        ),
    });
    let program = Program::new();
    let address = format!("http://me:secret@{}", own.host());
    program.get(&format!("{address}/elsewhere"), 100).unwrap();
    program.get(&format!("{address}/own"), 100).unwrap();
    let has_password = |header: &String| header.contains("Authorization: Basic bWU6c2VjcmV0");
    assert!(
        own.requests().iter().all(has_password),
        "{:?}",
        own.requests()
    );
    assert!(
        !other
            .requests()
            .iter()
            .any(|header| header.contains("Authorization"))
    );
}

#[test]
fn servers_that_are_not_there() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let program = Program::new();
    let mut exchange = program.exchange();
    // All of them at once: one that can't be reached isn't tried two thousand times.
    for number in 0..2000 {
        exchange.get(&format!("http://127.0.0.1:{port}/{number}"), 100);
    }
    for event in last_events(&mut exchange).into_values() {
        let error = answer(event).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    }
    let error = program
        .get("http://no-such-host.invalid/x", 100)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HostNotFound, "{error}");
    let plain = HandServer::start(|_, _, stream| respond(stream, "200 OK", "", b""));
    let error = program
        .get(&format!("https://{}/x", plain.host()), 100)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tls, "{error}");
    for url in [
        "file:///etc/hosts",
        "ftp://127.0.0.1/",
        "rubbish",
        "http://",
        "dict://x/",
    ] {
        assert_eq!(
            program.get(url, 100).unwrap_err().kind(),
            ErrorKind::Refused,
            "{url}"
        );
    }
    assert_eq!(program.starts(), 1);
}

#[test]
fn proxies() {
    let proxy = HandServer::start(|_, header, stream| {
        respond(
            stream,
            "200 OK",
            "",
            header.lines().next().unwrap().as_bytes(),
        );
    });
    let direct = HandServer::start(|_, _, stream| respond(stream, "200 OK", "", b"direct"));
    let address = format!("http://{}", proxy.host());
    let program = Program::with_environment(&[
        ("http_proxy", &address),
        ("https_proxy", &address),
        ("no_proxy", "127.0.0.1"),
    ]);
    let (_, _, body) = program.get("http://somewhere.invalid/x", 100).unwrap();
    assert_eq!(body, b"GET http://somewhere.invalid/x HTTP/1.1");
    assert_eq!(program.get(&direct.url("x"), 100).unwrap().2, b"direct");
    // It answers the request for a tunnel, but is none.
    program.get("https://somewhere.invalid/x", 100).unwrap_err();
    assert!(proxy.requests()[1].starts_with("CONNECT somewhere.invalid:443 HTTP/1.1\r\n"));
}

#[test]
fn a_proxy_that_is_not_there_is_named() {
    let dead = format!("127.0.0.1:{}", free_port());
    let program = Program::with_environment(&[
        ("http_proxy", &format!("http://me:secret@{dead}")),
        ("https_proxy", "proxy.invalid:3128"),
    ]);
    let said = |url| program.get(url, 100).unwrap_err().to_string();
    let of_dead = said("http://somewhere.invalid/x");
    assert!(
        of_dead.contains(&format!("(`http_proxy' is `http://{dead}')")),
        "{of_dead}"
    );
    assert!(!of_dead.contains("secret"), "{of_dead}");
    let of_unknown = said("https://somewhere.invalid/x");
    assert!(
        of_unknown.contains("(`https_proxy' is `proxy.invalid:3128')"),
        "{of_unknown}"
    );
}

#[test]
fn a_program_that_dies_is_started_again() {
    let directory = directory(1);
    let server = WebServer::start(directory.path());
    let silent = HandServer::start(|_, _, _| {
        loop {
            std::thread::park();
        }
    });
    let program = Program::new();
    for round in 1..=3 {
        let mut exchange = program.exchange();
        exchange.get(&silent.url("x"), 100);
        program.get(&server.url("0.narinfo"), 100).unwrap();
        assert_eq!(program.starts(), round);
        let pid = nix::unistd::Pid::from_raw(program.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let error = answer(next(&mut exchange).1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ProgramDied, "{error}");
    }
    let missing = substitutes::network::Network::new(|socket| {
        substitutes::network::program(std::path::Path::new("/no/such/program"), socket).spawn()
    });
    let mut exchange = substitutes::network::Exchange::new(&missing).unwrap();
    exchange.get(&server.url("0.narinfo"), 100);
    let error = answer(next(&mut exchange).1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProgramMissing);
    assert!(error.text().contains("/no/such/program"), "{error}");
}

#[test]
fn a_busy_server_is_asked_again_a_few_times() {
    let program = Program::new();
    for (statuses, fields, expected, asked) in [
        (&["503 Busy", "429 Busy"][..], "Retry-After: 0\r\n", 200, 3),
        (&["503 Busy"], "", 200, 2),
        // It says that it is no use to wait.
        (&["503 Busy"; 9], "Retry-After: 3600\r\n", 503, 1),
        (&["429 Busy"; 9], "Retry-After: 0\r\n", 429, 4),
        // What is not said to pass is not waited for.
        (&["500 Broken"; 9], "Retry-After: 0\r\n", 500, 1),
    ] {
        let server = HandServer::start(move |number, _, stream| match statuses.get(number) {
            Some(status) => respond(stream, status, fields, b"later"),
            None => respond(stream, "200 OK", "", b"text"),
        });
        let (status, _, body) = program.get(&server.url("x"), 100).unwrap();
        assert_eq!((status, server.requests().len()), (expected, asked));
        assert_eq!(body, if status == 200 { &b"text"[..] } else { b"" });
    }
    assert_eq!(program.starts(), 1);
}

#[test]
fn while_a_busy_server_rests_others_are_asked_and_what_waits_can_be_cancelled() {
    let busy = HandServer::start(|_, _, stream| {
        respond(stream, "503 Busy", "Retry-After: 25\r\n", b"");
    });
    let other = HandServer::start(|_, _, stream| respond(stream, "200 OK", "", b"text"));
    let program = Program::new();
    let mut exchange = program.exchange();
    let first = exchange.get(&busy.url("x"), 100);
    assert!(eventually(|| busy.requests().len() == 1));
    assert_eq!(next(&mut exchange), (first, Event::Busy));
    let more = exchange.get(&busy.url("y"), 100);
    // Who comes later is told so, too.
    assert_eq!(next(&mut exchange), (more, Event::Busy));
    let id = exchange.get(&other.url("z"), 100);
    assert_eq!(next(&mut exchange).0, id);
    exchange.cancel(first);
    exchange.cancel(more);
    let id = exchange.get(&other.url("z"), 100);
    assert_eq!(next(&mut exchange).0, id);
    assert!(busy.requests().len() <= 2);
}
