//! `guix-client weather`: which servers have which items.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::Stdio;

use formats::{StoreDir, StorePath};
use substitutes::Compression;

use crate::fixture::{Fixture, GUIX_FETCH};
use crate::harness::derivations::Script;
use crate::harness::substitutes::{Item, Publisher, Signature, Tree};
use crate::harness::web_server::{Protocol, WebServer};
use crate::harness::{Site, is_ours, program};

/// Where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:9";

fn store(site: &Site) -> StoreDir {
    StoreDir::new(site.store().to_str().unwrap()).unwrap()
}

/// An item of 3,000 bytes.
fn item(name: &str) -> Item {
    Item::new(name, Tree::file("x".repeat(3000))).compressed(&[Compression::None])
}

/// Two servers of which one is believed, and the items `one`, `two`, `three` and `nowhere`.
struct Servers {
    fixture: Fixture,
    urls: [String; 2],
    items: [StorePath; 4],
    _servers: [WebServer; 2],
}

impl Servers {
    fn new() -> Servers {
        let fixture = Fixture::with_network();
        let store = store(&fixture.site);
        let publishers = ["believed", "other"].map(|name| {
            let publisher = Publisher::new(fixture.site.path(name));
            let served = WebServer::start(publisher.directory());
            (publisher, served)
        });
        let [(believed, first), (other, second)] = publishers;
        believed.authorise(&fixture.site.configuration());
        let one = believed.publish(&store, &item("one"));
        other.publish(&store, &item("one"));
        let two = other.publish(&store, &item("two"));
        let three = other.publish_with(&store, &item("three"), |draft| {
            draft.signature = Signature::None;
        });
        Servers {
            urls: [&first, &second].map(|server| server.address().to_owned()),
            items: [one, two, three, item("nowhere").path(&store)],
            fixture,
            _servers: [first, second],
        }
    }

    /// The words after a server's URL below an item.
    #[track_caller]
    fn said(&self, text: &str, item: &StorePath, url: &str) -> String {
        let mut lines = text.lines().skip_while(|line| *line != item.as_str());
        let line = lines.find(|line| line.trim_start().starts_with(url));
        let line = line.unwrap_or_else(|| panic!("nothing of {url} about {item}: {text}"));
        line.trim_start()[url.len()..].trim().to_owned()
    }
}

#[test]
fn every_server_is_asked_for_every_item() {
    let servers = Servers::new();
    let [first, second] = &servers.urls;
    let urls = format!("--substitute-urls={first} {NOWHERE} {second}");
    let items = servers.items.each_ref().map(|item| item.as_str());
    let words = ["weather", &urls].into_iter().chain(items);
    let run = servers.fixture.run(&words.collect::<Vec<_>>());
    // Not all can be had.
    run.fails("").says_nothing();
    let text = run.text();
    let [one, two, three, nowhere] = &servers.items;
    let there = "3.04 KiB none; 3.04 KiB in the store; ";
    let said = |item, url: &str| servers.said(&text, item, url);
    let by = said(one, first);
    assert!(
        by.starts_with(&format!("{there}signed by the authorised key ")),
        "{by}"
    );
    assert_eq!(
        said(one, second),
        format!("{there}the same as the authorised one")
    );
    assert_eq!(said(two, first), "not there");
    let by = said(two, second);
    assert!(
        by.starts_with(&format!("{there}signed by the key ")),
        "{by}"
    );
    assert!(by.ends_with(", which is NOT authorised"), "{by}");
    assert_eq!(said(three, second), format!("{there}NOT signed"));
    assert_eq!(said(nowhere, second), "not there");
    // Of a server that can't be reached that is said once.
    let of_dead = text.lines().filter(|line| line.contains(NOWHERE));
    let [of_dead] = of_dead.collect::<Vec<_>>()[..] else {
        panic!("{text}");
    };
    assert!(
        of_dead.starts_with(&format!("{NOWHERE}: not asked any more: ")),
        "{of_dead}"
    );
    let last: Vec<&str> = text.lines().rev().take(4).collect();
    let sizes = |count: &str| format!("{count} to download, {count} in the store");
    assert_eq!(
        last,
        [
            "1 of 4 items can be substituted".to_owned(),
            format!("{second}: 3 of 4 items, {}", sizes("9.12 KiB")),
            of_dead.to_owned(),
            format!("{first}: 1 of 4 items, {}", sizes("3.04 KiB")),
        ]
    );
}

#[test]
fn programs_read_json() {
    let servers = Servers::new();
    let [first, second] = &servers.urls;
    let urls = format!("--substitute-urls={first} {second} {NOWHERE}");
    let [one, two, ..] = &servers.items;
    let run = servers
        .fixture
        .run(&["weather", "--json", &urls, one.as_str()]);
    let json: serde_json::Value = serde_json::from_slice(&run.succeeds().out).unwrap();
    let [of_one] = json["items"].as_array().unwrap().as_slice() else {
        panic!("{json:#}");
    };
    assert_eq!(of_one["path"], one.as_str());
    assert_eq!(of_one["substitutable"], true);
    let offer = &of_one["servers"][0];
    assert_eq!(
        (&offer["url"], &offer["status"]),
        (&first.as_str().into(), &"authorised".into())
    );
    assert_eq!(offer["key"].as_str().unwrap().len(), 16);
    assert_eq!(offer["nar_size"], 3112);
    let file = format!("{first}/nar/{}", one.base_name());
    assert_eq!(offer["files"][0]["url"], file);
    assert_eq!(offer["files"][0]["compression"], "none");
    assert_eq!(of_one["servers"][1]["status"], "same");
    assert_eq!(json["servers"][1]["items"], 1);
    assert!(json["servers"][1].get("error").is_none());
    let reason = &json["servers"][2]["error"];
    assert!(reason.as_str().unwrap().contains("127.0.0.1"), "{reason}");
    assert_eq!(&of_one["servers"][2]["error"], reason);
    assert_eq!(of_one["servers"][2]["status"], "failed");
    let run = servers
        .fixture
        .run(&["weather", "--json", &urls, two.as_str()]);
    run.fails("");
    let json: serde_json::Value = serde_json::from_slice(&run.out).unwrap();
    assert_eq!(json["items"][0]["servers"][0]["status"], "missing");
    assert_eq!(json["items"][0]["servers"][1]["status"], "unauthorised");
}

#[test]
fn the_daemons_servers_are_asked_for_outputs() {
    let site = Site::new().env("GUIX_FETCH", GUIX_FETCH);
    let publisher = Publisher::new(site.path("server"));
    publisher.authorise(&site.configuration());
    let server = WebServer::start(publisher.directory());
    let urls = format!("--substitute-urls={}", server.address());
    let store = store(&site);
    let fixture = Fixture::at(site, &[&urls]);
    let (_client, drv) = fixture.derivation_of(Script::new("x", "echo >$out").output("doc"));
    for output in [drv.out(), drv.output("doc")] {
        // What was built there is called so, whatever it is.
        publisher.publish_with(&store, &item("any"), |draft| {
            draft.hash_part = output.hash_part().to_owned();
            draft.store_path = output.to_string();
        });
    }
    let run = fixture.run(&["weather", drv.path.as_str()]);
    run.succeeds().says_nothing();
    let text = run.text();
    assert!(
        text.ends_with("\n2 of 2 items can be substituted\n"),
        "{text}"
    );
    assert!(text.contains(drv.output("doc").as_str()), "{text}");
}

#[test]
fn what_a_server_refuses_for_all_items_is_said_once() {
    let fixture = Fixture::with_network();
    let directory = fixture.site.path("closed");
    fs::create_dir(&directory).unwrap();
    let closed = WebServer::with(&directory, Protocol::Http, "location / { return 403; }");
    let store = store(&fixture.site);
    let items: Vec<_> = (0..30)
        .map(|number| item(&format!("item-{number}")).path(&store))
        .collect();
    let urls = format!("--substitute-urls={}", closed.address());
    let words = ["weather", &urls]
        .into_iter()
        .chain(items.iter().map(|item| item.as_str()));
    let run = fixture.run(&words.collect::<Vec<_>>());
    run.fails("");
    let text = run.text();
    let line = format!("{}: 30 of 30 items: HTTP status 403\n", closed.address());
    assert!(text.contains(&line), "{text}");
    assert_eq!(text.matches("403").count(), 1, "{text}");
    // All were asked for: it might have had another.
    assert_eq!(closed.log().len(), 30);
}

#[test]
fn a_build_in_a_pipe_prints_lines() {
    let site = Site::new().env("GUIX_FETCH", GUIX_FETCH);
    let publisher = Publisher::new(site.path("server"));
    publisher.authorise(&site.configuration());
    let server = WebServer::start(publisher.directory());
    let one = publisher.publish(&store(&site), &item("one"));
    let fixture = Fixture::at(site, &[&format!("--substitute-urls={}", server.address())]);
    let run = fixture.run(&["build", one.as_str()]);
    let looking = format!(
        "looking for substitutes on '{}'... 100.0%\n",
        server.address()
    );
    run.succeeds().says(&looking).says("downloaded one, ");
    assert!(!run.err.contains(['\x1b', '\r']), "{:?}", run.err);
    assert!(!run.err.contains("\n\n"), "{:?}", run.err);
}

#[test]
fn a_directory_is_a_server_too() {
    let fixture = Fixture::with_network();
    let publisher = Publisher::new(fixture.site.path("server"));
    publisher.authorise(&fixture.site.configuration());
    let one = publisher.publish(&store(&fixture.site), &item("one"));
    let urls = format!("--substitute-urls={}", publisher.url());
    fixture.run(&["weather", &urls, one.as_str()]).succeeds();
    // Without a daemon, as long as the servers are named.
    let mut command = fixture.command(&["weather", &urls, one.as_str()]);
    command.env("GUIX_DAEMON_SOCKET", "/nowhere/socket");
    fixture.finish(command).succeeds();
    let mut command = fixture.command(&["weather", one.as_str()]);
    command.env("GUIX_DAEMON_SOCKET", "/nowhere/socket");
    fixture.finish(command).fails("/nowhere/socket");
}

#[test]
fn the_check_of_the_set_up_tries_servers() {
    if !is_ours() {
        return;
    }
    let site = Site::new().env("GUIX_FETCH", GUIX_FETCH);
    let [believed, other] = ["believed", "other"].map(|name| Publisher::new(site.path(name)));
    for publisher in [&believed, &other] {
        let info = publisher.directory().join("nix-cache-info");
        fs::write(info, format!("StoreDir: {}\n", site.store().display())).unwrap();
    }
    let served = [&believed, &other].map(|publisher| WebServer::start(publisher.directory()));
    believed.authorise(&site.configuration());
    let foreign = Publisher::new(site.path("foreign"));
    let fixture = Fixture::at(site, &["--no-substitutes"]);
    let file = fixture.write("one", "x".repeat(3000));
    let added = fixture.run(&["add", file.to_str().unwrap()]).line();
    let store = store(&fixture.site);
    for publisher in [&believed, &other] {
        assert_eq!(publisher.publish(&store, &item("one")).as_str(), added);
    }
    let [first, second] = served.each_ref().map(WebServer::address);
    let urls = format!(
        "--substitute-urls={first} {second} {NOWHERE} {}",
        foreign.url()
    );
    let (_, out, _) = fixture.site.run(&["--check-setup", &urls]);
    let has = |text: &str| assert!(out.contains(text), "no `{text}': {out}");
    has(&format!("right  the substitute server `{first}' answers\n"));
    has(&format!(
        "right  `{first}' has 1 of 1 items tried, 1 signed by an authorised key\n"
    ));
    has(&format!(
        "note   `{second}' has 1 of 1 items tried, but they are not believed: the key "
    ));
    has(&format!(
        "WRONG  the substitute server `{NOWHERE}' does not answer: "
    ));
    has(&format!(
        "WRONG  the substitute server `{}' is for the store `/gnu/store'\n",
        foreign.url()
    ));
    has("right  the ACL accepts 1 key: ");
    // With Guix's program, too, ours asks.
    let (_, out, _) = fixture
        .site
        .run(&["--check-setup", "--fetcher=guix", &urls]);
    assert!(
        out.contains(&format!("right  the substitute server `{first}' answers\n")),
        "{out}"
    );
    // Not every server says which store it is for.
    fs::remove_file(believed.directory().join("nix-cache-info")).unwrap();
    let only = format!("--substitute-urls={first}");
    let (_, out, _) = fixture.site.run(&["--check-setup", &only]);
    let note = format!(
        "note   the substitute server `{first}' answers, but does not say which store it is for: HTTP \
         status 404 for `nix-cache-info'\n"
    );
    assert!(out.contains(&note), "{out}");
    assert!(
        out.contains("has 1 of 1 items tried, 1 signed by an authorised key\n"),
        "{out}"
    );
    let (_, out, _) = fixture.site.run(&["--check-setup"]);
    assert!(
        out.contains("note   substitute servers are tried if they are named\n"),
        "{out}"
    );
}

#[test]
fn findings_are_printed_when_they_are_known() {
    if !is_ours() {
        return;
    }
    let site = Site::new().env("GUIX_FETCH", GUIX_FETCH);
    // Whoever connects is never answered, until the listener is gone.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut command = site.command(program());
    command
        .args(["--check-setup", &format!("--substitute-urls={url}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut running = command.spawn().unwrap();
    let mut out = BufReader::new(running.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.contains("the store"), "{line}");
    // It has been asked, and still waits.
    let asked = silent.accept().unwrap();
    assert!(running.try_wait().unwrap().is_none());
    drop((silent, asked));
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let unanswered = format!("WRONG  the substitute server `{url}' does not answer: ");
    assert!(rest.contains(&unanswered), "{rest}");
    running.wait().unwrap();
}

#[test]
fn a_server_that_lies_has_nothing() {
    let fixture = Fixture::with_network();
    let publisher = Publisher::new(fixture.site.path("server"));
    publisher.authorise(&fixture.site.configuration());
    let store = store(&fixture.site);
    let other = item("other").path(&store);
    let one = publisher.publish_with(&store, &item("one"), |draft| {
        draft.store_path = format!("{other}\x1b[2J");
    });
    let urls = format!("--substitute-urls={}", publisher.url());
    let run = fixture.run(&["weather", &urls, one.as_str()]);
    run.fails("");
    let text = run.text();
    assert!(text.contains("narinfo of another item: "), "{text}");
    assert!(!text.contains('\x1b'), "{text:?}");
    let narinfo = format!("{}.narinfo", one.hash_part());
    fs::write(publisher.directory().join(narinfo), "nonsense").unwrap();
    let run = fixture.run(&["weather", &urls, one.as_str()]);
    run.fails("");
    assert!(run.text().contains("malformed narinfo"), "{}", run.text());
}

#[test]
fn what_keeps_it_from_asking_is_named() {
    let fixture = Fixture::with_network();
    let one = fixture.no_item("one");
    let run = |words: &[&str]| fixture.run(&[&["weather"], words].concat());
    run(&[]).fails("ITEM");
    run(&["nothing", "--substitute-urls=http://a"]).fails("`nothing'");
    run(&[&one, "--substitute-urls=gopher://a"]).fails("unsupported server URI scheme");
    run(&[&one, "--substitute-urls= "]).fails("name some with '--substitute-urls'");
    let missing = fixture.no_item("missing.drv");
    run(&[&missing, "--substitute-urls=http://a"]).fails("cannot read");
    let mut command = fixture.command(&["weather", &one, "--substitute-urls=http://127.0.0.1:9"]);
    command.env("GUIX_FETCH", "/nowhere/fetch");
    let run = fixture.finish(command);
    run.fails("");
    assert!(
        run.text().contains("/nowhere/fetch") || run.text().contains("cannot start"),
        "{run:#?}"
    );
}
