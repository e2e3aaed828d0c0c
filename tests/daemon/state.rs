//! The state directory: what a first session creates, and what makes it unusable.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;

use bstr::BString;
use formats::StorePath;
use formats::export::Fields;
use protocol::client::{Connection, Error, Options};
use protocol::operations::{GcAction, PathInfo};

use crate::harness::{Site, program};
use crate::items::*;
use crate::only_ours;
use crate::support::*;

/// The reason why the daemon doesn't serve any client.
#[track_caller]
fn greeting_error(fixture: &Fixture) -> String {
    let connected = Connection::over_unix(
        fixture.daemon.connect(),
        &fixture.dir(),
        &Options::default(),
    );
    match connected.err() {
        Some(Error::Daemon { message, status: 1 }) => message,
        other => panic!("no error, but {other:?}"),
    }
}

#[test]
fn the_first_session_makes_the_store() {
    let fixture = Fixture::new();
    add_text(&mut fixture.client(), "x", "x", &[]);
    let state = fixture.site.state();
    assert_eq!(fs::read_to_string(state.join("db/schema")).unwrap(), "7");
    let reserved = fs::metadata(state.join("db/reserved")).unwrap();
    assert_eq!((reserved.len(), reserved.mode() & 0o777), (8 << 20, 0o600));
    assert_eq!(
        fs::metadata(state.join("gc.lock")).unwrap().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::read_link(state.join("gcroots/profiles")).unwrap(),
        state.join("profiles")
    );
    for directory in ["temproots", "gcroots", "profiles", "profiles/per-user/root"] {
        assert!(state.join(directory).is_dir(), "{directory}");
    }
    assert!(fixture.site.store().join(".links").is_dir());
    let database = rusqlite::Connection::open(state.join("db/db.sqlite")).unwrap();
    let tables: Vec<String> = database
        .prepare("select name from sqlite_master where type = 'table' and name not like 'sqlite%'")
        .and_then(|mut tables| tables.query_map([], |row| row.get(0))?.collect())
        .unwrap();
    for table in ["ValidPaths", "Refs", "DerivationOutputs", "FailedPaths"] {
        assert!(tables.iter().any(|name| name == table), "{tables:?}");
    }
}

#[test]
fn the_database_says_what_guix_would() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let one = add_text(&mut client, "one", "x", &[]);
    let two = add_text(&mut client, "two", "x", &[&one]);
    let hash = client.query_path_hash(&two).unwrap();
    let path = fixture.site.state().join("db/db.sqlite");
    let database = rusqlite::Connection::open(path).unwrap();
    let row: (String, Option<String>, i64) = database
        .query_row(
            "select hash, deriver, narSize from ValidPaths where path = ?",
            [two.as_str()],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    assert_eq!(row, (format!("sha256:{}", hash.hex()), None, 120));
    let references: i64 = database
        .query_row(
            "select count(*) from Refs where referrer = (select id from ValidPaths where path = ?1) \
             and reference = (select id from ValidPaths where path = ?2)",
            [two.as_str(), one.as_str()],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(references, 1);
}

#[test]
fn an_orderly_stop_leaves_a_whole_database() {
    only_ours!();
    let mut fixture = Fixture::new();
    let mut client = fixture.client();
    for number in 0..300 {
        add_text(&mut client, &format!("text-{number}"), "x", &[]);
    }
    // The client is still connected.
    fixture.daemon.signal(nix::sys::signal::Signal::SIGTERM);
    fixture.daemon.wait();
    let copy = fixture.site.path("backup");
    fs::copy(fixture.site.state().join("db/db.sqlite"), &copy).unwrap();
    let database = rusqlite::Connection::open(&copy).unwrap();
    let count: i64 = database
        .query_row("select count(*) from ValidPaths", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 300);
}

#[test]
fn a_store_of_another_time_is_refused_until_it_fits() {
    let fixture = Fixture::new();
    drop(fixture.client());
    // No process has it open when it changes.
    fixture.kill();
    let schema = fixture.site.state().join("db/schema");
    fs::write(&schema, "8").unwrap();
    let fixture = fixture.restart(&[]);
    let refused = greeting_error(&fixture);
    assert_eq!(
        refused,
        "current store schema is version 8, but I only support 7"
    );
    fs::write(&schema, "6").unwrap();
    let refused = greeting_error(&fixture);
    assert!(
        refused.contains("implausibly old schema, version 6"),
        "{refused}"
    );
    fs::write(&schema, "seven").unwrap();
    let refused = greeting_error(&fixture);
    assert!(refused.contains("is corrupt"), "{refused}");
    fs::write(&schema, "7").unwrap();
    fixture.assert_serves();
}

#[test]
fn a_damaged_database_is_an_error_and_not_replaced() {
    let fixture = Fixture::new();
    drop(fixture.client());
    fixture.kill();
    let database = fixture.site.state().join("db/db.sqlite");
    let good = fs::read(&database).unwrap();
    fs::write(&database, noise(1, good.len().max(8192))).unwrap();
    for rest in ["db/db.sqlite-wal", "db/db.sqlite-shm"] {
        let _ = fs::remove_file(fixture.site.state().join(rest));
    }
    let fixture = fixture.restart(&[]);
    let refused = greeting_error(&fixture);
    assert!(refused.contains("not a database"), "{refused}");
    assert_eq!(fs::read(&database).unwrap(), noise(1, good.len().max(8192)));
}

#[test]
fn a_store_that_is_a_symbolic_link_is_refused_unless_allowed() {
    let site = Site::new();
    fs::create_dir(site.path("real")).unwrap();
    symlink(site.path("real"), site.store()).unwrap();
    let fixture = Fixture::with(site, &[]);
    let refused = greeting_error(&fixture);
    assert!(refused.contains("is a symlink"), "{refused}");
    let Fixture { daemon, site, .. } = fixture;
    drop(daemon);
    let site = site.env("NIX_IGNORE_SYMLINK_STORE", "1");
    Fixture::with(site, &[]).assert_serves();
}

#[test]
fn a_state_directory_that_is_none_is_an_error_that_names_it() {
    let site = Site::new();
    fs::create_dir(site.state().join("daemon-socket")).unwrap();
    fs::write(site.state().join("db"), "").unwrap();
    let fixture = Fixture::with(site, &[]);
    let refused = greeting_error(&fixture);
    assert!(refused.contains("/state/db"), "{refused}");
    fs::remove_file(fixture.site.state().join("db")).unwrap();
    fixture.assert_serves();
}

#[test]
fn what_a_daemon_registered_the_next_one_knows() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let mut client = fixture.client();
    let one = add_text(&mut client, "one", "x", &[]);
    let two = add_text(&mut client, "two", "x", &[&one]);
    let info = client.query_path_info(&two).unwrap();
    drop(client);
    fixture.kill();
    let fixture = fixture.restart(&["--no-substitutes"]);
    let mut client = fixture.client();
    assert_eq!(client.query_path_info(&two).unwrap(), info);
    assert_eq!(client.query_referrers(&one).unwrap(), [two.clone()].into());
    let archive = Item::text(&fixture.path("x"), "x").archive(Some(&keys));
    client.import_paths(&mut archive.as_slice()).unwrap();
    fixture.assert_holds([&one, &two, &fixture.path("x")]);
}

/// Starts another daemon on the directories of this one.
fn take_over(fixture: Fixture, program: &OsStr) -> Fixture {
    let Fixture {
        daemon,
        mount,
        site,
    } = fixture;
    drop(daemon);
    let mut command = site.command(program);
    command.arg("--no-substitutes");
    let daemon = site.launch_command(command);
    daemon.wait_until(|| UnixStream::connect(site.socket()).is_ok(), "to serve");
    Fixture {
        daemon,
        mount,
        site,
    }
}

/// What is known about all items, and all roots.
fn knowledge(client: &mut Connection) -> (Vec<PathInfo>, Vec<(BString, StorePath)>) {
    let all = client.query_all_valid_paths().unwrap();
    let infos = all.iter().map(|path| client.query_path_info(path).unwrap());
    (infos.collect(), client.find_roots().unwrap())
}

#[test]
fn two_daemons_take_turns_on_one_store() {
    // With GUIX_REFERENCE_DAEMON, Guix's own is one of them.
    let own = program().into_os_string();
    let other = std::env::var_os("GUIX_REFERENCE_DAEMON").unwrap_or_else(|| own.clone());
    let mut fixture = Fixture::new();
    let keys = fixture.install_keys();
    for (turn, program) in [&other, &own, &other, &own].into_iter().enumerate() {
        let mut client = fixture.client();
        let name = format!("text-{turn}");
        let text = add_text(&mut client, &name, &name, &[]);
        let tree = Tree::file(noise(turn as u64, 20_000));
        add_tree(&mut client, &name, &tree).unwrap();
        let (derivation, output) = fixed_derivation(&fixture.dir(), &name, &tree);
        let derivation = add_text(&mut client, &format!("{name}.drv"), &derivation, &[]);
        let item = Item {
            nar: tree.nar(),
            fields: Fields {
                path: fixture.path(&name),
                references: [text, output].into(),
                deriver: Some(derivation),
            },
        };
        // Signatures are made by an agent that need not be installed.
        if turn % 2 == 0 {
            let mut archive = &item.archive(Some(&keys))[..];
            client.import_paths(&mut archive).unwrap();
            fixture.root(&name, &fixture.path(&name));
        }
        let before = knowledge(&mut client);
        drop(client);
        fixture = take_over(fixture, program);
        let mut client = fixture.client();
        assert_eq!(knowledge(&mut client), before, "turn {turn}");
        assert!(!client.verify_store(true, false).unwrap());
        assert_eq!(add_tree(&mut client, &name, &tree).unwrap().name(), name);
    }
    let mut client = fixture.only_client();
    assert_eq!(client.find_roots().unwrap().len(), 2);
    let live = collect(&mut client, GcAction::ReturnLive, &[]).paths;
    // For each root, its text and its tree.
    assert_eq!(live.len(), 6);
    collect(&mut client, GcAction::DeleteDead, &[]);
    fixture.assert_holds(&live);
    let mut fixture = take_over(fixture, &other);
    fixture.assert_holds(&live);
    fixture = take_over(fixture, &own);
    assert!(!fixture.client().verify_store(true, false).unwrap());
}
