//! Servers that say nothing, or that they are busy: others are asked meanwhile, and nobody else waits
//! for them a moment later.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use formats::StorePath;
use substitutes::Compression;

use crate::fixture::{Client, Fixture, free_port, text_item};
use crate::harness::substitutes::{Item, Tree};
use crate::harness::web_server::{Protocol, WebServer};
use crate::harness::{Site, eventually};
use crate::network::fixture::{HandServer, drip, noise, respond};

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
fn a_server_that_stays_busy_is_left_alone_by_the_users_other_sessions() {
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
        let (hold, gate) = channel();
        let gate = Mutex::new(gate);
        let deliver = move |stream: &mut TcpStream, contents: &[u8]| {
            let _ = gate.lock().unwrap().recv();
            respond(stream, "200 OK", "", contents);
        };
        let held = Held::with(&plain("x", "text"), false, deliver);
        (held, hold)
    }

    /// The same where the first user's server delivers the item like this; he may have the others', too.
    fn with(
        item: &Item,
        has_both: bool,
        deliver: impl Fn(&mut TcpStream, &[u8]) + Send + Sync + 'static,
    ) -> Held {
        let site = Site::new();
        let directory = site.path("server");
        let files = directory.clone();
        let held = HandServer::start(move |_, header, stream| {
            let name = header.split(' ').nth(1).unwrap().trim_start_matches('/');
            match fs::read(files.join(name)) {
                Ok(contents) if name.starts_with("nar/") => deliver(stream, &contents),
                Ok(text) => respond(stream, "200 OK", "", &text),
                Err(_) => respond(stream, "404 Not Found", "", b""),
            }
        });
        fs::create_dir_all(&directory).unwrap();
        let good = WebServer::start(&directory);
        let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
        let mut urls = held.url("");
        if has_both {
            urls = format!("{urls} {}", good.address());
        }
        let fixture = Fixture::with(site, program, &urls, &[]);
        let path = fixture.publish(item);
        Held {
            fixture,
            held,
            good,
            path,
        }
    }

    /// Somebody else waits with the first one, and has the item from his own server.
    #[track_caller]
    fn is_taken_over(&self) {
        let mut second = self.fixture.client();
        let urls = self.good.address();
        second.set(|options| {
            options.set("substitute-urls", urls);
            options.set("build-timeout", "60");
        });
        let done = second.ensure(&self.path);
        done.succeeded();
        done.said(&format!("@ download-succeeded {} {urls}/nar/", self.path));
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

#[test]
fn whoever_waits_with_another_for_a_server_that_drips_has_his_own_asked() {
    let item = Item::new("x", Tree::file(noise(400_000))).compressed(&[Compression::None]);
    let held = Held::with(&item, false, drip);
    let waiting = held.begin();
    held.is_taken_over();
    waiting.join().unwrap().succeeded();
    held.fixture.assert_holds([&held.path]);
}

#[test]
fn it_is_the_server_which_delivers_that_counts_not_those_to_come() {
    let item = Item::new("x", Tree::file(noise(400_000))).compressed(&[Compression::None]);
    let held = Held::with(&item, true, drip);
    let waiting = held.begin();
    held.is_taken_over();
    waiting.join().unwrap().succeeded();
    held.fixture.assert_holds([&held.path]);
}

#[test]
fn what_one_user_concludes_from_waiting_keeps_no_server_from_another() {
    let site = Site::new();
    let directory = site.path("server");
    fs::create_dir_all(&directory).unwrap();
    let files = directory.clone();
    // It answers for what is there, and says nothing otherwise.
    let server = HandServer::start(move |_, header, stream| {
        let name = header.split(' ').nth(1).unwrap().trim_start_matches('/');
        match fs::read(files.join(name)) {
            Ok(text) => respond(stream, "200 OK", "", &text),
            Err(_) => drop(stream.read_to_end(&mut Vec::new())),
        }
    });
    let nothing = site.path("nothing");
    fs::create_dir_all(&nothing).unwrap();
    let other = WebServer::start(&nothing);
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let port = free_port();
    let options = [
        format!("--listen=127.0.0.1:{port}"),
        format!("--listen={}", site.socket().display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let fixture = Fixture::with(site, program, &server.url(""), &options);
    let urls = format!("{} {}", server.url(""), other.address());
    let mut stranger = fixture.stranger(port);
    stranger.set(|options| options.set("substitute-urls", urls.as_str()));
    stranger.ensure(&missing(&fixture, "1")).failed();
    // He leaves it alone as long as there is another one, but not longer.
    let asked = server.requests().len();
    stranger.ensure(&missing(&fixture, "2")).failed();
    assert_eq!(server.requests().len(), asked);
    let [first, second] = ["first", "second"].map(|name| fixture.publish(&text_item(name, name)));
    client(&fixture).ensure(&first).succeeded();
    let mut alone = fixture.stranger(port);
    alone.set(|_| ());
    alone.ensure(&second).succeeded();
    fixture.assert_holds([&first, &second]);
}
