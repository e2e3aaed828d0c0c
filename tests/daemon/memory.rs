//! The daemon's memory use with large items and many clients.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::slice::from_ref;

use formats::derivation::{self, Recipe};
use formats::nar::Sink;
use formats::{Algorithm, Hash, StorePath};
use protocol::client::Connection;
use protocol::operations::{BuildMode, GcAction};

use crate::harness::{Bytes, End, RawClient, Site, is_ours, program};
use crate::items::*;
use crate::only_ours;
use crate::support::*;

/// The size of a large file, in bytes.
const LARGE: u64 = 256 << 20;

/// The daemon's memory limit for it. (Guix's reads all added files into memory.)
fn limit_kib() -> u64 {
    if is_ours() { 64 << 10 } else { u64::MAX }
}

/// Yields the same MiB of noise repeatedly.
struct Noise {
    block: Vec<u8>,
    at: usize,
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let from = &self.block[self.at..];
        let count = from.len().min(buffer.len());
        buffer[..count].copy_from_slice(&from[..count]);
        self.at = (self.at + count) % self.block.len();
        Ok(count)
    }
}

#[test]
fn large_items_pass_through_little_memory() {
    let fixture = Fixture::new();
    fixture.install_keys();
    let mut client = fixture.client();
    let path = client
        .add_to_store("large", true, Algorithm::Sha256, |writer| {
            writer.regular(
                false,
                LARGE,
                &mut Noise {
                    block: noise(1, 1 << 20),
                    at: 0,
                },
            )
        })
        .unwrap();
    assert!(
        fixture.peak_kib() < limit_kib(),
        "adding took {} KiB",
        fixture.peak_kib()
    );
    let archive = fixture.site.path("archive");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&archive).unwrap());
    client.export_paths([&path], true, &mut out).unwrap();
    out.flush().unwrap();
    drop(out);
    assert!(fs::metadata(&archive).unwrap().len() > LARGE);
    assert!(
        fixture.peak_kib() < limit_kib(),
        "exporting took {} KiB",
        fixture.peak_kib()
    );
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths,
        from_ref(&path)
    );
    let mut source = BufReader::with_capacity(1 << 20, File::open(&archive).unwrap());
    assert_eq!(client.import_paths(&mut source).unwrap(), from_ref(&path));
    assert!(
        fixture.peak_kib() < limit_kib(),
        "importing took {} KiB",
        fixture.peak_kib()
    );
    assert_eq!(fs::metadata(path.as_path()).unwrap().len(), LARGE);
    fs::remove_file(archive).unwrap();
    assert!(!client.verify_store(true, false).unwrap());
    assert!(
        fixture.peak_kib() < limit_kib(),
        "verifying took {} KiB",
        fixture.peak_kib()
    );
}

/// A daemon that can have 1 GiB of data: 128 MiB for requests, 64 MiB of them for one user, and
/// half as many temporary roots as there are KiB.
fn with_one_gib() -> Fixture {
    let site = Site::new();
    let mut command = site.command("sh");
    command.args(["-c", "ulimit -d 1048576; exec \"$0\" \"$@\""]);
    command.arg(program()).arg("--no-substitutes");
    let daemon = site.launch_command(command);
    daemon.wait_to_serve();
    Fixture {
        daemon,
        mount: None,
        site,
    }
}

/// A client of another user, who has shaken hands.
fn raw_as(user: u32, fixture: &Fixture) -> RawClient {
    let stream = connect_as(user, &fixture.site.socket());
    let mut client = RawClient { stream };
    client.send(Bytes::hello(0x64));
    assert_eq!((client.word(), client.word()), (0x6478_696f, 0x164));
    assert_eq!(client.end(), End::Last);
    client
}

/// SetOptions with so many overrides with new names and values of so many bytes.
fn overrides(count: usize, length: usize) -> Bytes {
    let mut bytes = Bytes::new().word(19);
    for _ in 0..4 {
        bytes = bytes.word(0);
    }
    bytes = bytes
        .word(1)
        .word(0)
        .word(0)
        .word(0)
        .word(0)
        .word(count as u64);
    for _ in 0..count {
        let name = format!("name-{:x}", rand::random::<u64>());
        bytes = bytes.string(name).string(vec![b'x'; length]);
    }
    bytes
}

#[test]
fn settings_are_not_kept_without_end() {
    only_ours!();
    let fixture = Fixture::new();
    // One message that is too long, many that are not, many names without values.
    for (messages, count, length) in [(1, 40, 60_000), (4, 1, 20_000), (1, 10_000, 0)] {
        let mut client = fixture.raw();
        let mut last = End::Last;
        for _ in 0..messages {
            assert_eq!(last, End::Last);
            offer(&mut client, &overrides(count, length));
            last = client.end();
        }
        match last {
            End::Error(message, _) => {
                let expected = [
                    "string is too long",
                    "message is too long",
                    "too many settings: ",
                ];
                assert!(
                    expected.iter().any(|part| message.contains(part)),
                    "{message}"
                );
            }
            // It hung up while it was being sent more than it wants.
            End::Closed => assert_eq!(count, 40),
            End::Last => panic!("{count} settings of {length} bytes were kept"),
        }
    }
    assert!(
        fixture.peak_kib() < limit_kib(),
        "{} KiB",
        fixture.peak_kib()
    );
    fixture.assert_serves();
}

#[test]
fn requests_that_are_never_whole_take_only_their_users_share() {
    only_ours!();
    let fixture = with_one_gib();
    let block = noise(2, 1 << 20);
    let mut clients: Vec<_> = (0..10).map(|_| raw_as(NOBODY, &fixture)).collect();
    let mut refused = 0;
    for client in &mut clients {
        let start = Bytes::new().word(8).string("text").word(512 << 20);
        let sent = (client.stream.write_all(&start.0))
            .and_then(|()| (0..30).try_for_each(|_| client.stream.write_all(&block)));
        if sent.is_err() {
            refused += 1;
        }
    }
    assert!(refused >= 7, "{refused} of 10 were refused");
    let peak = fixture.peak_kib();
    assert!(peak < (64 + 32) << 10, "{peak} KiB");
    // Another user is not concerned, and the share is free again once its clients have gone.
    let text = "x".repeat(30 << 20);
    add_text(&mut fixture.client(), "text", &text, &[]);
    drop(clients);
    let is_free = || {
        let stream = connect_as(NOBODY, &fixture.site.socket());
        let mut client = fixture.greet(stream);
        client
            .add_text_to_store("other", text.as_str(), Default::default())
            .is_ok()
    };
    fixture.daemon.wait_until(is_free, "to free memory");
}

/// The text of a derivation with so many short variables, which takes ten times as much memory.
fn derivation_with(fixture: &Fixture, name: &str, variables: usize) -> (StorePath, String) {
    let mut recipe = Recipe {
        outputs: BTreeMap::from([("out".to_owned(), None)]),
        system: "x86_64-linux".into(),
        builder: "/nowhere".into(),
        ..Recipe::default()
    };
    let variables = (0..variables).map(|number| (format!("v{number:x}").into(), "".into()));
    recipe.environment.extend(variables);
    let known = |input: &StorePath| -> Result<Hash, derivation::Error> { panic!("{input}") };
    let store = fixture.dir();
    let (derivation, path) = recipe.instantiate(name, &store, known).unwrap();
    let text = String::from_utf8(derivation.to_bytes()).unwrap();
    (path, text)
}

#[test]
fn derivations_of_requests_take_their_users_share() {
    only_ours!();
    let fixture = with_one_gib();
    let names = ["first", "second"];
    let drvs = names.map(|name| derivation_with(&fixture, name, 235_000));
    let mut client = fixture.greet(connect_as(NOBODY, &fixture.site.socket()));
    for (name, (path, text)) in names.iter().zip(&drvs) {
        let added = add_text(&mut client, &format!("{name}.drv"), text, &[]);
        assert_eq!(&added, path);
    }
    let build = |client: &mut Connection, drvs: &[(StorePath, String)]| {
        let targets = drvs.iter().map(|(path, _)| path.clone().into()).collect();
        let built = client.build_paths(targets, BuildMode::Normal, &mut |_| ());
        built.unwrap_err().to_string()
    };
    let both = build(&mut client, &drvs);
    let refusal = "one user's requests can take 64 MiB of the daemon's memory at a time";
    assert!(both.contains(refusal), "{both}");
    // One of them fits, and the share is free again.
    let mut client = fixture.greet(connect_as(NOBODY, &fixture.site.socket()));
    let one = build(&mut client, &drvs[..1]);
    assert!(!one.contains(refusal), "{one}");
    // So does writing one that would take too much when it is read.
    let (_, text) = derivation_with(&fixture, "third", 600_000);
    let mut client = fixture.greet(connect_as(NOBODY, &fixture.site.socket()));
    let written = client.add_text_to_store("third.drv", text, Default::default());
    let written = written.unwrap_err().to_string();
    assert!(written.contains(refusal), "{written}");
}

#[test]
fn long_replies_take_their_users_share() {
    only_ours!();
    let fixture = with_one_gib();
    let popular = add_text(&mut fixture.client(), "popular", "", &[]);
    let database = fixture.site.state().join("db/db.sqlite");
    let database = rusqlite::Connection::open(database).unwrap();
    // More than 64 MiB of paths.
    let paths = format!(
        "with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < 400000)
         insert into ValidPaths (path, hash, registrationTime, narSize)
         select '{}/' || printf('%032d', n) || '-x', 'sha256:{}', 1, 1 from numbers",
        fixture.site.store().display(),
        "0".repeat(64)
    );
    database.execute(&paths, []).unwrap();
    let references = "insert into Refs (referrer, reference)
                      select id, (select id from ValidPaths where path = ?1) from ValidPaths
                      where path <> ?1";
    database.execute(references, [popular.as_str()]).unwrap();
    drop(database);
    let refusal = "one user's requests can take 64 MiB of the daemon's memory at a time";
    let connect = || fixture.greet(connect_as(NOBODY, &fixture.site.socket()));
    let referrers = connect().query_referrers(&popular).unwrap_err().to_string();
    assert!(referrers.contains(refusal), "{referrers}");
    let mut raw = raw_as(NOBODY, &fixture);
    raw.send(Bytes::new().word(23));
    match raw.end() {
        End::Error(message, _) => assert!(message.contains(refusal), "{message}"),
        other => panic!("{other:?}"),
    }
    let peak = fixture.peak_kib();
    assert!(peak < limit_kib(), "{peak} KiB");
}

#[test]
fn a_user_has_a_limited_number_of_temporary_roots() {
    only_ours!();
    let fixture = with_one_gib();
    let limit = 32 << 10;
    let mut client = raw_as(NOBODY, &fixture);
    let mut number = 0;
    let refusal = loop {
        let mut requests = Bytes::new();
        for _ in 0..256 {
            number += 1;
            let path = fixture.path(&format!("root-{number}"));
            requests = requests.word(11).string(path.as_str());
        }
        client.send(requests);
        let ends: Vec<_> = (0..256)
            .map(|_| match client.end() {
                End::Last => assert_eq!(client.word(), 1),
                End::Error(message, _) => panic!("{message}"),
                End::Closed => panic!("closed"),
            })
            .collect();
        assert_eq!(ends.len(), 256);
        if number == limit {
            let path = fixture.path("one-more");
            client.send(Bytes::new().word(11).string(path.as_str()));
            break client.end();
        }
    };
    assert_error(
        refusal,
        "too many temporary roots: one user can have 32768 at a time",
    );
    // A root that is there already costs nothing, and others have theirs.
    client.send(
        Bytes::new()
            .word(11)
            .string(fixture.path("root-1").as_str()),
    );
    assert_eq!(client.end(), End::Last);
    fixture.client().add_temp_root(&fixture.path("x")).unwrap();
    drop(client);
    let is_free = || {
        let mut client = raw_as(NOBODY, &fixture);
        client.send(Bytes::new().word(11).string(fixture.path("x").as_str()));
        client.end() == End::Last
    };
    fixture.daemon.wait_until(is_free, "to free the roots");
}

#[test]
fn many_clients_take_little_memory_and_leave_nothing() {
    let fixture = Fixture::new();
    let daemon = &fixture.daemon;
    drop(fixture.client());
    let before = (daemon.open_files(), daemon.threads());
    let mut clients: Vec<_> = (0..150).map(|_| fixture.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        add_text(client, "text", &number.to_string(), &[]);
    }
    drop(clients);
    assert!(
        fixture.peak_kib() < limit_kib(),
        "{} KiB",
        fixture.peak_kib()
    );
    daemon.wait_until(|| daemon.open_files() <= before.0 + 4, "to close files");
    daemon.wait_until(|| daemon.threads() <= before.1, "to end sessions");
    assert_eq!(
        collect(&mut fixture.client(), GcAction::DeleteDead, &[])
            .paths
            .len(),
        150
    );
}
