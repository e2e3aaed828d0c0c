//! To whom it serves nothing, and what it costs.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::browser::{Answer, Dashboard, answer};
use crate::fixture::Fixture;
use crate::harness::{eventually, is_ours};

#[test]
fn every_response_keeps_others_out() {
    let fixture = Fixture::new();
    let dashboard = Dashboard::start(&fixture);
    let hash = "0".repeat(32);
    for (path, status, kind) in [
        ("/", 200, "text/html; charset=utf-8"),
        ("/style.css", 200, "text/css; charset=utf-8"),
        ("/app.js", 200, "text/javascript; charset=utf-8"),
        ("/api/v1/farm", 200, "application/json"),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/?a=b", 200, "text/html; charset=utf-8"),
        ("/index.html", 404, "text/plain; charset=utf-8"),
        ("/api/v1", 404, "text/plain; charset=utf-8"),
        ("/api/v1/farm/", 404, "text/plain; charset=utf-8"),
        ("/../../etc/passwd", 404, "text/plain; charset=utf-8"),
        ("/%2e%2e/style.css", 404, "text/plain; charset=utf-8"),
        ("//etc/passwd", 404, "text/plain; charset=utf-8"),
        (
            &format!("/api/v1/log?drv={hash}-x.drv"),
            404,
            "text/plain; charset=utf-8",
        ),
    ] {
        let got = dashboard.get(path);
        assert_eq!(got.status, status, "{path}: {got:?}");
        for header in [
            &format!("content-type: {kind}\r\n"),
            "content-security-policy: default-src 'none'; script-src 'self'; ",
            "x-content-type-options: nosniff\r\n",
            "cache-control: no-store\r\n",
            "cross-origin-resource-policy: same-origin\r\n",
        ] {
            assert!(got.head.contains(header), "{path}: {header}: {}", got.head);
        }
        assert!(!got.head.contains("access-control"), "{}", got.head);
        let length = format!("content-length: {}\r\n", got.body.len());
        assert!(got.head.contains(&length), "{path}: {}", got.head);
        // The head alone.
        let head = dashboard.ask("HEAD", path, "Host: localhost\r\n");
        assert_eq!((head.status, head.body.len()), (status, 0), "{path}");
        if !matches!(path, "/api/v1/farm" | "/metrics") {
            assert!(head.head.contains(&length), "{path}: {}", head.head);
        }
    }
    for path in ["/api/v1/events", "/api/v1/log?drv=x&follow=1"] {
        assert_eq!(dashboard.ask("HEAD", path, "Host: localhost\r\n").body, b"");
    }
    for method in [
        "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get",
    ] {
        let path = if method == "CONNECT" {
            "localhost:80"
        } else {
            "/"
        };
        let got = dashboard.ask(method, path, "Host: localhost\r\nContent-Length: 0\r\n");
        assert_eq!(got.status, 405, "{method}: {got:?}");
        assert!(got.head.contains("allow: get, head\r\n"), "{got:?}");
    }
}

#[test]
fn other_names_and_other_sites_get_nothing() {
    let fixture = Fixture::new();
    let options = ["--listen=127.0.0.1:0", "--host=farm.example.org"];
    let dashboard = Dashboard::start_with(&fixture, &options);
    let asked = |headers: &str| dashboard.ask("GET", "/api/v1/farm", headers).status;
    for good in [
        "localhost",
        "localhost:1",
        "127.0.0.1:8090",
        "[::1]",
        "Farm.example.org:443",
    ] {
        assert_eq!(asked(&format!("Host: {good}\r\n")), 200, "{good}");
    }
    for bad in [
        "evil.example",
        "192.0.2.7",
        "",
        "localhost.evil.example",
        "a b",
        "127.0.0.1@evil.example",
    ] {
        let status = asked(&format!("Host: {bad}\r\n"));
        assert!(matches!(status, 400 | 421), "{bad}: {status}");
    }
    assert_eq!(asked(""), 400);
    assert_eq!(asked("Host: localhost\r\nHost: evil.example\r\n"), 400);
    let absolute = |target: &str| dashboard.ask("GET", target, "Host: localhost\r\n").status;
    assert_eq!(absolute("http://evil.example/api/v1/farm"), 421);
    assert_eq!(absolute("http://localhost/api/v1/farm"), 200);
    for (fetch, status) in [
        (
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n",
            403,
        ),
        ("Sec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\n", 403),
        (
            "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n",
            403,
        ),
        (
            "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n",
            200,
        ),
        ("Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\n", 200),
    ] {
        assert_eq!(
            asked(&format!("Host: localhost\r\n{fetch}")),
            status,
            "{fetch}"
        );
    }
    // A link elsewhere leads to the page, and to nothing else; no frame has it.
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
    for (path, more, status) in [
        ("/", "", 200),
        ("/", "Sec-Fetch-Dest: document\r\n", 200),
        ("/", "Sec-Fetch-Dest: iframe\r\n", 403),
        (
            "/",
            "Sec-Fetch-Dest: document\r\nSec-Fetch-Dest: iframe\r\n",
            403,
        ),
        ("/", "Sec-Fetch-Site: none\r\n", 403),
        ("/", "Origin: http://localhost:8090\r\n", 200),
        ("/", "Origin: http://evil.example\r\n", 403),
        ("/app.js", "Sec-Fetch-Dest: document\r\n", 403),
        ("/api/v1/log?drv=x", "Sec-Fetch-Dest: document\r\n", 403),
    ] {
        let headers = format!("Host: localhost\r\n{link}{more}");
        assert_eq!(
            dashboard.ask("GET", path, &headers).status,
            status,
            "{path} {more}"
        );
    }
    for (origin, status) in [
        ("http://127.0.0.1:8090", 200),
        ("https://farm.example.org", 200),
        ("null", 403),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
    ] {
        assert_eq!(
            asked(&format!("Host: localhost\r\nOrigin: {origin}\r\n")),
            status,
            "{origin}"
        );
    }
    // What is no HTTP at all.
    for nonsense in [
        "\r\n\r\n\r\n\0",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\0\r\n\r\n",
    ] {
        let mut stream = dashboard.connect();
        stream.write_all(nonsense.as_bytes()).unwrap();
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{nonsense:?}");
    }
    assert_eq!(dashboard.get("/").status, 200);
}

#[test]
fn a_request_is_small_and_comes_soon() {
    let fixture = Fixture::new();
    let dashboard = Dashboard::start(&fixture);
    let asked = |headers: &str| dashboard.ask("GET", "/", &format!("Host: localhost\r\n{headers}"));
    assert_eq!(asked(&format!("X: {}\r\n", "x".repeat(10_000))).status, 200);
    assert_eq!(asked(&format!("X: {}\r\n", "x".repeat(20_000))).status, 431);
    assert_eq!(asked(&"X: y\r\n".repeat(100)).status, 431);
    // One who sends a byte now and then is not waited for.
    let mut slow = dashboard.connect();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        .unwrap();
    let mut idle = dashboard.connect();
    let begun = Instant::now();
    let mut is_open = true;
    while is_open && begun.elapsed() < Duration::from_secs(60) {
        is_open = slow.write_all(b"X: y\r\n").is_ok();
        assert_eq!(dashboard.get("/").status, 200);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(!is_open, "it is still open");
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut idle, &mut rest);
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    dashboard.stop();
}

/// How many connections are open to it.
fn connections(dashboard: &Dashboard) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", dashboard.child.id())).unwrap();
    let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count()
}

#[test]
fn a_browser_that_reads_nothing_is_left() {
    let fixture = Fixture::new();
    let entries: String = (0..2000).map(|number| format!(
        "[[machine]]\nname = \"machine{number}.example.org\"\nsystems = [\"x86_64-linux\"]\nuser = \"u\"\n\
         host-key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\n"
    )).collect();
    std::fs::write(fixture.site.configuration().join("machines.toml"), entries).unwrap();
    let dashboard = Dashboard::start(&fixture);
    let document = dashboard.wait_until(|document| document["machines_error"].is_null());
    assert_eq!(document["machines"].as_array().unwrap().len(), 2000);
    assert!(
        eventually(|| connections(&dashboard) <= 4),
        "{}",
        connections(&dashboard)
    );
    let before = connections(&dashboard);
    let greedy: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = dashboard.connect();
            let request = "GET /api/v1/farm HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
            stream.write_all(request.as_bytes()).unwrap();
            stream
        })
        .collect();
    assert!(eventually(
        || connections(&dashboard) >= before + greedy.len()
    ));
    let begun = Instant::now();
    while connections(&dashboard) > before + 5 && begun.elapsed() < Duration::from_secs(180) {
        assert_eq!(dashboard.get("/").status, 200);
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(
        connections(&dashboard) <= before + 5,
        "{}",
        connections(&dashboard)
    );
    let kib = resident_kib(&dashboard);
    assert!(kib < 200 << 10, "{kib} KiB");
    drop(greedy);
    dashboard.stop();
}

pub fn resident_kib(dashboard: &Dashboard) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", dashboard.child.id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn thousands_of_browsers_are_served_as_far_as_there_is_room() {
    system::open_files::raise_limit().unwrap();
    if system::open_files::hard_limit().unwrap() < 4500 {
        return;
    }
    let fixture = Fixture::new();
    let dashboard = Dashboard::start(&fixture);
    let mut followers = Vec::new();
    let mut refused: Vec<Answer> = Vec::new();
    for _ in 0..2000 {
        let mut stream = dashboard.connect();
        let request = b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut begin = [0; 12];
        std::io::Read::read_exact(&mut stream, &mut begin).unwrap();
        match &begin {
            b"HTTP/1.1 200" => followers.push(stream),
            b"HTTP/1.1 503" => {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                if refused.len() % 100 == 0 {
                    let mut whole = answer_of(stream, &begin);
                    whole.body.truncate(100);
                    refused.push(whole);
                } else {
                    refused.push(Answer {
                        status: 503,
                        head: String::new(),
                        body: Vec::new(),
                    });
                }
            }
            other => panic!("{}", String::from_utf8_lossy(other)),
        }
    }
    assert_eq!((followers.len(), refused.len()), (960, 1040));
    assert!(
        refused[0].text().contains("too many browsers look"),
        "{:?}",
        refused[0]
    );
    // There is room for those who don't follow.
    assert_eq!(dashboard.get("/").status, 200);
    // Connections that say nothing take the rest of it.
    let idle: Vec<TcpStream> = (0..200).map(|_| dashboard.connect()).collect();
    let last = dashboard.connect();
    let last = answer(last);
    assert_eq!(last.status, 503, "{last:?}");
    assert!(last.head.contains("retry-after: 10\r\n"));
    let kib = resident_kib(&dashboard);
    assert!(kib < 150 << 10, "{kib} KiB");
    drop((followers, idle));
    assert!(eventually(|| connections(&dashboard) < 10));
    assert_eq!(dashboard.get("/api/v1/farm").status, 200);
    dashboard.stop();
}

/// The rest of an answer.
fn answer_of(mut stream: TcpStream, begin: &[u8]) -> Answer {
    let mut bytes = begin.to_vec();
    let _ = std::io::Read::read_to_end(&mut stream, &mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: format!("{}\r\n", head.to_lowercase()),
        body: body.into(),
    }
}

#[test]
fn nothing_is_asked_when_nobody_looks() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new();
    let sessions = || {
        let threads = std::fs::read_dir(format!("/proc/{}/task", fixture.daemon.pid())).unwrap();
        let names =
            threads.filter_map(|one| std::fs::read_to_string(one.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("client ")).count()
    };
    assert!(eventually(|| sessions() == 0));
    let dashboard = Dashboard::start(&fixture);
    assert_eq!(dashboard.get("/").status, 200);
    assert_eq!(sessions(), 0);
    let mut events = dashboard.follow("/api/v1/events");
    events.wait_until(|_| true);
    assert!(eventually(|| sessions() == 1), "{}", sessions());
    drop(events);
    assert!(eventually(|| sessions() == 0), "{}", sessions());
    let before = dashboard.processor_time();
    std::thread::sleep(Duration::from_secs(3));
    assert!(dashboard.processor_time() <= before + Duration::from_millis(10));
    assert_eq!(sessions(), 0);
    dashboard.stop();
}
