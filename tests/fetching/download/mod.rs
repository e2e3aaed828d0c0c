//! `builtin:download` and `builtin:git-download`, by a daemon that uses `guix-fetch`.

mod files;
mod git;

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::derivations::{Built, Client, Drv, Script};
use crate::harness::servers::{Cable, GitBackend, Server, free_port};
use crate::harness::users::BuildUsers;
use crate::harness::web_server::{Protocol, WebServer};
use crate::harness::{Daemon, Site, copy_program, skip};

/// A running daemon with `guix-fetch`, and a directory for servers.
struct Setup {
    // Dropped in this order.
    daemon: Daemon,
    site: Site,
    _users: Option<BuildUsers>,
}

impl Setup {
    fn new() -> Setup {
        Setup::at(Site::new())
    }

    fn at(site: Site) -> Setup {
        let fetch = site.for_everybody(env!("CARGO_BIN_EXE_guix-fetch"));
        Setup::with_program(site, &fetch)
    }

    fn with_program(site: Site, fetch: &Path) -> Setup {
        let site = site.env("GUIX_FETCH", fetch);
        let users = BuildUsers::claim();
        let group = users.as_ref();
        let group = group.map(|users| format!("--build-users-group={}", users.group));
        let mut options = vec!["--no-substitutes", "--no-offload"];
        options.extend(group.as_deref());
        let daemon = site.start(&options);
        Setup {
            daemon,
            site,
            _users: users,
        }
    }

    fn client(&self) -> Client {
        Client::connect(&self.daemon)
    }

    /// A file below the directory for servers.
    fn served(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let root = served(&self.site);
        let file = root.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, contents).unwrap();
        root
    }

    /// What is left of failed downloads.
    fn leftovers(&self) -> Vec<String> {
        let names = |directory: &Path| {
            let entries = fs::read_dir(directory).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<Vec<String>>()
        };
        let mut left = names(&self.site.store());
        left.retain(|name| name.contains(".chroot"));
        left.extend(names(&self.site.path("tmp")));
        left
    }
}

fn served(site: &Site) -> PathBuf {
    let root = site.path("served");
    fs::create_dir_all(&root).unwrap();
    root
}

/// Builds one derivation.
fn build(client: &mut Client, script: Script) -> (Drv, Built) {
    let drv = client.write(script);
    let built = client.build(&[&drv]);
    (drv, built)
}

/// The port of a server.
fn port(server: &WebServer) -> u16 {
    let (_, port) = server.address().rsplit_once(':').unwrap();
    port.parse().unwrap()
}

/// What a server was asked for, a line for each request.
fn requests(server: &WebServer) -> String {
    server.log().join("\n")
}
