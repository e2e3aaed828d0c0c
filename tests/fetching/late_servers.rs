//! Servers that say nothing, or that they are busy: others are asked meanwhile, and nobody else waits
//! for them a moment later.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use formats::StorePath;
use substitutes::Compression;

use crate::fixture::{Client, Fixture, free_port, text_item};
use crate::harness::substitutes::{Item, Tree};
use crate::harness::web_server::{Protocol, WebServer};
use crate::harness::{Site, eventually};
use crate::network::fixture::{HandServer, respond};

/// A server that takes requests and never answers.
fn silent() -> HandServer {
    HandServer::start(|_, _, stream| {
        // Until the other side has had enough.
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

/// A server that is always busy, and says no more.
fn busy(site: &Site) -> WebServer {
    let directory = site.path("busy");
    fs::create_dir_all(&directory).unwrap();
    WebServer::with(&directory, Protocol::Http, "return 503;")
}

/// A daemon with a server to begin with, and a web server that serves what the fixture publishes.
fn after(first: &str, site: Site, options: &[&str]) -> (Fixture, WebServer) {
    let directory = site.path("server");
    fs::create_dir_all(&directory).unwrap();
    let good = WebServer::start(&directory);
    let urls = format!("{first} {}", good.address());
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    (Fixture::with(site, program, &urls, options), good)
}

/// A client that is told everything.
fn client(fixture: &Fixture) -> Client {
    let mut client = fixture.client();
    client.set(|_| ());
    client
}

/// An item that nobody has.
fn missing(fixture: &Fixture, letter: &str) -> StorePath {
    let name = format!("{}-missing", letter.repeat(32));
    fixture.store().join(&name).unwrap()
}

#[test]
fn a_silent_server_is_overtaken_and_then_asked_last() {
    let silent = silent();
    let (fixture, _good) = after(&silent.url(""), Site::new(), &[]);
    let first = fixture.publish(&text_item("first", "1"));
    let second = fixture.publish(&text_item("second", "2").reference(&first));
    let done = client(&fixture).ensure(&second);
    done.succeeded();
    let name = silent.host();
    done.said(&format!(
        "substitute: {name}: the server does not answer: others are asked meanwhile\n"
    ));
    // Nobody has waited for its end.
    done.did_not_say("connection failed");
    let asked = silent.requests().len();
    assert_eq!(asked, 1, "{:#?}", silent.requests());
    // Others don't wait either.
    let third = fixture.publish(&text_item("third", "3"));
    let done = client(&fixture).ensure(&third);
    done.succeeded();
    done.did_not_say(name);
    assert_eq!(silent.requests().len(), asked);
    // What nobody else has, it is asked for. When it says nothing then, it is left alone.
    let mut asking = client(&fixture);
    let wanted = missing(&fixture, "1");
    asking.ensure(&wanted).failed();
    assert_eq!(silent.requests().len(), asked + 1);
    let wanted = missing(&fixture, "2");
    let done = asking.ensure(&wanted);
    done.failed();
    done.did_not_say(name);
    client(&fixture).ensure(&missing(&fixture, "3")).failed();
    assert_eq!(silent.requests().len(), asked + 1);
    fixture.assert_holds([&first, &second, &third]);
}

#[test]
fn what_a_silent_server_was_asked_is_not_in_the_way_of_others() {
    // More than one exchange may have open.
    const COUNT: usize = 300;
    let silent = silent();
    let (fixture, _good) = after(&silent.url(""), Site::new(), &[]);
    let published = (0..COUNT).map(|number| fixture.publish(&text_item(&format!("x{number}"), "")));
    let paths: Vec<StorePath> = published.collect();
    let wanted: Vec<&StorePath> = paths.iter().collect();
    assert_eq!(client(&fixture).substitutable(&wanted).len(), COUNT);
    assert!(silent.requests().len() < COUNT);
}

#[test]
fn while_a_busy_server_rests_others_are_asked() {
    let site = Site::new();
    let busy = busy(&site);
    let (fixture, _good) = after(busy.address(), site, &[]);
    let first = fixture.publish(&text_item("first", "1"));
    let second = fixture.publish(&text_item("second", "2"));
    let done = client(&fixture).ensure(&first);
    done.succeeded();
    let name = busy.address().trim_start_matches("http://");
    done.said(&format!(
        "substitute: {name}: the server is busy: others are asked meanwhile\n"
    ));
    client(&fixture).ensure(&second).succeeded();
    fixture.assert_holds([&first, &second]);
    assert!(eventually(|| !busy.log().is_empty()));
    assert_eq!(busy.log().len(), 1, "{:#?}", busy.log());
}

#[test]
fn a_server_that_stays_busy_is_left_alone_by_everybody() {
    let site = Site::new();
    let busy = busy(&site);
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let fixture = Fixture::with(site, program, busy.address(), &[]);
    for letter in ["1", "2"] {
        let wanted = missing(&fixture, letter);
        let mut client = client(&fixture);
        assert_eq!(client.substitutable(&[&wanted]), [].into());
        client.ensure(&wanted).failed();
    }
    assert!(eventually(|| busy.log().len() >= 4));
    assert_eq!(busy.log().len(), 4, "{:#?}", busy.log());
}

#[test]
fn a_session_hears_once_what_is_wrong_with_a_server() {
    let port = free_port();
    let (fixture, _good) = after(&format!("http://127.0.0.1:{port}"), Site::new(), &[]);
    let items = ["a", "b"].map(|name| fixture.publish(&text_item(name, name)));
    let mut session = client(&fixture);
    let said: Vec<usize> = items
        .iter()
        .map(|item| {
            let done = session.ensure(item);
            done.succeeded();
            let warning = format!("substitute: 127.0.0.1:{port}: connection failed: ");
            done.log.matches(&warning).count()
        })
        .collect();
    assert_eq!(said, [1, 0]);
    // Another session doesn't know it yet.
    let third = fixture.publish(&text_item("c", "c"));
    let done = client(&fixture).ensure(&third);
    done.said(&format!("127.0.0.1:{port}: connection failed: "));
}

#[test]
fn a_server_too_busy_to_deliver_is_not_asked_for_the_same_again() {
    let site = Site::new();
    let directory = site.path("server");
    fs::create_dir_all(&directory).unwrap();
    let directives = "location /nar { return 503; add_header Retry-After garbage always; }";
    let server = WebServer::with(&directory, Protocol::Http, directives);
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let fixture = Fixture::with(site, program, server.address(), &[]);
    let path = fixture.publish(&plain("x", "text"));
    client(&fixture).ensure(&path).failed();
    let asked = || {
        let log = server.log();
        log.iter().filter(|line| line.contains(" /nar/")).count()
    };
    assert!(eventually(|| asked() >= 4));
    assert_eq!(asked(), 4, "{:#?}", server.log());
}

fn plain(name: &str, text: &str) -> Item {
    Item::new(name, Tree::file(text)).compressed(&[Compression::None])
}

/// A daemon with our program and, as the first user's, a server that delivers an item once the test lets
/// it; that item; and the server of everybody else.
struct Held {
    fixture: Fixture,
    held: HandServer,
    good: WebServer,
    path: StorePath,
}

impl Held {
    fn new() -> (Held, std::sync::mpsc::Sender<()>) {
        let site = Site::new();
        let directory = site.path("server");
        let (hold, gate) = channel();
        let gate = Mutex::new(gate);
        let files = directory.clone();
        let held = HandServer::start(move |_, header, stream| {
            let name = header.split(' ').nth(1).unwrap().trim_start_matches('/');
            if name.starts_with("nar/") {
                let _ = gate.lock().unwrap().recv();
            }
            match fs::read(files.join(name)) {
                Ok(text) => respond(stream, "200 OK", "", &text),
                Err(_) => respond(stream, "404 Not Found", "", b""),
            }
        });
        fs::create_dir_all(&directory).unwrap();
        let good = WebServer::start(&directory);
        let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
        let fixture = Fixture::with(site, program, &held.url(""), &[]);
        let path = fixture.publish(&plain("x", "text"));
        let held = Held {
            fixture,
            held,
            good,
            path,
        };
        (held, hold)
    }

    /// Wants the item from the server that holds it back.
    fn begin(&self) -> std::thread::JoinHandle<crate::fixture::Outcome> {
        let mut first = client(&self.fixture);
        let path = self.path.clone();
        let waiting = std::thread::spawn(move || first.ensure(&path));
        let is_asked = || (self.held.requests().iter()).any(|header| header.contains(" /nar/"));
        assert!(eventually(is_asked));
        waiting
    }
}

#[test]
fn whoever_waits_with_another_has_limits_of_his_own() {
    let (held, hold) = Held::new();
    let waiting = held.begin();
    for (limit, said) in [
        (
            "build-max-silent-time",
            "timed out after 1 seconds of silence",
        ),
        ("build-timeout", "timed out after 1 seconds\n"),
    ] {
        let mut second = held.fixture.client();
        second.set(|options| options.set(limit, "1"));
        let done = second.ensure(&held.path);
        done.failed();
        done.said(&format!("substitution of `{}' {said}", held.path));
        done.said(&format!("@ substituter-failed {} timeout", held.path));
    }
    // The first one goes on.
    assert!(!waiting.is_finished());
    drop(hold);
    waiting.join().unwrap().succeeded();
    held.fixture.assert_holds([&held.path]);
}

#[test]
fn whoever_waits_with_another_for_a_silent_server_has_his_own_asked() {
    let (held, hold) = Held::new();
    let waiting = held.begin();
    let mut second = held.fixture.client();
    let urls = held.good.address();
    second.set(|options| options.set("substitute-urls", urls));
    let done = second.ensure(&held.path);
    done.succeeded();
    done.said(&format!("@ download-succeeded {} {urls}/nar/", held.path));
    // The first one has it, too, and its server was not the one that gave up.
    let done = waiting.join().unwrap();
    done.succeeded();
    done.did_not_say("failed: ");
    held.fixture.assert_holds([&held.path]);
    drop(hold);
}
