//! Transfers that break off.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use substitutes::Compression;
use substitutes::network::{ErrorKind, Event, Fetch};

use super::fixture::{
    HandServer, Program, all_of, compress, field, noise, range_start, respond, url,
};
use crate::harness::eventually;

const TAG: &str = "ETag: \"one\"\r\n";

/// Sends a body from a byte on, but no more than `count` bytes of it.
fn send_piece(stream: &mut TcpStream, body: &[u8], from: usize, count: usize) {
    let rest = &body[from..];
    let status = match from {
        0 => "200 OK".to_owned(),
        _ => {
            let (last, length) = (body.len() - 1, body.len());
            format!("206 Partial Content\r\nContent-Range: bytes {from}-{last}/{length}")
        }
    };
    let length = rest.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{TAG}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&rest[..count.min(length)]).unwrap();
}

#[test]
fn a_server_that_breaks_off_again_and_again_is_asked_for_the_rest() {
    let contents = noise(2_000_000);
    for compression in [Compression::Zstd, Compression::Lzip] {
        let body = compress(&contents, compression);
        let pieces = body.len() / 100_000;
        let served = body.clone();
        let server = HandServer::start(move |_, header, stream| {
            let from = range_start(header).unwrap_or(0);
            send_piece(stream, &served, from, 100_000);
        });
        let fetched = Program::new().fetch(
            vec![url(server.url("x"), compression)],
            contents.len() as u64,
        );
        let finished = Event::Finished {
            source: 0,
            received: body.len() as u64,
            waited: 0,
        };
        let mut last = fetched.events.last().cloned();
        if let Some(Event::Finished { waited, .. }) = &mut last {
            assert!(*waited <= 100);
            *waited = 0;
        }
        assert_eq!(last, Some(finished));
        assert!(fetched.whole() == contents);
        let requests = server.requests();
        assert!(requests.len() >= pieces, "{} requests", requests.len());
        for request in &requests[1..] {
            assert_eq!(field(request, "If-Range"), Some("\"one\""), "{request}");
        }
    }
}

#[test]
fn what_cannot_be_continued_is_fetched_again_without_writing_anything_twice() {
    let contents = noise(1_000_000);
    let gzip = compress(&contents, Compression::Gzip);
    let zstd = compress(&contents, Compression::Zstd);
    // It ignores ranges, and the first time breaks off in the middle.
    let first = HandServer::start(move |number, _, stream| {
        let count = if number == 0 {
            gzip.len() / 2
        } else {
            gzip.len()
        };
        send_piece(stream, &gzip, 0, count);
    });
    let program = Program::new();
    let size = contents.len() as u64;
    let sources = vec![url(first.url("x"), Compression::Gzip)];
    assert!(program.fetch(sources, size).whole() == contents);
    assert_eq!(first.requests().len(), 3);

    // It has no tag, so that it can't be asked for the rest of the same; then another server comes.
    let served = zstd.clone();
    let second = HandServer::start(move |_, _, stream| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            served.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&served[..served.len() / 3]).unwrap();
    });
    let whole = noise(1_000_000);
    let third = HandServer::start(move |_, _, stream| respond(stream, "200 OK", "", &whole));
    let sources = vec![
        url(second.url("x"), Compression::Zstd),
        url(third.url("x"), Compression::None),
    ];
    let fetched = program.fetch(sources, size);
    let failed = fetched.failed_sources();
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (failed[0].0, failed[0].1.kind()),
        (0, ErrorKind::Interrupted)
    );
    assert!(fetched.whole() == contents);
}

#[test]
fn a_file_that_has_changed_meanwhile_is_not_continued() {
    let contents = noise(500_000);
    let served = contents.clone();
    let server = HandServer::start(move |number, _, stream| match number {
        0 => send_piece(stream, &served, 0, 200_000),
        // Not from where it was asked for.
        1 => send_piece(stream, &served, 7, 400_000),
        _ => send_piece(stream, &served, 0, served.len()),
    });
    let sources = vec![url(server.url("x"), Compression::None)];
    let fetched = Program::new().fetch(sources, contents.len() as u64);
    assert!(fetched.whole() == contents);
}

#[test]
fn a_server_that_falls_silent_or_sends_single_bytes_is_left() {
    let contents = noise(300_000);
    let served = contents.clone();
    let silent = HandServer::start(move |_, _, stream| {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&served[..100_000]).unwrap();
        loop {
            std::thread::park();
        }
    });
    let slow = HandServer::start(|_, _, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let whole = contents.clone();
    let good = HandServer::start(move |_, _, stream| respond(stream, "200 OK", "", &whole));
    let fetched = Program::new().fetch_patiently(
        vec![
            url(silent.url("x"), Compression::None),
            url(slow.url("x"), Compression::Gzip),
            url(good.url("x"), Compression::None),
        ],
        contents.len() as u64,
        Duration::from_secs(2),
    );
    let failed = fetched.failed_sources();
    let kinds: Vec<ErrorKind> = failed.iter().map(|(_, error)| error.kind()).collect();
    assert_eq!(kinds[0], ErrorKind::Timeout, "{failed:?}");
    assert_eq!(failed.len(), 2);
    assert!(fetched.whole() == contents);
}

#[test]
fn when_every_source_has_failed_the_last_reason_is_told() {
    let missing = HandServer::start(|_, _, stream| respond(stream, "404 Not Found", "", b"no"));
    let broken = HandServer::start(|_, _, stream| {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
            .unwrap();
    });
    let fetched = Program::new().fetch(
        vec![
            url(broken.url("x"), Compression::None),
            url(missing.url("x"), Compression::Zstd),
        ],
        9,
    );
    assert_eq!(fetched.error().kind(), ErrorKind::Status(404));
    assert!(fetched.error().text().contains(&missing.url("x")));
    assert_eq!(fetched.failed_sources().len(), 1);
    assert_eq!(fetched.body, b"");
}

#[test]
fn a_server_that_gets_on_a_little_in_every_round_is_left_in_the_end() {
    let contents = noise(1_000_000);
    let program = Program::new();
    let size = contents.len() as u64;
    // Without a tag, a round is a transfer from the beginning; with one, it is asked for the rest, and
    // begins anew each time.
    for (tag, servers, expected) in [("", 1, 3), ("", 3, 9), (TAG, 1, 6), (TAG, 3, 10)] {
        let (served, read) = (contents.clone(), Arc::new(AtomicUsize::new(0)));
        let reading = read.clone();
        let server = HandServer::start(move |number, header, stream| {
            let length = served.len();
            let piece = &served[..60_000 * (number + 1)];
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{tag}\r\n");
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(piece);
            // What is written to the pipe counts.
            if range_start(header).is_none() {
                eventually(|| read.load(Ordering::SeqCst) >= piece.len());
            }
        });
        let (mut reader, writer) = system::pipe::pipe()
            .map(|(r, w)| (File::from(r), w))
            .unwrap();
        let whole = contents.clone();
        let reader = std::thread::spawn(move || {
            let mut body = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                match reader.read(&mut buffer).unwrap() {
                    0 => return assert!(whole.starts_with(&body)),
                    count => body.extend(&buffer[..count]),
                }
                reading.store(body.len(), Ordering::SeqCst);
            }
        });
        let sources = (0..servers).map(|_| url(server.url("x"), Compression::None));
        let (sources, mut exchange) = (sources.collect(), program.exchange());
        let id = exchange.fetch(Fetch { sources, size }, writer);
        match all_of(&mut exchange, id).pop() {
            Some(Event::Failed(error)) => {
                assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
            }
            other => panic!("{other:?}"),
        }
        reader.join().unwrap();
        assert_eq!(server.requests().len(), expected, "{tag} {servers}");
    }
    assert_eq!(program.starts(), 1);
}
