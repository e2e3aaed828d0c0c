//! Substitutes from real web servers, by the program that is installed.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;

use formats::StorePath;
use gcrypt::Acl;
use substitutes::Compression;

use crate::fixture::{Fixture, free_port, text_item, write_script};
use crate::harness::substitutes::{Item, Publisher, Tree};
use crate::harness::web_server::{Protocol, WebServer};
use crate::harness::{Site, eventually};
use crate::network::fixture::noise;

/// A daemon with our program, and these substitute servers, of which `PUBLISHER` is a web server that
/// serves what the fixture publishes.
fn with(site: Site, urls: &str, options: &[&str]) -> (Fixture, WebServer) {
    let directory = site.path("server");
    fs::create_dir_all(&directory).unwrap();
    let server = WebServer::start(&directory);
    let urls = urls.replace("PUBLISHER", server.address());
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let fixture = Fixture::with(site, program, &urls, options);
    (fixture, server)
}

/// What makes nginx slow.
const SLOW: &str = "limit_rate 200k;";

/// A daemon with our program, and a web server that serves what the fixture publishes, with these
/// directives of nginx.
fn with_nginx(directives: &str) -> (Fixture, WebServer) {
    let site = Site::new();
    let directory = site.path("server");
    fs::create_dir_all(&directory).unwrap();
    let server = WebServer::with(&directory, Protocol::Http, directives);
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let fixture = Fixture::with(site, program, server.address(), &[]);
    (fixture, server)
}

/// A tree of some files.
fn tree(size: usize) -> Tree {
    let contents: Vec<u8> = (0..size).map(|n| (n * n % 251) as u8).collect();
    Tree::directory([
        ("empty", Tree::file("")),
        ("file", Tree::file(contents)),
        ("link", Tree::Link("file".to_owned())),
    ])
}

#[test]
fn items_come_in_every_compression_and_the_daemon_has_one_program() {
    let (fixture, server) = with(Site::new(), "PUBLISHER", &[]);
    let mut paths = Vec::new();
    for compression in Compression::ALL {
        let name = format!("item-{compression}");
        let item = Item::new(&name, tree(1_000_000)).compressed(&[compression]);
        paths.push(fixture.publish(&item));
    }
    let mut client = fixture.client();
    client.set(|_| ());
    let wanted: Vec<&StorePath> = paths.iter().collect();
    let done = client.build(&wanted);
    done.succeeded();
    for path in &paths {
        done.said(&format!("@ download-started {path} {}", server.url("nar/")));
        done.said(&format!(
            "@ download-succeeded {path} {}",
            server.url("nar/")
        ));
    }
    done.said(&format!(
        "substitute: \x1b[Klooking for substitutes on '{}'... 100.0%\n",
        server.address()
    ));
    fixture.assert_holds(&paths);
    assert!(!client.0.verify_store(true, false).unwrap());
    // Another session uses the same connections.
    let connections = server.connections();
    assert!(connections < server.log().len());
    let later = fixture.publish(&text_item("later", "x"));
    fixture.client().ensure(&later).succeeded();
    assert_eq!(server.connections(), connections, "{:#?}", server.log());
}

#[test]
fn servers_that_cannot_be_reached_are_named_once_and_others_asked() {
    let port = free_port();
    let urls = format!("http://127.0.0.1:{port} http://no-such-host.invalid PUBLISHER");
    let (fixture, _server) = with(Site::new(), &urls, &[]);
    let first = fixture.publish(&text_item("first", "1"));
    let second = fixture.publish(&text_item("second", "2").reference(&first));
    let mut client = fixture.client();
    client.set(|_| ());
    let done = client.ensure(&second);
    done.succeeded();
    done.said(&format!(
        "substitute: 127.0.0.1:{port}: connection failed: "
    ));
    done.said("substitute: no-such-host.invalid: host not found: ");
    assert_eq!(done.log.matches(": host not found: ").count(), 1);
    fixture.assert_holds([&first, &second]);
}

#[test]
fn a_busy_server_is_no_server_without_the_item() {
    // Busy as long as this file is there.
    const BUSY: &str = "add_header Retry-After 0 always;
    location ~ narinfo$ {
        if (-f $document_root/busy) { return 503; }
        error_page 503 /busy;
    }";
    let (fixture, server) = with_nginx(BUSY);
    let busy = fixture.site.path("server/busy");
    fs::write(&busy, "").unwrap();
    let path = fixture.publish(&text_item("x", "text"));
    let mut client = fixture.client();
    client.set(|_| ());
    let done = client.ensure(&path);
    done.failed();
    let host = server.address().trim_start_matches("http://");
    done.said(&format!(
        "substitute: {host}: the server is busy: HTTP status 503\n"
    ));
    // It was asked a few times.
    assert!(eventually(|| server.log().len() >= 4));
    assert_eq!(server.log().len(), 4);
    // It is not taken for an answer by those who ask later.
    fs::remove_file(busy).unwrap();
    let mut client = fixture.client();
    assert_eq!(client.substitutable(&[&path]), [path.clone()].into());
    client.ensure(&path).succeeded();
    fixture.assert_holds([&path]);
}

#[test]
fn from_a_slow_server_small_files_are_fetched() {
    let (fixture, server) = with_nginx(SLOW);
    let mut client = fixture.client();
    // The first one shows how slow the server is, the second one shows nothing.
    for (name, size, fetched) in [("a", 400_000, "zstd"), ("b", 10, "lzip"), ("c", 10, "lzip")] {
        let item = Item::new(name, Tree::file(noise(size)));
        let item = item.compressed(&[Compression::Zstd, Compression::Lzip]);
        let path = fixture.publish_with(&item, |draft| {
            // zstd makes larger files of larger contents.
            for file in &mut draft.files {
                file.size = Some(if file.compression == "zstd" {
                    1000
                } else {
                    900
                });
            }
        });
        client.ensure(&path).succeeded();
        let nar = format!("GET /nar/{fetched}/{} ", path.base_name());
        let log = server.log();
        assert!(log.last().unwrap().contains(&nar), "{log:#?}");
    }
}

#[test]
fn clients_that_want_no_traces_see_how_a_download_goes_on() {
    let (fixture, server) = with_nginx(SLOW);
    let item = Item::new("x", Tree::file(noise(400_000))).compressed(&[Compression::None]);
    let path = fixture.publish(&item);
    let mut client = fixture.client();
    client.set(|options| options.set("print-extended-build-trace", "0"));
    let done = client.ensure(&path);
    done.succeeded();
    done.said(&format!("Downloading {}/nar/", server.address()));
    done.said("\r\u{1b}[K x      0.");
    done.said(" MiB/s 100.0%\n\n");
    done.did_not_say("@ download-");
}

/// The ACL counts as it is at each request, and one that fetches goes on with the one it began with.
#[test]
fn an_acl_may_be_rewritten_at_any_time() {
    let (fixture, server) = with_nginx(SLOW);
    let configuration = fixture.site.configuration();
    let large = Item::new("x", Tree::file(noise(600_000))).compressed(&[Compression::None]);
    let large = fixture.publish(&large);
    let small = fixture.publish(&text_item("small", "text"));
    let mut client = fixture.client();
    assert_eq!(client.substitutable(&[&small]), [small.clone()].into());
    let done = thread::scope(|scope| {
        let fetching = scope.spawn(|| fixture.client().ensure(&large));
        // The item is locked once it was found, and before it is fetched.
        let lock = format!("{large}.lock");
        assert!(eventually(|| Path::new(&lock).exists()));
        Acl::default().save(&configuration).unwrap();
        assert_eq!(client.substitutable(&[&small]), [].into());
        assert!(!fetching.is_finished());
        fetching.join().unwrap()
    });
    done.succeeded();
    // Where nobody is authorised, nobody is asked, and the client is told why.
    // The server notes a request when it has answered it: those of two narinfos, and of a nar.
    assert!(eventually(|| server.log().len() == 3));
    let asked = server.log().len();
    let mut later = fixture.client();
    later.set(|_| ());
    let done = later.ensure(&small);
    done.failed();
    done.said("substitute: warning: ACL for archive imports seems to be uninitialized");
    assert_eq!(server.log().len(), asked);
    fixture.publisher.authorise(&configuration);
    assert_eq!(client.substitutable(&[&small]), [small.clone()].into());
    later.ensure(&small).succeeded();
    fixture.assert_holds([&large, &small]);
}

#[test]
fn without_any_server_the_request_goes_on() {
    let port = free_port();
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let urls = format!("http://127.0.0.1:{port}");
    let fixture = Fixture::with(Site::new(), program, &urls, &[]);
    let path = fixture
        .store()
        .join(&format!("{}-x", "1".repeat(32)))
        .unwrap();
    let mut client = fixture.client();
    assert_eq!(client.substitutable(&[&path]), [].into());
    // An item that can't be had is no failed build.
    client.build(&[&path]).succeeded();
    client.ensure(&path).failed();
}

#[test]
fn what_one_server_lacks_another_delivers() {
    let site = Site::new();
    let broken = Publisher::new(site.path("broken"));
    broken.authorise(&site.configuration());
    let server = WebServer::start(broken.directory());
    let (fixture, other) = with(site, &format!("{} PUBLISHER", server.address()), &[]);
    let item = Item::new("x", tree(500_000)).compressed(&[Compression::Zstd, Compression::Gzip]);
    // It announces the item, and has other contents, or none.
    let path = broken.publish(&fixture.store(), &item);
    fixture.publish(&item);
    let liar = Item::new("x", tree(500_001));
    broken.write_nar(
        &format!("nar/zstd/{}", path.base_name()),
        liar.nar(),
        Compression::Zstd,
    );
    fs::remove_file(
        broken
            .directory()
            .join(format!("nar/gzip/{}", path.base_name())),
    )
    .unwrap();
    let mut client = fixture.client();
    client.set(|_| ());
    let done = client.ensure(&path);
    done.succeeded();
    done.said(&format!("download from '{}", server.url("nar/")));
    done.said("with other substitute URLs...");
    done.said(&format!(
        "@ download-succeeded {path} {}",
        other.url("nar/")
    ));
    fixture.assert_holds([&path]);
}

#[test]
fn a_server_that_lies_alone_is_a_hash_mismatch() {
    let (fixture, _server) = with(Site::new(), "PUBLISHER", &[]);
    let item = Item::new("x", tree(100_000)).compressed(&[Compression::None]);
    let path = fixture.publish(&item);
    let mut nar = item.nar().to_vec();
    let middle = nar.len() / 2;
    nar[middle] ^= 1;
    let name = format!("nar/{}", path.base_name());
    fixture.publisher.write_nar(&name, &nar, Compression::None);
    let mut client = fixture.client();
    client.set(|_| ());
    let done = client.ensure(&path);
    done.failed();
    done.said(&format!("@ hash-mismatch {path} sha256 "));
    fixture.assert_holds([]);
    // A nar that is none.
    fixture
        .publisher
        .write_nar(&name, &vec![0; nar.len()], Compression::None);
    let done = client.ensure(&path);
    done.failed();
    done.said("corrupt input while restoring");
    fixture.assert_holds([]);
}

#[test]
fn a_directory_of_this_machine_is_a_server() {
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let site = Site::new();
    let url = format!("file://{}", site.path("server").display());
    let fixture = Fixture::with(site, program, &url, &[]);
    let item = Item::new("x", tree(100_000)).compressed(&[Compression::Zstd]);
    let path = fixture.publish(&item);
    fixture.client().ensure(&path).succeeded();
    fixture.assert_holds([&path]);
}

#[test]
fn a_certificate_that_nobody_signed_is_good_enough() {
    let site = Site::new();
    fs::create_dir_all(site.path("server")).unwrap();
    let server = WebServer::with(&site.path("server"), Protocol::Http2, "");
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let fixture = Fixture::with(site, program, server.address(), &[]);
    let path = fixture.publish(&text_item("x", "text"));
    fixture.client().ensure(&path).succeeded();
    fixture.assert_holds([&path]);
}

#[test]
fn discovered_servers_come_first_and_need_signatures() {
    let site = Site::new();
    fs::create_dir_all(site.path("state/discover")).unwrap();
    let foreign = Publisher::new(site.path("foreign"));
    let server = WebServer::start(foreign.directory());
    let lines = format!("{}\n", server.address());
    fs::write(site.path("state/discover/publish"), lines).unwrap();
    let (fixture, _other) = with(site, "PUBLISHER", &[]);
    let path = foreign.publish(&fixture.store(), &text_item("x", "text"));
    let mut client = fixture.client();
    client.set(|options| options.set("discover", "true"));
    assert_eq!(client.substitutable(&[&path]), [].into());
    foreign.authorise(&fixture.site.configuration());
    assert_eq!(client.substitutable(&[&path]), [path.clone()].into());
    client.set(|options| options.set("discover", "false"));
    assert_eq!(client.substitutable(&[&path]), [].into());
}

#[test]
fn a_server_that_hangs_ends_when_the_client_leaves() {
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let urls = format!("http://{}", listener.local_addr().unwrap());
    let fixture = Fixture::with(Site::new(), program, &urls, &[]);
    let path = fixture
        .store()
        .join(&format!("{}-x", "1".repeat(32)))
        .unwrap();
    let stream = fixture.daemon.connect();
    let mut client = fixture.client_over(stream.try_clone().unwrap());
    let thread = std::thread::spawn(move || client.ensure(&path));
    // The server is asked, and says nothing.
    let (connection, _) = listener.accept().unwrap();
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    thread.join().unwrap().failed();
    // The daemon hangs up there, too.
    let _ = std::io::copy(&mut &connection, &mut std::io::sink());
}

/// A network program that adds a line to the file `starts` of the site when it is started.
fn counted(site: &Site) -> PathBuf {
    let script = site.path("counted-fetch");
    let command = format!(
        "echo started >>'{}'; exec '{}' \"$@\"",
        site.path("starts").display(),
        env!("CARGO_BIN_EXE_guix-fetch")
    );
    write_script(&script, &command);
    script
}

#[test]
fn the_program_stands_ready_before_the_first_question() {
    let site = Site::new();
    let directory = site.path("server");
    fs::create_dir_all(&directory).unwrap();
    let server = WebServer::start(&directory);
    let program = counted(&site);
    let fixture = Fixture::with(site, &program, server.address(), &[]);
    let starts = || fs::read_to_string(fixture.site.path("starts")).unwrap_or_default();
    let mut client = fixture.client();
    let is_started = || !starts().is_empty();
    (fixture.daemon).wait_until(is_started, "to start the network program");
    let path = fixture.publish(&text_item("item", "text"));
    client.ensure(&path).succeeded();
    fixture.client().ensure(&path).succeeded();
    assert_eq!(starts(), "started\n");
}

#[test]
fn a_program_that_would_have_nothing_to_do_is_not_started() {
    for (urls, options) in [
        ("http://127.0.0.1:1", &["--no-substitutes"][..]),
        ("file:///nonexistent", &[]),
        ("", &[]),
    ] {
        let site = Site::new();
        let program = counted(&site);
        let fixture = Fixture::with(site, &program, urls, options);
        let unknown = (fixture.store()).join("0mgxsakkancy2iry6pj8hwcmlbmjbamn-x");
        let mut client = fixture.client();
        assert!(!client.0.is_valid_path(&unknown.unwrap()).unwrap());
        drop(client);
        let Fixture { daemon, site, .. } = fixture;
        daemon.kill();
        assert!(!site.path("starts").exists(), "{urls} {options:?}");
    }
}
