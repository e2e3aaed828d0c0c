//! Servers that mean harm.

use std::io::Write;
use std::time::Duration;

use substitutes::Compression;
use substitutes::network::{ErrorKind, Event};

use super::fixture::{HandServer, Program, compress, noise, respond, url};

#[test]
fn headers_and_bodies_without_end() {
    let server = HandServer::start(|_, header, stream| {
        let (head, line) = match header.split(' ').nth(1) {
            Some("/header") => ("HTTP/1.1 200 OK\r\n", "X-Field: rubbish\r\n"),
            Some("/line") => ("HTTP/1.1 200 OK\r\nX-Field: ", "rubbish"),
            Some("/missing") => ("HTTP/1.1 404 Not Found\r\n\r\n", "rubbish"),
            _ => ("HTTP/1.1 200 OK\r\n\r\n", "rubbish"),
        };
        let _ = stream.write_all(head.as_bytes());
        let block = line.repeat(1000);
        while stream.write_all(block.as_bytes()).is_ok() {}
    });
    let program = Program::new();
    for name in ["header", "line"] {
        let error = program.get(&server.url(name), 1000).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{name}: {error}");
        let fetched = program.fetch(vec![url(server.url(name), Compression::None)], 1000);
        assert_eq!(fetched.error().kind(), ErrorKind::Protocol);
    }
    let error = program.get(&server.url("body"), 1 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(program.get(&server.url("missing"), 1000).unwrap().0, 404);
    // No more is written than was asked for.
    let fetched = program.fetch(vec![url(server.url("body"), Compression::None)], 100_000);
    assert_eq!(fetched.whole().len(), 100_000);
    assert!(program.peak_kib() < 32 << 10, "{} KiB", program.peak_kib());
}

#[test]
fn bombs_end_at_the_size() {
    let zeros = vec![0; 64 << 20];
    let program = Program::new();
    for compression in Compression::ALL {
        let bomb = compress(&zeros, compression);
        let server = HandServer::start(move |_, _, stream| respond(stream, "200 OK", "", &bomb));
        let fetched = program.fetch(vec![url(server.url("x"), compression)], 1_000_000);
        assert!(fetched.whole() == zeros[..1_000_000], "{compression}");
    }
    assert!(program.peak_kib() < 64 << 10, "{} KiB", program.peak_kib());
}

#[test]
fn decoders_that_would_take_too_much_memory() {
    // A frame of zstd with a window of 2 GiB; a member of lzip with a dictionary of 512 MiB; a stream
    // of xz with a dictionary of 1.5 GiB.
    let zstd = b"\x28\xb5\x2f\xfd\x04\xa8\x01\x00\x00".to_vec();
    let lzip = b"LZIP\x01\x1d\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
    let mut xz = compress(b"x", Compression::Xz);
    xz[16] = 37;
    let crc = crc32(&xz[12..20]);
    xz[20..24].copy_from_slice(&crc.to_le_bytes());
    let program = Program::new();
    for (compression, body) in [
        (Compression::Zstd, zstd),
        (Compression::Lzip, lzip),
        (Compression::Xz, xz),
    ] {
        let server = HandServer::start(move |_, _, stream| respond(stream, "200 OK", "", &body));
        // (A small item would need little memory, whatever its header says.)
        let fetched = program.fetch(vec![url(server.url("x"), compression)], 1 << 40);
        assert_eq!(
            fetched.error().kind(),
            ErrorKind::Corrupt,
            "{compression}: {fetched:?}"
        );
    }
    assert!(program.peak_kib() < 32 << 10, "{} KiB", program.peak_kib());
}

/// The sum at the end of xz's headers.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn what_is_not_compressed_as_announced() {
    let contents = noise(100_000);
    let program = Program::new();
    for compression in &Compression::ALL[1..] {
        let compressed = compress(&contents, *compression);
        let mut damaged = compressed.clone();
        let middle = damaged.len() / 2;
        damaged[middle..middle + 50].fill(0x55);
        let cut = compressed[..middle].to_vec();
        for (body, size) in [
            (noise(5000), 100_000),
            (damaged, 100_000),
            (cut, 100_000),
            (Vec::new(), 100_000),
            // Whole, but shorter than the contents should be.
            (compressed, 100_001),
        ] {
            let server =
                HandServer::start(move |_, _, stream| respond(stream, "200 OK", "", &body));
            let fetched = program.fetch(vec![url(server.url("x"), *compression)], size);
            let kind = fetched.events.last().cloned();
            match kind {
                Some(Event::Failed(error)) => assert!(
                    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Interrupted),
                    "{compression}: {error}"
                ),
                // A decoder that verifies only at the end.
                Some(Event::Finished { .. }) => {
                    assert!(
                        fetched.body.len() == 100_000 && size == 100_000,
                        "{compression}"
                    );
                }
                other => panic!("{compression}: {other:?}"),
            }
        }
    }
    assert_eq!(program.starts(), 1);
}

#[test]
fn wrong_lengths() {
    let program = Program::new();
    let server = HandServer::start(|_, header, stream| {
        let head: &[u8] = match header.split(' ').nth(1) {
            Some("/long") => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort",
            Some("/short") => b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nlong body",
            Some("/huge") => b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nx",
            Some("/negative") => b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nx",
            Some("/none") => b"",
            _ => b"rubbish that isn't HTTP\r\n\r\n",
        };
        let _ = stream.write_all(head);
    });
    let error = |name: &str| program.get(&server.url(name), 1000).unwrap_err().kind();
    assert_eq!(error("long"), ErrorKind::Interrupted);
    assert_eq!(program.get(&server.url("short"), 1000).unwrap().2, b"lon");
    assert_eq!(error("none"), ErrorKind::Interrupted);
    assert_eq!(error("rubbish"), ErrorKind::Protocol);
    for name in ["huge", "negative"] {
        // libcurl has its own opinion, which may change; it must be one.
        let _ = program.get(&server.url(name), 1000);
        let sources = vec![url(server.url(name), Compression::None)];
        program.fetch_patiently(sources, 1000, Duration::from_secs(2));
    }
    assert_eq!(program.starts(), 1);
}

#[test]
fn a_narinfo_at_a_byte_a_second() {
    let server = HandServer::start(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let program = Program::new();
    let mut exchange = program.exchange();
    exchange.set_patience(Duration::from_secs(1));
    exchange.get(&server.url("x"), 1000);
    let (_, event) = super::fixture::next(&mut exchange);
    let Event::Failed(error) = event else {
        panic!("{event:?}");
    };
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[test]
fn files_of_empty_parts() {
    let contents = noise(100_000);
    let program = Program::new();
    for compression in &Compression::ALL[1..] {
        let empty = compress(b"", *compression);
        let compressed = compress(&contents, *compression);
        for (count, is_good) in [(0, true), (400, true), (5000, false)] {
            let body = [
                compressed.clone(),
                empty.repeat(count),
                // Padding of xz, between streams.
                vec![
                    0;
                    if *compression == Compression::Xz {
                        8
                    } else {
                        0
                    }
                ],
                compressed.clone(),
            ];
            let body = body.concat();
            let server =
                HandServer::start(move |_, _, stream| respond(stream, "200 OK", "", &body));
            let fetched = program.fetch(vec![url(server.url("x"), *compression)], 200_000);
            match is_good {
                true => assert!(fetched.whole() == contents.repeat(2), "{compression}"),
                false => {
                    let error = fetched.error();
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "{compression}: {error}");
                    let words = "too many of its parts are empty";
                    assert!(error.text().contains(words), "{compression}: {error}");
                }
            }
        }
    }
    assert_eq!(program.starts(), 1);
}

#[test]
fn an_index_of_xz_that_would_take_much_memory() {
    let records = 1u32 << 24;
    let mut body = compress(b"", Compression::Xz)[..12].to_vec();
    body.extend([0, 0x80, 0x80, 0x80, 0x08]);
    body.extend(std::iter::repeat_n(1, 2 * records as usize));
    let server = HandServer::start(move |_, _, stream| respond(stream, "200 OK", "", &body));
    let program = Program::new();
    let fetched = program.fetch(vec![url(server.url("x"), Compression::Xz)], 1000);
    assert_eq!(fetched.error().kind(), ErrorKind::Corrupt, "{fetched:?}");
    assert!(program.peak_kib() < 32 << 10, "{} KiB", program.peak_kib());
    assert_eq!(program.starts(), 1);
}

#[test]
fn frames_from_before_zstd_was_a_standard() {
    // Their windows aren't where those of today's frames are.
    let frame = compress(&noise(1000), Compression::Zstd);
    let program = Program::new();
    for (magic, is_first) in [(0x27, true), (0x27, false), (0x22, true)] {
        let mut body = if is_first { Vec::new() } else { frame.clone() };
        body.extend([magic, 0xb5, 0x2f, 0xfd, 0x00, 0x88, 1, 2, 3]);
        let server = HandServer::start(move |_, _, stream| respond(stream, "200 OK", "", &body));
        let fetched = program.fetch(vec![url(server.url("x"), Compression::Zstd)], 1 << 30);
        let first = fetched.failed_sources().first().map(|(_, error)| *error);
        let error = first.unwrap_or_else(|| fetched.error());
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        let words = "it is not compressed by zstd";
        assert!(error.text().contains(words), "{error}");
    }
}
