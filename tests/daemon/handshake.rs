//! Valid and invalid greetings, and what may follow them.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use crate::harness::{Bytes, End, RawClient};
use crate::items::*;
use crate::support::*;

/// Sends bytes and returns everything that is received.
fn exchange(fixture: &Fixture, bytes: &[u8]) -> Vec<u8> {
    let mut stream = fixture.daemon.connect();
    // A daemon that has already closed the connection doesn't read any more.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    read_to_end(stream)
}

fn read_to_end(mut stream: UnixStream) -> Vec<u8> {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
    answer
}

#[test]
fn clients_of_every_version_are_served() {
    let fixture = Fixture::new();
    let path = add_text(&mut fixture.client(), "text", "x", &[]);
    // Until its session has ended, the item has a temporary root.
    drop(fixture.only_client());
    for minor in [0x0a, 0x0b, 0x0d, 0x0e, 0x0f, 0x10, 0x60]
        .into_iter()
        .chain(0x61..=0x70)
    {
        let mut client = RawClient::with_minor(&fixture.daemon, minor);
        client.send(Bytes::new().word(1).string(path.as_str()));
        assert_eq!(client.end(), End::Last, "{minor:#x}");
        assert_eq!(client.word(), 1, "{minor:#x}");
        // The two operations whose encoding depends on the version.
        client.send(set_options(minor));
        assert_eq!(client.end(), End::Last, "{minor:#x}");
        let collect = Bytes::new()
            .word(20)
            .word(1)
            .strings::<&str>(&[])
            .word(0)
            .word(u64::MAX);
        client.send(collect.word(0).word(0).word(0));
        assert_eq!(client.end(), End::Last, "{minor:#x}");
        assert_eq!(client.strings(), [path.as_str()], "{minor:#x}");
        assert_eq!((client.word(), client.word()), (0, 0), "{minor:#x}");
        client.send(Bytes::new().word(80));
        assert_eq!(client.end(), End::Last, "{minor:#x}");
        assert_eq!(client.strings(), ["download", "git-download"], "{minor:#x}");
    }
}

/// SetOptions as a client with this version sends it.
fn set_options(minor: u64) -> Bytes {
    let mut bytes = Bytes::new().word(19).word(0).word(0).word(0).word(0);
    if minor < 0x61 {
        bytes = bytes.word(1).word(60);
    }
    bytes = bytes.word(1).word(0).word(0).word(0);
    if (6..=0x60).contains(&minor) {
        bytes = bytes.word(1);
    }
    if minor >= 10 {
        bytes = bytes.word(0);
    }
    if minor >= 12 {
        bytes.strings::<&str>(&[])
    } else {
        bytes
    }
}

#[test]
fn a_processor_can_be_asked_for_even_one_that_does_not_exist() {
    let fixture = Fixture::new();
    for processor in [0, 1, 1023, 100_000, u64::from(u32::MAX)] {
        let mut client = RawClient {
            stream: fixture.daemon.connect(),
        };
        client.send(
            Bytes::new()
                .word(0x6e69_7863)
                .word(0x164)
                .word(1)
                .word(processor)
                .word(1),
        );
        assert_eq!((client.word(), client.word()), (0x6478_696f, 0x164));
        assert_eq!(client.end(), End::Last);
    }
    fixture.assert_serves();
}

#[test]
fn wrong_magic_gets_no_answer() {
    let fixture = Fixture::new();
    for magic in [
        0,
        0x6e69_7864,
        0x6478_696f,
        0x6e69_7863 << 8,
        0x1_6e69_7863,
        u64::MAX,
    ] {
        let answer = exchange(&fixture, &Bytes::new().word(magic).word(0x164).0);
        assert_eq!(answer, b"", "{magic:#x}");
    }
    let answer = exchange(&fixture, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(answer, b"");
    fixture.assert_serves();
}

#[test]
fn a_greeting_that_ends_anywhere_harms_nobody() {
    let fixture = Fixture::new();
    let mut other = fixture.client();
    let hello = Bytes::hello(0x64).0;
    for length in 0..hello.len() {
        let answer = exchange(&fixture, &hello[..length]);
        // At most the daemon's own greeting, and perhaps an error.
        let expected = if length < 8 { 0 } else { 16 };
        assert_eq!(answer.len().min(16), expected, "{length}");
        assert!(
            !answer[expected..].starts_with(&0x616c_7473_u64.to_le_bytes()),
            "{length}"
        );
        assert_eq!(other.builtin_builders().unwrap().len(), 2);
    }
    fixture.assert_serves();
}

#[test]
fn numbers_too_large_in_a_greeting_end_it() {
    let fixture = Fixture::new();
    for position in 1..4 {
        let mut words = [0x6e69_7863, 0x164, 0, 0];
        words[position] = 1 << 32;
        let bytes = words
            .iter()
            .fold(Bytes::new(), |bytes, &word| bytes.word(word));
        let answer = exchange(&fixture, &bytes.0);
        assert!(
            !answer[16..].starts_with(&0x616c_7473_u64.to_le_bytes()),
            "{position}"
        );
    }
    fixture.assert_serves();
}

#[test]
fn garbage_of_any_size_after_the_greeting_ends_the_connection() {
    let fixture = Fixture::new();
    for (seed, size) in [
        (1, 1),
        (2, 7),
        (3, 8),
        (4, 4096),
        (5, 1 << 20),
        (6, 16 << 20),
    ] {
        let mut bytes = Bytes::hello(0x64).0;
        bytes.extend(noise(seed, size));
        exchange(&fixture, &bytes);
    }
    fixture.assert_serves();
    assert!(fixture.peak_kib() < 64 << 10, "{} KiB", fixture.peak_kib());
}

#[test]
fn clients_that_say_nothing_keep_nobody_waiting() {
    let fixture = Fixture::new();
    let daemon = &fixture.daemon;
    let client = fixture.client();
    let before = (daemon.open_files(), daemon.threads());
    drop(client);
    let silent: Vec<_> = (0..100).map(|_| fixture.daemon.connect()).collect();
    let half: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = fixture.daemon.connect();
            stream.write_all(&Bytes::hello(0x64).0[..20]).unwrap();
            stream
        })
        .collect();
    fixture.assert_serves();
    drop((silent, half));
    daemon.wait_until(|| daemon.open_files() <= before.0, "to close connections");
    daemon.wait_until(|| daemon.threads() <= before.1, "to end sessions");
}

#[test]
fn a_request_before_the_reply_is_refused_and_the_next_one_served() {
    let fixture = Fixture::new();
    let mut client = fixture.raw();
    // Too long for one read, so that end of file arrives while the daemon is working.
    let mut text = Bytes::new()
        .word(8)
        .string("text")
        .string(noise(7, 1 << 20));
    text = text.strings::<&str>(&[]);
    client.send(text.word(80));
    // It may or may not be noticed in time, but the stream must never get out of step.
    match client.end() {
        End::Last => drop(client.string()),
        End::Error(message, 1) => assert_eq!(message, "EOF expected (protocol error?)"),
        other => panic!("{other:?}"),
    }
    fixture.assert_serves();
}
