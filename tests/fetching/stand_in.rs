//! `guix-fetch substitute`, as Guix's own daemon uses it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use formats::{Hash, StoreDir, StorePath};
use substitutes::Compression;
use system::process::{Child, Spawn};

use crate::fixture::text_item;
use crate::harness::Site;
use crate::harness::substitutes::{Item, Publisher, Tree};
use crate::harness::web_server::WebServer;

/// A store without daemon, and a substitute server.
struct Place {
    site: Site,
    publisher: Publisher,
    server: WebServer,
}

impl Place {
    fn new() -> Place {
        let site = Site::new();
        let publisher = Publisher::new(site.path("server"));
        publisher.authorise(&site.configuration());
        let server = WebServer::start(publisher.directory());
        // The daemon has made these.
        for directory in ["store", "store/.links", "state/db"] {
            std::fs::create_dir_all(site.path(directory)).unwrap();
        }
        Place {
            site,
            publisher,
            server,
        }
    }

    fn store(&self) -> StoreDir {
        StoreDir::new(self.site.store().to_str().unwrap()).unwrap()
    }

    fn publish(&self, item: &Item) -> StorePath {
        self.publisher.publish(&self.store(), item)
    }

    /// Starts the program as the daemon does, with further settings.
    fn start(&self, mode: &str, settings: &str) -> Agent {
        let (request_reader, requests) = system::pipe::pipe().unwrap();
        let (replies, reply_writer) = system::pipe::pipe().unwrap();
        let log = self.site.path("log-of-agent");
        let log_file = || {
            File::options()
                .append(true)
                .create(true)
                .open(&log)
                .unwrap()
        };
        let options = format!("substitute-urls={}\n{settings}", self.server.address());
        let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
        let spawn = Spawn::new(program)
            .args(["substitute", mode])
            .env("_NIX_OPTIONS", options)
            .env("NIX_STORE_DIR", self.site.store())
            .env("GUIX_STATE_DIRECTORY", self.site.state())
            .env("GUIX_DATABASE_DIRECTORY", self.site.state().join("db"))
            .env("GUIX_CONFIGURATION_DIRECTORY", self.site.configuration())
            .fd(request_reader, 0)
            .fd(log_file(), 1)
            .fd(log_file(), 2)
            .fd(reply_writer, 4)
            .current_dir("/")
            .setsid();
        Agent {
            child: spawn.spawn().unwrap(),
            requests: requests.into(),
            replies: BufReader::new(replies.into()),
            log,
        }
    }
}

struct Agent {
    child: Child,
    requests: File,
    replies: BufReader<File>,
    log: PathBuf,
}

impl Agent {
    fn ask(&mut self, request: &str) {
        self.requests.write_all(request.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        line.pop();
        line
    }

    /// The lines up to an empty one.
    fn list(&mut self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.line()).filter(|line| !line.is_empty())).collect()
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Ends it as the daemon does.
    fn end(mut self) -> i32 {
        drop(self.requests);
        let mut rest = String::new();
        self.replies.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "");
        self.child.wait().unwrap().code().unwrap()
    }
}

#[test]
fn questions_are_answered_in_the_words_of_the_protocol() {
    let place = Place::new();
    let reference = place.publish(&text_item("reference", "x"));
    let item = text_item("item", "y").reference(&reference);
    let path = place.publish(&item);
    let missing = place
        .store()
        .join(&format!("{}-x", "1".repeat(32)))
        .unwrap();
    let mut agent = place.start("--query", "");
    agent.ask(&format!("have {path} {missing} \n"));
    assert_eq!(agent.list(), [path.as_str()]);
    agent.ask(&format!("info {path} {missing} \n"));
    let size = item.nar().len().to_string();
    assert_eq!(agent.line(), path.as_str());
    assert_eq!(
        [agent.line(), agent.line(), agent.line()],
        ["", "1", reference.as_str()]
    );
    let download: u64 = agent.line().parse().unwrap();
    assert!(download > 0);
    assert_eq!([agent.line(), agent.line()], [size.as_str(), ""]);
    let looking = format!(
        "looking for substitutes on '{}'... 100.0%\n",
        place.server.address()
    );
    assert!(agent.said().contains(&looking), "{}", agent.said());
    assert_eq!(agent.end(), 0);
}

#[test]
fn items_are_put_where_the_daemon_wants_them() {
    let place = Place::new();
    let tree = Tree::directory([("f", Tree::file("x".repeat(100_000)))]);
    let item = Item::new("item", tree).compressed(&[Compression::Lzip]);
    let path = place.publish(&item);
    let mut agent = place.start(
        "--substitute",
        "print-extended-build-trace=1\ndeduplicate=no",
    );
    let repaired = place
        .store()
        .join(&format!("{}.tmp", path.base_name()))
        .unwrap();
    let hash = Hash::sha256(item.nar());
    for destination in [&path, &repaired] {
        agent.ask(&format!("substitute {path} {destination}\n"));
        let success = format!("success sha256:{} {}", hash.base32(), item.nar().len());
        assert_eq!(agent.line(), success);
        let file = destination.as_path().join("f");
        assert_eq!(std::fs::read(file).unwrap(), "x".repeat(100_000).as_bytes());
    }
    let started = format!(
        "@ download-started {path} {}",
        place.server.url("nar/lzip/")
    );
    assert!(agent.said().contains(&started), "{}", agent.said());
    assert_eq!(agent.end(), 0);
}

#[test]
fn lies_are_refused_and_leave_nothing() {
    let place = Place::new();
    let item = Item::new("item", Tree::file("x".repeat(10_000))).compressed(&[Compression::None]);
    let path = place.publish(&item);
    let mut nar = item.nar().to_vec();
    nar[500] ^= 1;
    let name = format!("nar/{}", path.base_name());
    place.publisher.write_nar(&name, &nar, Compression::None);
    let mut agent = place.start("--substitute", "");
    agent.ask(&format!("substitute {path} {path}\n"));
    let [expected, actual] =
        [Hash::sha256(item.nar()), Hash::sha256(&nar)].map(|hash| hash.base32());
    assert_eq!(
        agent.line(),
        format!("hash-mismatch sha256 {expected} {actual}")
    );
    // It serves on.
    std::fs::remove_file(place.publisher.directory().join(name)).unwrap();
    agent.ask(&format!("substitute {path} {path}\n"));
    assert_eq!(agent.line(), "not-found");
    // Another item's narinfo under this one's name.
    let old = place.publish(&text_item("old", "old"));
    let of = |path: &StorePath| {
        let name = format!("{}.narinfo", path.hash_part());
        place.publisher.directory().join(name)
    };
    let other = place
        .store()
        .join(&format!("{}-other", "2".repeat(32)))
        .unwrap();
    std::fs::copy(of(&old), of(&other)).unwrap();
    agent.ask(&format!("substitute {other} {other}\n"));
    assert_eq!(agent.line(), "");
    assert!(
        agent.said().contains("no valid substitute for"),
        "{}",
        agent.said()
    );
    assert_eq!(agent.end(), 1);
    let names = std::fs::read_dir(place.site.store()).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [".links"]);
}

#[test]
fn anything_else_is_refused() {
    let place = Place::new();
    let mut agent = place.start("--query", "");
    agent.ask("hello\n");
    assert_eq!(agent.end(), 1);
    let agent = place.start("--everything", "");
    assert!(agent.replies.get_ref().metadata().is_ok());
    assert_eq!(agent.end(), 1);
}
