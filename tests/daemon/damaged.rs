//! Streams of requests, randomly damaged: whatever a client sends, the daemon serves other clients,
//! its memory use stays bounded, and its store stays intact.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::harness::Bytes;
use crate::items::*;
use crate::support::*;

/// The number of streams; `DAEMON_TEST_STREAMS` overrides it.
const STREAMS: u32 = 400;

/// One request of each operation, as a proper client sends it.
fn requests(fixture: &Fixture, valid: &str, archive: &[u8]) -> Vec<Vec<u8>> {
    let missing = fixture.path("missing");
    let missing = missing.as_str();
    let paths = [valid, missing];
    let none: [&str; 0] = [];
    let tree = Tree::Directory(vec![
        ("a", Tree::File(true, noise(1, 500))),
        ("b", Tree::Link("a")),
        ("c", Tree::Directory(vec![("d", Tree::file("x"))])),
    ]);
    let mut all: Vec<Bytes> = [1, 3, 4, 5, 6, 10, 11, 18, 21, 22, 26, 28, 33]
        .into_iter()
        .map(|number| Bytes::new().word(number).string(valid))
        .collect();
    all.extend([13, 14, 23, 24, 34, 80, 81].map(|number| Bytes::new().word(number)));
    all.extend([30, 31, 32].map(|number| Bytes::new().word(number).strings(&paths)));
    let add = Bytes::new()
        .word(7)
        .string("tree")
        .word(1)
        .word(1)
        .string("sha256");
    let options = Bytes::new()
        .word(19)
        .word(0)
        .word(1)
        .word(0)
        .word(3)
        .word(0)
        .word(0)
        .word(0);
    let collect = |action| Bytes::new().word(20).word(action).strings(&none).word(0);
    all.extend([
        add.raw(&tree.nar()),
        Bytes::new()
            .word(8)
            .string("text")
            .string("text")
            .strings(&[valid]),
        Bytes::new().word(9).strings(&[missing]).word(0),
        Bytes::new().word(12).string("/no/such/link"),
        Bytes::new().word(16).string(valid).word(0),
        options
            .word(1)
            .word(1)
            .word(2)
            .string("build-cores")
            .string("1")
            .string("x")
            .string("y"),
        collect(1).word(u64::MAX).word(0).word(0).word(0),
        collect(2).word(1 << 30).word(0).word(0).word(0),
        Bytes::new().word(25).strings(&["*"]),
        // The data that ImportPaths will ask for is sent immediately, which is out of turn, too.
        Bytes::new().word(27).string(archive),
        Bytes::new()
            .word(29)
            .string(&valid[valid.rfind('/').unwrap() + 1..][..32]),
        Bytes::new().word(35).word(1).word(0),
    ]);
    all.into_iter().map(|bytes| bytes.0).collect()
}

/// A kind of damage to a stream.
#[derive(Debug, Clone)]
enum Damage {
    Byte(prop::sample::Index, u8),
    Word(prop::sample::Index, u64),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    let words = prop_oneof![
        Just(0),
        Just(1),
        0..100_u64,
        Just(u64::from(u32::MAX)),
        Just(1 << 32),
        Just(u64::MAX),
        any::<u64>(),
    ];
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        (index(), words).prop_map(|(at, word)| Damage::Word(at, word)),
        index().prop_map(Damage::Cut),
        (index(), 1..40_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        (index(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

impl Damage {
    fn apply(&self, stream: &mut Vec<u8>) {
        if stream.is_empty() {
            return;
        }
        match self {
            Damage::Byte(at, byte) => {
                let at = at.index(stream.len());
                stream[at] = *byte;
            }
            Damage::Word(at, word) => {
                let at = at.index(stream.len()) / 8 * 8;
                if let Some(place) = stream.get_mut(at..at + 8) {
                    place.copy_from_slice(&word.to_le_bytes());
                }
            }
            Damage::Cut(at) => stream.truncate(at.index(stream.len())),
            Damage::Remove(at, count) => {
                let at = at.index(stream.len());
                let end = stream.len().min(at + count);
                stream.drain(at..end);
            }
            Damage::Insert(at, bytes) => {
                let at = at.index(stream.len());
                stream.splice(at..at, bytes.iter().copied());
            }
        }
    }
}

#[test]
fn damaged_streams_harm_nobody() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let mut client = fixture.client();
    let valid = add_text(&mut client, "valid", "x", &[]);
    fixture.root("valid", &valid);
    let archive = Item::text(&fixture.path("imported"), "x").archive(Some(&keys));
    let requests = requests(&fixture, valid.as_str(), &archive);
    let hello = Bytes::hello(0x64).0;
    let count = requests.len();
    let cases = (
        prop::collection::vec(0..count, 1..6),
        prop::collection::vec(damage(), 1..4),
        // Usually, the greeting is intact.
        prop::bool::weighted(0.1),
        any::<bool>(),
    );
    let streams = std::env::var("DAEMON_TEST_STREAMS");
    let config = Config {
        cases: streams.map_or(STREAMS, |streams| streams.parse().unwrap()),
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&cases, |(which, damages, all, hangs_up)| {
            let mut stream = if all { hello.clone() } else { Vec::new() };
            which
                .iter()
                .for_each(|&index| stream.extend_from_slice(&requests[index]));
            damages.iter().for_each(|damage| damage.apply(&mut stream));
            if !all {
                stream.splice(0..0, hello.iter().copied());
            }
            play(&fixture, &stream, hangs_up);
            Ok(())
        })
        .unwrap();
    // A session that existed before, and a new one.
    assert!(client.is_valid_path(&valid).unwrap());
    fixture.assert_serves();
    assert!(fixture.peak_kib() < 64 << 10, "{} KiB", fixture.peak_kib());
    assert!(!client.verify_store(true, false).unwrap());
    drop(client);
    let collected = || {
        collect(
            &mut fixture.client(),
            protocol::operations::GcAction::DeleteDead,
            &[],
        );
        fixture
            .entries_and_locks()
            .iter()
            .filter(|name| *name != "trash")
            .count()
            == 1
    };
    fixture
        .daemon
        .wait_until(collected, "to collect what is left");
    fixture.assert_serves();
}

/// Sends a stream and reads the replies, but doesn't wait for all of them if it `hangs_up`.
fn play(fixture: &Fixture, bytes: &[u8], hangs_up: bool) {
    let mut stream = fixture.daemon.connect();
    let _ = stream.write_all(bytes);
    if hangs_up {
        return;
    }
    // The daemon takes end of file for the client's disconnection. A short delay before lets it do
    // something.
    stream
        .set_read_timeout(Some(Duration::from_millis(5)))
        .unwrap();
    let mut answer = [0; 4096];
    while stream.read(&mut answer).is_ok_and(|count| count > 0) {}
    let _ = stream.shutdown(Shutdown::Write);
    stream
        .set_read_timeout(Some(crate::harness::TEST_TIMEOUT))
        .unwrap();
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(error) => panic!("the daemon neither answers nor hangs up: {error}"),
        }
    }
}
