//! `guix-fetch` under Guix's own daemon, by the script that the manual has for it, at the place and by
//! the name that `make install` gives it. `GUIX_REFERENCE_DAEMON` and `GUIX_REFERENCE_GUIX` name Guix's
//! programs; it runs with `--ignored`. `GUIX_INSTALLED` names the directory of an installation whose
//! program is used (`DESTDIR` and prefix); without it, that of this build.

use std::fs;
use std::path::{Path, PathBuf};

use formats::{Algorithm, Hash};
use gcrypt::{Acl, KeyPair, PublicKey, keys};
use protocol::operations::GcAction;
use substitutes::Compression;

use crate::fixture::{Fixture, text_item, write_script};
use crate::harness::derivations::{self, Script};
use crate::harness::substitutes::Publisher;
use crate::harness::users::BuildUsers;
use crate::harness::web_server::WebServer;
use crate::harness::{Site, copy_program, eventually, skip};

/// The script of the manual, with other places of the two programs.
fn script(fetch: &Path, guix: &Path) -> String {
    let page = include_str!("../../doc/src/guixs-daemon.md");
    let (_, rest) = page.split_once("<<'EOF'\n#!/bin/sh\n").unwrap();
    let (script, _) = rest.split_once("EOF\n").unwrap();
    let places = [
        ("/usr/local/libexec/guix/fetch", fetch),
        (
            "/var/guix/profiles/per-user/root/current-guix/bin/guix",
            guix,
        ),
    ];
    let mut script = script.to_owned();
    for (place, other) in places {
        assert_eq!(script.matches(place).count(), 1, "{script}");
        script = script.replace(place, other.to_str().unwrap());
    }
    script
}

#[test]
#[ignore = "not a test of make check: takes Guix's own programs"]
fn the_manuals_script_has_guixs_daemon_fetch_by_our_program() {
    let [theirs, guix] = ["GUIX_REFERENCE_DAEMON", "GUIX_REFERENCE_GUIX"]
        .map(|name| std::env::var_os(name).expect(name));
    let Some(users) = BuildUsers::claim() else {
        skip("it needs build users");
        return;
    };
    let site = Site::new().env("GUILE_AUTO_COMPILE", "0");
    let libexec = site.path("programs/libexec/guix");
    fs::create_dir_all(&libexec).unwrap();
    site.for_everybody(env!("CARGO_BIN_EXE_guix-fetch"));
    let (fetch, wrapper) = match std::env::var_os("GUIX_INSTALLED").map(PathBuf::from) {
        Some(prefix) => (
            prefix.join("libexec/guix/fetch"),
            site.path("programs/guix"),
        ),
        None => {
            let fetch = libexec.join("fetch");
            copy_program(Path::new(env!("CARGO_BIN_EXE_guix-fetch")), &fetch);
            (fetch, libexec.join("guix-for-daemon"))
        }
    };
    // It notes what it was asked for.
    let asked = site.path("asked");
    let note = format!("echo \"$1\" >>{}\n", asked.display());
    write_script(&wrapper, &(note + &script(&fetch, Path::new(&guix))));
    fs::write(&asked, "").unwrap();
    fs::set_permissions(&asked, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();

    let directory = site.path("server");
    let publisher = Publisher::new(&directory);
    publisher.authorise(&site.configuration());
    let server = WebServer::start(&directory);
    fs::create_dir(site.store()).unwrap();
    let mut command = site.command(theirs);
    command
        .env("GUIX", &wrapper)
        .arg("--discover")
        .arg(format!("--substitute-urls={}", server.address()))
        .arg(format!("--build-users-group={}", users.group));
    let pair = KeyPair::generate(keys::DEFAULT_PARAMETERS).unwrap();
    pair.save(&site.configuration()).unwrap();
    let mut acl = Acl::load(&site.configuration()).unwrap();
    let key = pair.public().as_sexp().to_canonical();
    acl.authorize(PublicKey::parse(key).unwrap());
    acl.save(&site.configuration()).unwrap();
    let fixture = Fixture::launch(site, command, publisher);
    // Substitutes, with their references.
    let item = |name| text_item(name, name).compressed(&[Compression::Zstd]);
    let first = fixture.publish(&item("first"));
    let second = fixture.publish(&item("second").reference(&first));
    let mut client = fixture.client();
    client.set(|_| ());
    client.ensure(&second).succeeded();
    assert!(client.0.is_valid_path(&first).unwrap());
    // A download.
    fs::write(directory.join("file"), "contents").unwrap();
    let mut builder = derivations::Client::connect(&fixture.daemon);
    let drv = builder.write(
        Script::new("file", "")
            .builder("builtin:download")
            .fixed(false, Hash::of(Algorithm::Sha256, "contents"))
            .variable("download-methods", "(upstream)")
            .variable("url", format!("{:?}", server.url("file"))),
    );
    builder.build(&[&drv]).succeeded();
    assert!(
        server
            .log()
            .iter()
            .any(|line| line.contains("GET /file ") && line.contains("agent=GNU Guile"))
    );
    // What else the daemon asks `guix' for is Guix's to do.
    let collected =
        (client.0).collect_garbage(GcAction::ReturnDead, [].into(), u64::MAX, &mut |_| ());
    collected.unwrap();
    let mut archive = Vec::new();
    client.0.export_paths([&first], true, &mut archive).unwrap();
    let imported = client.0.import_paths(&mut archive.as_slice()).unwrap();
    assert_eq!(imported, [first]);
    let asked = || fs::read_to_string(&asked).unwrap();
    for subcommand in [
        "substitute",
        "perform-download",
        "gc",
        "authenticate",
        "discover",
    ] {
        let was_asked = || asked().lines().any(|line| line == subcommand);
        assert!(eventually(was_asked), "{subcommand}: {}", asked());
    }
}
