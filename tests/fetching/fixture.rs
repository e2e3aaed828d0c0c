//! A daemon that has substitutes, and the directory of a substitute server.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use formats::{StoreDir, StorePath};
use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use protocol::client::{Address, Connection, Error, Options};
use protocol::operations::{BuildMode, SetOptions, Target};

use crate::harness::substitutes::{Draft, Item, Publisher, Tree};
use crate::harness::{Daemon, Site};

/// A running daemon, its directories, and what is published for it.
pub struct Fixture {
    // In the order in which they have to end.
    pub daemon: Daemon,
    pub site: Site,
    pub publisher: Publisher,
}

impl Fixture {
    /// A daemon whose network program is `program`, with the substitute servers `urls`, and a
    /// publisher whose key is authorised.
    pub fn with(site: Site, program: &Path, urls: &str, options: &[&str]) -> Fixture {
        let site = site.env("GUIX_FETCH", program);
        let publisher = Publisher::new(site.path("server"));
        publisher.authorise(&site.configuration());
        let urls = format!("--substitute-urls={urls}");
        let options = [&[urls.as_str(), "--fetcher=guix-fetch"], options].concat();
        Fixture {
            daemon: site.start(&options),
            site,
            publisher,
        }
    }

    /// A daemon that is started by this command in `site`.
    pub fn launch(site: Site, command: Command, publisher: Publisher) -> Fixture {
        let daemon = site.launch_command(command);
        daemon.wait_to_serve();
        Fixture {
            daemon,
            site,
            publisher,
        }
    }

    pub fn store(&self) -> StoreDir {
        StoreDir::new(self.site.store().to_str().unwrap()).unwrap()
    }

    /// Publishes an item.
    pub fn publish(&self, item: &Item) -> StorePath {
        self.publisher.publish(&self.store(), item)
    }

    /// Publishes an item, with a narinfo that was changed before it was signed.
    pub fn publish_with(&self, item: &Item, change: impl FnOnce(&mut Draft)) -> StorePath {
        self.publisher.publish_with(&self.store(), item, change)
    }

    /// Forgets what servers said.
    pub fn forget(&self) {
        fs::remove_dir_all(self.site.state().join("substitute")).unwrap();
    }

    /// A client after the handshake.
    pub fn client(&self) -> Client {
        self.client_over(self.daemon.connect())
    }

    /// A client over TCP, which isn't trusted.
    pub fn stranger(&self, port: u16) -> Client {
        let address = Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        };
        Client(address.connect(&self.store(), &Options::default()).unwrap())
    }

    /// A client of which the test has the connection, too.
    pub fn client_over(&self, stream: UnixStream) -> Client {
        Client(Connection::over_unix(stream, &self.store(), &Options::default()).unwrap())
    }

    /// Nothing is in the store but these items, and lock files.
    #[track_caller]
    pub fn assert_holds<'a>(&self, items: impl IntoIterator<Item = &'a StorePath>) {
        let expected: BTreeSet<String> = items
            .into_iter()
            .map(|path| path.base_name().to_owned())
            .collect();
        let names = fs::read_dir(self.site.store()).unwrap();
        let found: BTreeSet<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".links" && !name.ends_with(".lock"))
            .collect();
        assert_eq!(found, expected);
        let mut client = self.client();
        for name in &expected {
            let path = self.store().join(name).unwrap();
            assert!(client.0.is_valid_path(&path).unwrap(), "{name}");
        }
    }
}

/// A client of the daemon.
pub struct Client(pub Connection);

/// How a request ended, and what was said meanwhile.
#[derive(Debug)]
pub struct Outcome {
    pub result: Result<(), String>,
    pub log: String,
}

impl Outcome {
    #[track_caller]
    pub fn succeeded(&self) {
        assert!(self.result.is_ok(), "{self:#?}");
    }

    #[track_caller]
    pub fn failed(&self) {
        assert!(self.result.is_err(), "{self:#?}");
    }

    #[track_caller]
    pub fn said(&self, text: &str) {
        assert!(self.log.contains(text), "no `{text}': {self:#?}");
    }

    #[track_caller]
    pub fn did_not_say(&self, text: &str) {
        assert!(!self.log.contains(text), "`{text}': {self:#?}");
    }
}

impl Client {
    /// Sets options; the others are as for a client that shows everything.
    pub fn set(&mut self, change: impl FnOnce(&mut SetOptions)) {
        let mut options = SetOptions {
            print_build_trace: Some(true),
            ..SetOptions::default()
        };
        options.set("print-extended-build-trace", "1");
        change(&mut options);
        self.0.set_options(&options).unwrap();
    }

    /// Wants an item.
    pub fn ensure(&mut self, path: &StorePath) -> Outcome {
        let mut log = Vec::new();
        let result = self.0.ensure_path(path, &mut |text| log.extend(text));
        outcome(result, &log)
    }

    /// Wants several items.
    pub fn build(&mut self, paths: &[&StorePath]) -> Outcome {
        let mut log = Vec::new();
        let targets: Vec<Target> = paths.iter().map(|path| (*path).clone().into()).collect();
        let on_log = &mut |text: &[u8]| log.extend(text);
        let result = self.0.build_paths(targets, BuildMode::Normal, on_log);
        outcome(result, &log)
    }

    /// Those of some items that can be substituted.
    pub fn substitutable(&mut self, paths: &[&StorePath]) -> BTreeSet<StorePath> {
        let paths = paths.iter().map(|path| (*path).clone()).collect();
        self.0.query_substitutable_paths(paths).unwrap()
    }
}

fn outcome(result: Result<(), Error>, log: &[u8]) -> Outcome {
    Outcome {
        result: result.map_err(|error| error.to_string()),
        log: String::from_utf8_lossy(log).into_owned(),
    }
}

/// A store on a small file system of its own, which is unmounted when the test ends, so that its
/// directory can be deleted.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one, in a mount namespace of this thread.
    pub fn mount(store: PathBuf, size: &str) -> SmallDisk {
        system::namespace::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        system::mount::make_private(Path::new("/")).unwrap();
        fs::create_dir(&store).unwrap();
        let options = format!("mode=1775,size={size}");
        system::mount::mount_new("tmpfs", &store, MsFlags::empty(), &options).unwrap();
        SmallDisk(store)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = system::mount::unmount(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A port of this machine that nobody uses.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Makes `file` an executable shell script.
pub fn write_script(file: &Path, script: &str) {
    fs::write(file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// An item that is a file with this text.
pub fn text_item(name: &str, text: &str) -> Item {
    Item::new(name, Tree::file(text))
}
