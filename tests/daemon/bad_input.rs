//! Malformed requests: the daemon reports an error, continues or closes the connection, and serves
//! other clients.

use crate::harness::{Bytes, End, RawClient};
use crate::only_ours;
use crate::support::*;

/// A request with one store path in it, as a function of that path.
type WithPath = fn(&[u8]) -> Bytes;

/// The operations that take a path, except IsValidPath.
const WITH_PATH: &[(&str, WithPath)] = &[
    ("HasSubstitutes", |path| Bytes::new().word(3).string(path)),
    ("QueryPathHash", |path| Bytes::new().word(4).string(path)),
    ("QueryReferences", |path| Bytes::new().word(5).string(path)),
    ("QueryReferrers", |path| Bytes::new().word(6).string(path)),
    ("AddTextToStore", |path| {
        Bytes::new()
            .word(8)
            .string("x")
            .string("x")
            .strings(&[path])
    }),
    ("BuildPaths", |path| {
        Bytes::new().word(9).strings(&[path]).word(0)
    }),
    ("EnsurePath", |path| Bytes::new().word(10).string(path)),
    ("AddTempRoot", |path| Bytes::new().word(11).string(path)),
    ("ExportPath", |path| {
        Bytes::new().word(16).string(path).word(0)
    }),
    ("QueryDeriver", |path| Bytes::new().word(18).string(path)),
    ("CollectGarbage", |path| {
        let bytes = Bytes::new()
            .word(20)
            .word(3)
            .strings(&[path])
            .word(0)
            .word(u64::MAX);
        bytes.word(0).word(0).word(0)
    }),
    ("QueryDerivationOutputs", |path| {
        Bytes::new().word(22).string(path)
    }),
    ("QueryPathInfo", |path| Bytes::new().word(26).string(path)),
    ("QueryDerivationOutputNames", |path| {
        Bytes::new().word(28).string(path)
    }),
    ("QuerySubstitutablePathInfos", |path| {
        Bytes::new().word(30).strings(&[path])
    }),
    ("QueryValidPaths", |path| {
        Bytes::new().word(31).strings(&[path])
    }),
    ("QuerySubstitutablePaths", |path| {
        Bytes::new().word(32).strings(&[path])
    }),
    ("QueryValidDerivers", |path| {
        Bytes::new().word(33).string(path)
    }),
];

#[test]
fn paths_outside_of_the_store_end_the_connection_with_an_error() {
    let fixture = Fixture::new();
    let store = fixture.site.store().to_str().unwrap().to_owned();
    let inside = format!("{store}/00000000000000000000000000000000-x/bin/sh");
    let beside = format!("{store}s/00000000000000000000000000000000-x");
    let within = format!("{store}/");
    for bad in [
        "",
        "x",
        "/",
        "/etc/passwd",
        &store,
        &within,
        &inside,
        &beside,
    ] {
        for (name, request) in WITH_PATH {
            let mut client = fixture.raw();
            client.send(request(bad.as_bytes()));
            match client.end() {
                End::Error(message, 1) => {
                    let expected = format!("path `{bad}' is not in the store");
                    assert_eq!(message, expected, "{name}");
                }
                other => panic!("{name} of {bad:?}: {other:?}"),
            }
            assert!(client.is_closed(), "{name} of {bad:?}");
        }
    }
    fixture.assert_holds([]);
}

#[test]
fn whether_a_bad_path_is_valid_is_an_error_of_the_question_only() {
    let fixture = Fixture::new();
    let mut client = fixture.raw();
    for bad in ["", "/etc/passwd", fixture.site.store().to_str().unwrap()] {
        client.send(Bytes::new().word(1).string(bad));
        assert_error(client.end(), &format!("path `{bad}' is not in the store"));
    }
    client.send(Bytes::new().word(1).string(fixture.path("x").as_str()));
    assert_eq!((client.end(), client.word()), (End::Last, 0));
}

#[test]
fn names_that_no_item_can_have_are_refused_as_paths() {
    only_ours!();
    let fixture = Fixture::new();
    let store = fixture.site.store().to_str().unwrap().to_owned();
    let long = "x".repeat(300);
    let bad: [&[u8]; 6] = [
        b".",
        b"..",
        b"a\0b",
        b"\xff\xfe",
        b"a\0/../../etc",
        long.as_bytes(),
    ];
    for bad in bad {
        let path = [store.as_bytes(), b"/", bad].concat();
        for (name, request) in WITH_PATH {
            let mut client = fixture.raw();
            client.send(request(&path));
            match client.end() {
                End::Error(message, 1) => {
                    assert!(message.contains("is not in the store"), "{name}: {message}");
                }
                other => panic!("{name} of {bad:?}: {other:?}"),
            }
            assert!(client.is_closed(), "{name} of {bad:?}");
        }
    }
    fixture.assert_holds([]);
}

#[test]
fn odd_names_that_are_no_items_are_just_not_valid() {
    let fixture = Fixture::new();
    let mut client = fixture.raw();
    let store = fixture.site.store().to_str().unwrap().to_owned();
    for odd in [
        ".links",
        "trash",
        "x",
        "'; drop table ValidPaths; --",
        "%",
        "a b\nc",
    ] {
        let path = format!("{store}/{odd}");
        client.send(Bytes::new().word(1).string(&path));
        assert_eq!((client.end(), client.word()), (End::Last, 0), "{odd:?}");
        client.send(Bytes::new().word(26).string(&path));
        assert_error(client.end(), &format!("path `{path}' is not valid"));
    }
    fixture.assert_serves();
}

#[test]
fn unknown_operations_are_named_in_the_error() {
    let fixture = Fixture::new();
    for number in [
        0,
        2,
        15,
        17,
        36,
        37,
        79,
        82,
        255,
        999,
        1001,
        u64::from(u32::MAX),
    ] {
        let mut client = fixture.raw();
        client.send(Bytes::new().word(number));
        assert_eq!(
            client.end(),
            End::Error(format!("invalid operation {number}"), 1)
        );
        assert!(client.is_closed());
    }
    let mut client = fixture.raw();
    client.send(Bytes::new().word(1 << 40));
    assert_hung_up(&mut client);
    fixture.assert_serves();
}

#[test]
fn numbers_with_more_than_32_bits_are_refused() {
    let fixture = Fixture::new();
    let requests = [
        // A length, a count, and a number.
        Bytes::new().word(1).word(1 << 32),
        Bytes::new().word(31).word(u64::MAX),
        Bytes::new().word(35).word(1 << 63).word(0),
        Bytes::new().word(9).word(0).word(1 << 33),
    ];
    for request in requests {
        let mut client = fixture.raw();
        client.send(request);
        assert_error(client.end(), "cannot deal with > 32-bit integers");
        assert!(client.is_closed());
    }
    fixture.assert_serves();
}

#[test]
fn padding_that_is_not_zero_is_refused() {
    let fixture = Fixture::new();
    let mut client = fixture.raw();
    client.send(Bytes::new().word(1).word(1).raw(b"x\0\0\0\0\0\0y"));
    assert_error(client.end(), "non-zero padding");
    assert!(client.is_closed());
}

/// Sends a request that announces more data than it sends, and then end of file.
fn cut_short(fixture: &Fixture, request: Bytes) {
    let mut client = fixture.raw();
    offer(&mut client, &request);
    let _ = client.stream.shutdown(std::net::Shutdown::Write);
    assert_hung_up(&mut client);
}

#[test]
fn counts_and_lengths_that_are_not_met_are_no_reason_to_wait_or_to_allocate() {
    // Guix's daemon agrees, but allocates 4 GiB.
    only_ours!();
    let fixture = Fixture::new();
    let most = u64::from(u32::MAX);
    let x = fixture.path("x");
    for number in [9, 25, 30, 31, 32] {
        cut_short(&fixture, Bytes::new().word(number).word(most));
        cut_short(
            &fixture,
            Bytes::new().word(number).word(2).string(x.as_str()),
        );
        cut_short(&fixture, Bytes::new().word(number).word(1).word(most));
    }
    for number in [1, 3, 4, 5, 6, 10, 11, 12, 16, 18, 21, 22, 26, 28, 29, 33] {
        cut_short(&fixture, Bytes::new().word(number).word(most));
        cut_short(
            &fixture,
            Bytes::new().word(number).word(most).raw(&[b'x'; 100_000]),
        );
    }
    cut_short(&fixture, Bytes::new().word(7).word(most));
    cut_short(
        &fixture,
        Bytes::new().word(7).string("x").word(1).word(1).word(most),
    );
    cut_short(
        &fixture,
        Bytes::new().word(8).string("x").word(most).raw(b"abc"),
    );
    cut_short(
        &fixture,
        Bytes::new().word(8).string("x").string("x").word(most),
    );
    cut_short(&fixture, Bytes::new().word(20).word(2).word(most));
    fixture.assert_serves();
    assert!(fixture.peak_kib() < 64 << 10, "{} KiB", fixture.peak_kib());
    fixture.assert_holds([]);
}

#[test]
fn what_is_too_long_to_be_true_is_not_kept_in_memory() {
    only_ours!();
    let fixture = Fixture::new();
    let mut client = fixture.raw();
    client.send(Bytes::new().word(1).word(3 << 30));
    assert_error(client.end(), "string is too long");
    assert!(client.is_closed());
    let mut client = fixture.raw();
    client.send(Bytes::new().word(8).string("x").word(600 << 20));
    assert_error(client.end(), "string is too long");
    assert!(client.is_closed());
    // Many short strings also make a long message.
    let mut client = fixture.raw();
    client.send(Bytes::new().word(31).word(u64::from(u32::MAX)));
    let x = Bytes::new()
        .string(fixture.path("x").as_str())
        .0
        .repeat(1000);
    let ended = (0..4000).any(|_| std::io::Write::write_all(&mut client.stream, &x).is_err());
    assert!(ended, "all was taken");
    fixture.assert_serves();
    assert!(fixture.peak_kib() < 64 << 10, "{} KiB", fixture.peak_kib());
}

#[test]
fn choices_that_do_not_exist_are_refused() {
    only_ours!();
    let fixture = Fixture::new();
    for action in [4, 100, u64::from(u32::MAX)] {
        let mut client = fixture.raw();
        let request = Bytes::new().word(20).word(action).word(0).word(0).word(0);
        client.send(request.word(0).word(0).word(0));
        assert_hung_up(&mut client);
    }
    for mode in [3, 1000] {
        let mut client = fixture.raw();
        client.send(Bytes::new().word(9).word(0).word(mode));
        assert_hung_up(&mut client);
    }
    fixture.assert_serves();
}

#[test]
fn liveness_can_not_be_ignored() {
    let fixture = Fixture::new();
    let mut client = fixture.raw();
    let request = || Bytes::new().word(20).word(2).word(0).word(1).word(u64::MAX);
    client.send(request().word(0).word(0).word(0));
    assert_error(client.end(), "you are not allowed to ignore liveness");
    client.send(Bytes::new().word(80));
    assert_eq!(client.end(), End::Last);
}

#[test]
fn settings_that_make_no_sense_end_the_connection() {
    let fixture = Fixture::new();
    let start = || {
        Bytes::new()
            .word(19)
            .word(0)
            .word(0)
            .word(0)
            .word(0)
            .word(1)
            .word(0)
            .word(0)
    };
    let settings: &[(&str, &str)] = &[
        ("build-max-jobs", "many"),
        ("build-cores", ""),
        ("build-timeout", "1h"),
        ("multiplexed-build-output", "maybe"),
    ];
    for (name, value) in settings {
        let mut client = RawClient::new(&fixture.daemon);
        client.send(start().word(0).word(0).word(1).string(name).string(value));
        match client.end() {
            End::Error(message, 1) => assert!(message.contains(name), "{message}"),
            other => panic!("{name}: {other:?}"),
        }
        assert!(client.is_closed());
    }
    fixture.assert_serves();
}
