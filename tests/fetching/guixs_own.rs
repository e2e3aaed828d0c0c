//! The real `guix substitute` under our daemon, with a real web server. `GUIX_REFERENCE_GUIX` names the
//! `guix` program; these tests run with `--ignored`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use substitutes::Compression;

use crate::evil::nar_with;
use crate::fixture::Fixture;
use crate::harness::substitutes::{Item, Publisher, Tree};
use crate::harness::users::BuildUsers;
use crate::harness::web_server::WebServer;
use crate::harness::{Site, program};

/// The program.
fn guix() -> PathBuf {
    let name = "GUIX_REFERENCE_GUIX";
    std::env::var_os(name).expect(name).into()
}

/// A daemon that uses it, as an ordinary user if `users` are given.
fn with(guix: PathBuf, users: Option<&BuildUsers>) -> (Fixture, WebServer) {
    let site = Site::new().env("GUIX", guix).env("GUILE_AUTO_COMPILE", "0");
    let directory = site.path("server");
    fs::create_dir_all(&directory).unwrap();
    let server = WebServer::start(&directory);
    let publisher = Publisher::new(directory);
    publisher.authorise(&site.configuration());
    fs::create_dir(site.store()).unwrap();
    let mut command = site.command(site.for_everybody(program()));
    command
        .arg("--fetcher=guix")
        .arg(format!("--substitute-urls={}", server.address()));
    if let Some(users) = users {
        for file in ["state", "log", "etc", "etc/acl", "store"] {
            let (uid, gid) = (Some(users.uids[0]), Some(users.gid));
            std::os::unix::fs::chown(site.path(file), uid, gid).unwrap();
        }
        command.uid(users.uids[0]).gid(users.gid);
    }
    let fixture = Fixture::launch(site, command, publisher);
    (fixture, server)
}

fn tree() -> Tree {
    let contents: Vec<u8> = (0..300_000usize).map(|n| (n * n % 251) as u8).collect();
    Tree::directory([
        ("empty", Tree::file("")),
        ("file", Tree::file(contents)),
        ("inner", Tree::directory([("deep", Tree::file("x"))])),
        ("link", Tree::Link("file".to_owned())),
    ])
}

#[test]
#[ignore = "not a test of make check: takes Guix's own programs"]
fn guix_substitute_works_where_it_can_write_to_little() {
    for unprivileged in [false, true] {
        let guix = guix();
        let users = unprivileged.then(BuildUsers::claim).flatten();
        let (fixture, server) = with(guix, users.as_ref());
        let mut paths = Vec::new();
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut item = Item::new(&format!("item-{compression}"), tree());
            if let Some(last) = paths.last() {
                item = item.reference(last);
            }
            paths.push(fixture.publish(&item.compressed(&[compression])));
        }
        let mut client = fixture.client();
        client.set(|_| ());
        let done = client.build(&[&paths[2]]);
        done.succeeded();
        for path in &paths {
            let url = server.url("nar/");
            done.said(&format!("@ download-started {path} {url}"));
            done.said(&format!("@ download-succeeded {path} {url}"));
        }
        fixture.assert_holds(&paths);
        assert!(!client.0.verify_store(true, false).unwrap());
        // It has kept what the server said.
        let cache = fs::read_dir(fixture.site.state().join("substitute/cache")).unwrap();
        assert!(cache.count() > 0);
        let said = fixture.daemon.messages();
        assert!(!said.contains("not confined"), "{said}");
    }
}

#[test]
#[ignore = "not a test of make check: takes Guix's own programs"]
fn names_that_lead_elsewhere_lead_guix_substitute_nowhere() {
    let guix = guix();
    let (fixture, _server) = with(guix, None);
    let outside = fixture.site.path("evil");
    let absolute = outside.to_str().unwrap();
    for (number, name) in ["../evil", "../../evil", "../../../evil", absolute]
        .into_iter()
        .enumerate()
    {
        let item = Item::new(&format!("item-{number}"), Tree::file("what was signed"));
        let path = fixture.publish(&item.compressed(&[Compression::None]));
        let nar = format!("nar/{}", path.base_name());
        fixture
            .publisher
            .write_nar(&nar, &nar_with(name), Compression::None);
        fixture.client().ensure(&path).failed();
        assert!(!outside.exists() && !fixture.site.store().join("evil").exists());
        fixture.assert_holds([]);
    }
    let good = fixture.publish(&Item::new("good", tree()));
    fixture.client().ensure(&good).succeeded();
    fixture.assert_holds([&good]);
}
