//! Invalid nars are refused and leave nothing behind.

use crate::harness::{Bytes, End, is_ours};
use crate::items::*;
use crate::only_ours;
use crate::support::*;

/// The nar of a directory with these entries, without checks.
fn directory(names: &[&[u8]]) -> Vec<u8> {
    let start = Bytes::new()
        .string("nix-archive-1")
        .string("(")
        .string("type");
    let mut bytes = start.string("directory");
    for name in names {
        bytes = bytes
            .string("entry")
            .string("(")
            .string("name")
            .string(name)
            .string("node");
        bytes = bytes
            .string("(")
            .string("type")
            .string("regular")
            .string("contents");
        bytes = bytes.string(noise(3, 300_000)).string(")").string(")");
    }
    bytes.string(")").0
}

/// Whether the daemon refuses a nar; the connection need not continue.
fn is_refused(fixture: &Fixture, nar: &[u8]) -> bool {
    let mut client = fixture.raw();
    let request = Bytes::new()
        .word(7)
        .string("x")
        .word(1)
        .word(1)
        .string("sha256");
    offer(&mut client, &request.raw(nar));
    let _ = client.stream.shutdown(std::net::Shutdown::Write);
    client.end() != End::Last
}

#[test]
fn entries_that_lead_elsewhere_are_refused_and_nothing_is_left() {
    let fixture = Fixture::new();
    drop(fixture.client());
    for name in [
        &b""[..],
        b".",
        b"..",
        b"a/b",
        b"../escaped",
        b"/tmp/escaped",
        b"a\0b",
    ] {
        assert!(is_refused(&fixture, &directory(&[name])), "{name:?}");
        assert!(is_refused(&fixture, &directory(&[b"a", name])), "{name:?}");
    }
    fixture.assert_holds([]);
    assert!(!fixture.site.path("escaped").exists());
    assert!(!fixture.site.store().join("escaped").exists());
}

#[test]
fn entries_out_of_order_are_refused_and_nothing_is_left() {
    only_ours!();
    let fixture = Fixture::new();
    drop(fixture.client());
    for names in [
        [&b"a"[..], b"a"],
        [b"b", b"a"],
        [b"aa", b"a"],
        [b"\xff", b"a"],
    ] {
        assert!(is_refused(&fixture, &directory(&names)), "{names:?}");
    }
    let long = vec![b'n'; 256];
    assert!(is_refused(&fixture, &directory(&[&long])));
    fixture.assert_holds([]);
}

#[test]
fn nars_that_end_anywhere_leave_nothing() {
    let fixture = Fixture::new();
    drop(fixture.client());
    let nar = sample().nar();
    let places = (0..200)
        .chain([100_000, 400_000, 700_100])
        .chain(nar.len() - 300..nar.len());
    for place in places.step_by(7) {
        assert!(is_refused(&fixture, &nar[..place]), "{place}");
    }
    fixture.assert_serves();
    // Our daemon cleans up immediately; one of Guix's sessions takes a moment to end.
    fixture
        .daemon
        .wait_until(|| fixture.entries().is_empty(), "to clean up");
    fixture.assert_holds([]);
    let path = add_tree(&mut fixture.client(), "x", &sample()).unwrap();
    fixture.assert_holds([&path]);
}

#[test]
fn damaged_keywords_sizes_and_padding_are_refused() {
    let fixture = Fixture::new();
    drop(fixture.client());
    let start = || {
        Bytes::new()
            .string("nix-archive-1")
            .string("(")
            .string("type")
    };
    let file = || start().string("regular").string("contents");
    let bad = [
        Bytes::new()
            .string("nix-archive-2")
            .string("(")
            .string("type")
            .string("directory"),
        start().string("fifo").string(")"),
        start().string("regular").string("executable").string("yes"),
        file().word(u64::MAX).raw(&[0; 64]),
        file().word(1 << 62).raw(&[0; 64]),
        file().word(1).raw(b"a\0\0\0\0\0\0b").string(")"),
        file().string("a").string("]"),
        start()
            .string("symlink")
            .string("target")
            .word(u64::from(u32::MAX)),
        start()
            .string("directory")
            .string("entry")
            .string("(")
            .word(1 << 40),
    ];
    for (index, nar) in bad.iter().enumerate() {
        assert!(is_refused(&fixture, &nar.0), "{index}");
    }
    fixture.assert_serves();
    fixture
        .daemon
        .wait_until(|| fixture.entries().is_empty(), "to clean up");
    fixture.assert_holds([]);
}

#[test]
fn depth_and_width_take_no_memory() {
    let fixture = Fixture::new();
    drop(fixture.client());
    let start = Bytes::new().string("nix-archive-1");
    let node = || Bytes::new().string("(").string("type").string("directory");
    let entry = node()
        .string("entry")
        .string("(")
        .string("name")
        .string("d")
        .string("node");
    // Guix's daemon crashes; what matters is that others are served.
    let deep = start.clone().raw(&entry.0.repeat(200_000));
    assert!(is_refused(&fixture, &deep.0));
    fixture.assert_serves();
    let names: Vec<String> = (0..10_000).map(|number| format!("{number:06}")).collect();
    let file = Tree::file("").nar();
    // The nar of a file without its magic.
    let file = &file[24..];
    let mut wide = start.raw(&node().0);
    for name in &names {
        wide = wide
            .string("entry")
            .string("(")
            .string("name")
            .string(name)
            .string("node");
        wide = wide.raw(file).string(")");
    }
    let mut client = fixture.raw();
    let request = Bytes::new()
        .word(7)
        .string("wide")
        .word(1)
        .word(1)
        .string("sha256");
    client.send(request.raw(&wide.0).string(")"));
    assert_eq!(client.end(), End::Last);
    let path = String::from_utf8(client.string()).unwrap();
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), names.len());
    if is_ours() {
        assert!(fixture.peak_kib() < 64 << 10, "{} KiB", fixture.peak_kib());
    }
}
