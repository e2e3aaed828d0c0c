//! `guix-fetch substitute`, spoken to as Guix's daemon speaks to `guix substitute`
//! (`doc/spec/substitutes.md`, sections 1 and 2).

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use formats::{Hash, StoreDir, StorePath};
use gcrypt::Acl;
use nix::sys::signal::Signal;
use substitutes::Compression;
use system::clock::unix_time;
use system::poll::wait_readable;
use system::process::{Child, Spawn};

use crate::fixture::{free_port, text_item};
use crate::harness::substitutes::{Draft, Item, Publisher, Tree};
use crate::harness::web_server::{Protocol, WebServer};
use crate::harness::{Site, TEST_TIMEOUT, eventually};

/// The directories of a daemon that isn't ours, and a web server with items for it.
struct Setting {
    site: Site,
    publisher: Publisher,
    server: WebServer,
}

impl Setting {
    fn new() -> Setting {
        Setting::with("")
    }

    /// With directives for the web server.
    fn with(directives: &str) -> Setting {
        let site = Site::new();
        fs::create_dir(site.store()).unwrap();
        let publisher = Publisher::new(site.path("server"));
        publisher.authorise(&site.configuration());
        let server = WebServer::with(publisher.directory(), Protocol::Http, directives);
        Setting {
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

    /// An item that nobody has.
    fn missing(&self) -> StorePath {
        self.store().join(&format!("{}-x", "0".repeat(32))).unwrap()
    }

    /// An agent that asks the web server.
    fn start(&self, mode: &str) -> Agent {
        self.start_with(
            mode,
            &format!("substitute-urls={}\n", self.server.address()),
        )
    }

    /// An agent with these settings, besides those that all have.
    fn start_with(&self, mode: &str, options: &str) -> Agent {
        let options = format!("build-cores=1\nprint-extended-build-trace=1\n{options}");
        Agent::start(&self.site, mode, &options)
    }

    /// What is in the store but `.links`.
    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.site.store()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name != ".links").collect()
    }
}

/// A running agent.
struct Agent {
    child: Child,
    requests: Option<File>,
    replies: BufReader<File>,
    log: PathBuf,
    /// The other end of its standard output, where it writes nothing.
    output: OwnedFd,
}

impl Agent {
    fn start(site: &Site, mode: &str, options: &str) -> Agent {
        let (request_reader, request_writer) = system::pipe::pipe().unwrap();
        let (reply_reader, reply_writer) = system::pipe::pipe().unwrap();
        let (output, output_writer) = system::pipe::pipe().unwrap();
        let log = site.path(format!("log{mode}"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let command = site.command(env!("CARGO_BIN_EXE_guix-fetch"));
        let mut program = Spawn::new(command.get_program())
            .args(["substitute", mode])
            .env("_NIX_OPTIONS", options)
            .fd(request_reader, 0)
            .fd(output_writer, 1)
            .fd(file, 2)
            .fd(reply_writer, 4)
            .current_dir("/")
            .setsid();
        for (name, value) in command.get_envs() {
            program = program.env(name, value.unwrap_or_default());
        }
        Agent {
            child: program.spawn().unwrap(),
            requests: Some(request_writer.into()),
            replies: BufReader::new(reply_reader.into()),
            log,
            output,
        }
    }

    fn ask(&mut self, request: &str) {
        let mut requests = self.requests.as_ref().unwrap();
        requests.write_all(request.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        line
    }

    /// The lines of a reply up to the empty one.
    fn reply(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            assert!(line.ends_with('\n'), "{lines:#?} {line:?} {}", self.log());
            if line == "\n" {
                return lines;
            }
            lines.push(line.trim_end().to_owned());
        }
    }

    fn have(&mut self, paths: &[&StorePath]) -> Vec<String> {
        self.ask(&format!("have {}\n", words(paths)));
        let mut lines = self.reply();
        lines.sort();
        lines
    }

    fn info(&mut self, paths: &[&StorePath]) -> Vec<String> {
        self.ask(&format!("info {}\n", words(paths)));
        self.infos()
    }

    /// The lines of what is known of items; an item without a deriver has an empty one.
    fn infos(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let path = self.line();
            assert!(path.ends_with('\n'), "{lines:#?} {path:?} {}", self.log());
            if path == "\n" {
                return lines;
            }
            let (deriver, count) = (self.line(), self.line());
            let rest = count.trim_end().parse::<usize>().unwrap() + 2;
            lines.extend([path, deriver, count]);
            lines.extend((0..rest).map(|_| self.line()));
            lines
                .iter_mut()
                .for_each(|line| line.truncate(line.trim_end().len()));
        }
    }

    /// Fetches an item to its path.
    fn substitute(&mut self, path: &StorePath) -> String {
        self.ask(&format!("substitute {path} {path}\n"));
        self.line()
    }

    /// No more requests: how it ends.
    fn end(&mut self) -> ExitStatus {
        self.requests = None;
        self.child.wait().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    fn said(&self, text: &str) {
        assert!(self.log().contains(text), "no `{text}': {}", self.log());
    }
}

/// Each path, with a blank after it.
fn words(paths: &[&StorePath]) -> String {
    paths.iter().map(|path| format!("{path} ")).collect()
}

/// The status of an item that is right.
fn success(item: &Item) -> String {
    let hash = Hash::sha256(item.nar()).base32();
    format!("success sha256:{hash} {}\n", item.nar().len())
}

fn plain(name: &str, text: &str) -> Item {
    text_item(name, text).compressed(&[Compression::None])
}

/// A tree with everything that one can have.
fn tree() -> Tree {
    let program = Tree::File {
        executable: true,
        contents: b"#!".to_vec(),
    };
    Tree::directory([
        ("deep", Tree::directory([("program", program)])),
        ("large", Tree::file(vec![b'x'; 300_000])),
        ("link", Tree::Link("deep".to_owned())),
    ])
}

#[test]
fn queries_are_answered_in_the_form_that_guix_has() {
    let setting = Setting::new();
    let text = plain("text", "text");
    let text_path = setting.publish(&text);
    let deriver = setting
        .store()
        .join(&format!("{}-user.drv", "1".repeat(32)))
        .unwrap();
    let user = plain("user", "user")
        .reference(&text_path)
        .deriver(&deriver);
    let user_path = setting.publish(&user);
    let missing = setting.missing();
    let mut agent = setting.start("--query");
    let mut both = [text_path.to_string(), user_path.to_string()];
    both.sort();
    assert_eq!(agent.have(&[&missing, &user_path, &text_path]), both);
    let size = |item: &Item| item.nar().len().to_string();
    assert_eq!(
        agent.info(&[&user_path, &missing, &text_path]),
        [
            user_path.as_str(),
            deriver.as_str(),
            "1",
            text_path.as_str(),
            &size(&user),
            &size(&user),
            text_path.as_str(),
            "",
            "0",
            &size(&text),
            &size(&text),
        ]
    );
    assert_eq!(agent.have(&[]), [""; 0]);
    agent.said(&format!(
        "\x1b[Klooking for substitutes on '{}'... 100.0%\n",
        setting.server.address()
    ));
    assert!(agent.end().success());
}

#[test]
fn a_closure_is_looked_up_with_its_first_item() {
    let setting = Setting::new();
    let mut paths: Vec<StorePath> = Vec::new();
    for number in 0..20 {
        let mut item = plain(&format!("item-{number}"), &number.to_string());
        if let Some(last) = paths.last() {
            item = item.reference(last);
        }
        paths.push(setting.publish(&item));
    }
    // What is in the store is not looked up, nor what only that refers to.
    fs::write(&paths[9], "").unwrap();
    let mut agent = setting.start("--query");
    assert_eq!(agent.info(&[&paths[19]])[0], paths[19].as_str());
    let asked = setting.server.log().len();
    assert_eq!(asked, 10);
    for path in &paths[11..19] {
        assert_eq!(agent.info(&[path])[0], path.as_str());
    }
    // Another process of the daemon finds them in the cache, too.
    let mut agent = setting.start("--substitute");
    assert!(agent.substitute(&paths[19]).starts_with("success"));
    assert_eq!(setting.server.log().len(), asked + 1);
}

#[test]
fn items_arrive_whole_with_the_metadata_of_items() {
    let setting = Setting::new();
    let mut agent = setting.start("--substitute");
    for compression in Compression::ALL {
        let item = Item::new(&format!("item-{compression}"), tree()).compressed(&[compression]);
        let path = setting.publish(&item);
        assert_eq!(agent.substitute(&path), success(&item), "{}", agent.log());
        let mode = |name: &str| {
            let metadata = fs::symlink_metadata(path.as_path().join(name)).unwrap();
            assert_eq!(
                (metadata.mtime(), metadata.nlink() > 2),
                (1, false),
                "{name}"
            );
            metadata.permissions().mode() & 0o7777
        };
        assert_eq!([mode("deep/program"), mode("large")], [0o555, 0o444]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o555);
        assert_eq!(fs::metadata(&path).unwrap().mtime(), 1);
        mode("link");
        assert_eq!(
            fs::read_link(path.as_path().join("link")).unwrap(),
            Path::new("deep")
        );
        assert_eq!(
            fs::read(path.as_path().join("large")).unwrap(),
            vec![b'x'; 300_000]
        );
        let url = setting.server.url("nar/");
        agent.said(&format!("@ download-started {path} {url}"));
        agent.said(&format!("@ download-succeeded {path} {url}"));
    }
    assert_eq!(setting.names().len(), Compression::ALL.len());
    // What protected the items while they were unpacked is gone, even if the daemon now kills it.
    let roots = fs::read_dir(setting.site.state().join("temproots")).unwrap();
    assert_eq!(roots.count(), 0);
    assert!(agent.end().success());
}

#[test]
fn a_damaged_item_is_fetched_to_another_place() {
    let setting = Setting::new();
    let item = plain("x", "text");
    let path = setting.publish(&item);
    fs::write(&path, "damaged").unwrap();
    let mut agent = setting.start("--substitute");
    agent.ask(&format!("substitute {path} {path}.tmp\n"));
    assert_eq!(agent.line(), success(&item));
    assert_eq!(fs::read_to_string(&path).unwrap(), "damaged");
    assert_eq!(fs::read_to_string(format!("{path}.tmp")).unwrap(), "text");
}

#[test]
fn deduplication_is_the_daemons_to_decide() {
    for (options, links) in [("deduplicate=yes\n", 3), ("deduplicate=no\n", 1), ("", 1)] {
        let setting = Setting::new();
        let contents = "x".repeat(10_000);
        let tree = Tree::directory([("a", Tree::file(&contents)), ("b", Tree::file(&contents))]);
        let path = setting.publish(&Item::new("x", tree));
        let urls = format!("substitute-urls={}\n{options}", setting.server.address());
        let mut agent = setting.start_with("--substitute", &urls);
        assert!(agent.substitute(&path).starts_with("success "));
        let file = path.as_path().join("a");
        assert_eq!(fs::metadata(file).unwrap().nlink(), links, "{options}");
    }
}

#[test]
fn after_a_lie_nothing_is_there_and_the_next_request_is_served() {
    let setting = Setting::new();
    let good = plain("good", "good");
    let good_path = setting.publish(&good);
    let item = plain("x", "text");
    let path = setting.publish(&item);
    let name = format!("nar/{}", path.base_name());
    let write = |nar: &[u8]| setting.publisher.write_nar(&name, nar, Compression::None);
    let mut agent = setting.start("--substitute");
    // Another file of the same size.
    let other = plain("x", "lies");
    write(other.nar());
    let hashes = [&item, &other].map(|item| Hash::sha256(item.nar()).base32());
    assert_eq!(
        agent.substitute(&path),
        format!("hash-mismatch sha256 {} {}\n", hashes[0], hashes[1])
    );
    // No nar, part of one, none at all.
    for nar in [&[0; 4096][..], &item.nar()[..50], b""] {
        write(nar);
        assert_eq!(agent.substitute(&path), "not-found\n");
    }
    fs::remove_file(setting.publisher.directory().join(&name)).unwrap();
    assert_eq!(agent.substitute(&path), "not-found\n");
    agent.said("guix substitute: warning: download from 'http://127.0.0.1:");
    agent.said(&format!(
        "retrying download of '{path}' with other substitute URLs...\n"
    ));
    assert_eq!(agent.substitute(&setting.missing()), "not-found\n");
    agent.said(&format!(
        "guix substitute: error: no valid substitute for '{}'\n",
        setting.missing()
    ));
    assert_eq!(setting.names(), [""; 0]);
    assert_eq!(agent.substitute(&good_path), success(&good));
    write(item.nar());
    assert_eq!(agent.substitute(&path), success(&item));
    assert!(agent.end().success());
}

#[test]
fn a_narinfo_of_another_item_is_none() {
    let setting = Setting::new();
    let old = plain("program-1", "vulnerable");
    let old_path = setting.publish(&old);
    let new_path = plain("program-2", "mended").path(&setting.store());
    // What the publisher has signed, under another name, and what is signed of something else.
    let directory = setting.publisher.directory();
    let name = |path: &StorePath| directory.join(format!("{}.narinfo", path.hash_part()));
    fs::copy(name(&old_path), name(&new_path)).unwrap();
    let mut agent = setting.start("--query");
    assert_eq!(agent.have(&[&new_path]), [""; 0]);
    assert_eq!(agent.info(&[&new_path]), [""; 0]);
    let mut agent = setting.start("--substitute");
    assert_eq!(agent.substitute(&new_path), "not-found\n");
    assert_eq!(setting.names(), [""; 0]);
}

#[test]
fn files_of_this_machine_are_not_fetched_for_a_server() {
    let setting = Setting::new();
    let item = plain("x", "text");
    let secret = setting.site.path("secret");
    fs::write(&secret, item.nar()).unwrap();
    let path = setting
        .publisher
        .publish_with(&setting.store(), &item, |draft| {
            draft.files[0].url = format!("file://{}", secret.display());
        });
    let mut agent = setting.start("--substitute");
    assert_eq!(agent.substitute(&path), "not-found\n");
    assert_eq!(setting.names(), [""; 0]);
    // Nor may a user name a directory as a server.
    let urls = format!("untrusted-substitute-urls={}\n", setting.publisher.url());
    let mut agent = setting.start_with("--query", &urls);
    assert_eq!(agent.end().code(), Some(1));
    agent.said("only the administrator can name a directory as a substitute server");
    let urls = format!("substitute-urls={}\n", setting.publisher.url());
    let path = setting.publish(&item);
    let mut agent = setting.start_with("--query", &urls);
    assert_eq!(agent.have(&[&path]), [path.as_str()]);
}

#[test]
fn the_acl_counts_as_it_is_at_each_request() {
    let setting = Setting::new();
    let path = setting.publish(&plain("x", "text"));
    let configuration = setting.site.configuration();
    let mut agent = setting.start("--query");
    let mut fetching = setting.start("--substitute");
    assert_eq!(agent.have(&[&path]), [path.as_str()]);
    Acl::default().save(&configuration).unwrap();
    assert_eq!(agent.have(&[&path]), [""; 0]);
    assert_eq!(fetching.substitute(&path), "not-found\n");
    // An agent that finds nobody authorised says so, and asks nobody.
    let asked = setting.server.log().len();
    let mut later = setting.start("--query");
    assert_eq!(later.have(&[&path]), [""; 0]);
    later.said(
        "guix substitute: warning: ACL for archive imports seems to be uninitialized, \
         substitutes may be unavailable\n",
    );
    assert_eq!(setting.server.log().len(), asked);
    setting.publisher.authorise(&configuration);
    assert_eq!(agent.have(&[&path]), [path.as_str()]);
    assert!(fetching.substitute(&path).starts_with("success "));
}

#[test]
fn what_was_said_of_an_item_holds_until_it_is_fetched() {
    let setting = Setting::with("add_header Cache-Control max-age=0;");
    let item = plain("x", "first");
    let path = setting.publish(&item);
    let mut agent = setting.start("--query");
    assert_eq!(agent.info(&[&path])[2], "0");
    let answered = unix_time();
    // Something else, as validly signed, with a reference that the daemon was not told of.
    let other = plain("x", "second").reference(&setting.missing());
    let changed = |draft: &mut Draft| {
        draft.hash_part = path.hash_part().to_owned();
        draft.store_path = path.to_string();
    };
    (setting.publisher).publish_with(&setting.store(), &other, changed);
    assert!(eventually(|| unix_time() > answered));
    let mut fetching = setting.start("--substitute");
    assert_eq!(fetching.substitute(&path), success(&item));
}

/// A stand-in that has begun to fetch an item, from a server that would take minutes.
fn in_mid_item() -> (Setting, Agent, StorePath) {
    let setting = Setting::with("limit_rate 100k;");
    let item = Item::new("x", Tree::file(vec![b'x'; 32 << 20])).compressed(&[Compression::None]);
    let path = setting.publish(&item);
    let mut agent = setting.start("--substitute");
    agent.ask(&format!("substitute {path} {path}\n"));
    assert!(
        eventually(|| !setting.names().is_empty()),
        "{}",
        agent.log()
    );
    (setting, agent, path)
}

#[test]
fn one_that_is_killed_in_mid_item_leaves_nothing_at_the_items_path() {
    let (setting, mut agent, path) = in_mid_item();
    agent.child.signal(Signal::SIGKILL).unwrap();
    agent.child.wait().unwrap();
    assert_eq!(agent.line(), "");
    let names = setting.names();
    assert!(!names.contains(&path.base_name().to_owned()), "{names:?}");
    // Its network program ends with it: that has the same output.
    assert!(wait_readable(&agent.output, Some(TEST_TIMEOUT)).unwrap());
}

#[test]
fn it_ends_when_the_daemon_has_closed_its_pipe() {
    let (setting, mut agent, _) = in_mid_item();
    let (reader, _) = system::pipe::pipe().unwrap();
    agent.replies = BufReader::new(reader.into());
    assert_eq!(agent.child.wait().unwrap().code(), Some(1));
    assert_eq!(setting.names(), [""; 0]);
}

#[test]
fn servers_that_cannot_be_reached_are_warned_of_and_others_asked() {
    let setting = Setting::new();
    let path = setting.publish(&plain("x", "text"));
    let port = free_port();
    let urls = format!(
        "untrusted-substitute-urls=http://127.0.0.1:{port} http://no-such-host.invalid {}\n\
         substitute-urls=rubbish\n",
        setting.server.address()
    );
    let mut agent = setting.start_with("--query", &urls);
    assert_eq!(agent.have(&[&path]), [path.as_str()]);
    agent.said(&format!(
        "guix substitute: warning: 127.0.0.1:{port}: connection failed: "
    ));
    agent.said("guix substitute: warning: no-such-host.invalid: host not found: ");
    let mut agent = setting.start_with("--query", "substitute-urls=rubbish\n");
    assert_eq!(agent.end().code(), Some(1));
    agent.said("guix substitute: error: rubbish: invalid URI\n");
}

#[test]
fn what_is_no_request_ends_it() {
    let setting = Setting::new();
    let path = setting.missing();
    for (mode, request) in [
        ("--query", "hello\n".to_owned()),
        ("--query", "\n".to_owned()),
        ("--query", format!("substitute {path} {path}\n")),
        ("--substitute", format!("have {path}\n")),
        ("--substitute", format!("substitute {path}\n")),
        ("--substitute", format!("substitute {path} /etc/passwd\n")),
        ("--substitute", format!("substitute {path} {path}/x\n")),
    ] {
        let mut agent = setting.start(mode);
        agent.ask(&request);
        assert_eq!(agent.child.wait().unwrap().code(), Some(1), "{request}");
        assert_eq!(agent.line(), "");
        agent.said("guix substitute: error: unknown request: ");
    }
}

#[test]
fn arguments() {
    let run = |arguments: &[&str]| {
        let program = env!("CARGO_BIN_EXE_guix-fetch");
        let output = Command::new(program).args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.code().unwrap(),
            String::from_utf8(text).unwrap(),
        )
    };
    for arguments in [&["substitute"][..], &["substitute", "--query", "x"]] {
        let (status, text) = run(arguments);
        assert_eq!(status, 1, "{text}");
        assert!(text.starts_with("guix substitute: error: "), "{text}");
        assert!(text.ends_with("unrecognized options\n"), "{text}");
    }
    let (status, text) = run(&["substitute", "--version"]);
    assert_eq!(status, 0);
    assert!(text.starts_with("guix substitute (GNU Guix) "), "{text}");
    assert_eq!(run(&["substitute", "--help"]).0, 0);
    let (status, text) = run(&["offload", "x"]);
    assert_eq!(status, 1);
    assert!(
        text.contains("`offload'") && text.contains("Guix's own `guix'"),
        "{text}"
    );
    let (status, text) = run(&["substitute", "--query"]);
    assert_eq!(status, 1);
    assert!(text.contains("descriptor 4 is closed"), "{text}");
}

/// What Guix's daemon was seen to send, with other names.
#[test]
fn a_recorded_conversation() {
    let setting = Setting::new();
    let item = plain("text.txt", "text");
    let path = setting.publish(&item);
    let recorded = include_str!("../../daemon/substituter/vectors/query.requests");
    let requests = recorded
        .replace("/gnu/store", &setting.store().to_string())
        .replace("0mgxsakkancy2iry6pj8hwcmlbmjbamn", path.hash_part());
    let mut agent = setting.start("--query");
    let mut requests = requests.lines();
    agent.ask(&format!("{}\n", requests.next().unwrap()));
    assert_eq!(agent.reply(), [path.as_str()]);
    agent.ask(&format!("{}\n", requests.next().unwrap()));
    let size = item.nar().len().to_string();
    assert_eq!(agent.infos(), [path.as_str(), "", "0", &size, &size]);
    let recorded = include_str!("../../daemon/substituter/vectors/substitute.requests");
    let requests = recorded
        .replace("/gnu/store", &setting.store().to_string())
        .replace("0mgxsakkancy2iry6pj8hwcmlbmjbamn", path.hash_part());
    let mut agent = setting.start("--substitute");
    // Requests that wait are answered in order, and the end of requests is awaited.
    agent.ask(&requests);
    agent.requests = None;
    let mut replies = String::new();
    agent.replies.read_to_string(&mut replies).unwrap();
    assert_eq!(replies, format!("not-found\nnot-found\n{}", success(&item)));
    assert!(agent.end().success());
}
