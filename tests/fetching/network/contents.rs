//! Contents of items.

use std::fs;
use std::time::Duration;

use substitutes::Compression;
use substitutes::network::{ErrorKind, Event, Fetch, Source};

use super::fixture::{Program, all_of, compress, file, last_events, next, noise, start, url};
use crate::harness::web_server::{Protocol, WebServer};

#[test]
fn every_compression_from_servers_and_files() {
    let contents = noise(3_000_000);
    let directory = tempfile::tempdir().unwrap();
    for compression in Compression::ALL {
        // Two members, as parallel compressors write.
        let (first, second) = contents.split_at(2_000_000);
        let file = [compress(first, compression), compress(second, compression)].concat();
        fs::write(directory.path().join(compression.name()), file).unwrap();
    }
    let program = Program::new();
    let size = contents.len() as u64;
    for protocol in [Protocol::Http, Protocol::Https, Protocol::Http2] {
        let server = WebServer::with(directory.path(), protocol, "");
        for compression in Compression::ALL {
            let address = server.url(compression.name());
            let fetched = program.fetch(vec![url(&address, compression)], size);
            let length = fs::metadata(directory.path().join(compression.name()))
                .unwrap()
                .len();
            let started = Event::Started {
                source: 0,
                total: Some(length),
            };
            assert_eq!(fetched.events[0], started);
            assert!(fetched.whole() == contents, "{compression}, {protocol:?}");
        }
    }
    for compression in Compression::ALL {
        let bytes = fs::read(directory.path().join(compression.name())).unwrap();
        let source = Source::File {
            file: file(&bytes),
            compression,
        };
        assert!(program.fetch(vec![source], size).whole() == contents);
    }
}

#[test]
fn many_items_at_once_for_several_users() {
    let contents = noise(200_000);
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("x"),
        compress(&contents, Compression::Zstd),
    )
    .unwrap();
    let server = WebServer::start(directory.path());
    let program = Program::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut exchange = program.exchange();
                let readers: Vec<_> = (0..50)
                    .map(|_| {
                        let sources = vec![url(server.url("x"), Compression::Zstd)];
                        start(&mut exchange, sources, contents.len() as u64).1
                    })
                    .collect();
                for event in last_events(&mut exchange).into_values() {
                    assert!(matches!(event, Event::Finished { .. }), "{event:?}");
                }
                for reader in readers {
                    assert!(reader.join().unwrap() == contents);
                }
            });
        }
    });
    // They are kept and used again.
    assert!(server.connections() <= 24, "{}", server.connections());
}

#[test]
fn a_reader_that_rests_makes_the_server_wait_and_holds_up_nobody() {
    let contents = noise(64 << 20);
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("large"), &contents).unwrap();
    fs::write(directory.path().join("small"), "small").unwrap();
    for protocol in [Protocol::Http, Protocol::Http2] {
        let server = WebServer::with(directory.path(), protocol, "");
        let program = Program::new();
        let mut exchange = program.exchange();
        let (reader, writer) = system::pipe::pipe().unwrap();
        let sources = vec![url(server.url("large"), Compression::None)];
        let size = contents.len() as u64;
        let resting = exchange.fetch(Fetch { sources, size }, writer);
        assert!(matches!(next(&mut exchange).1, Event::Started { .. }));
        for _ in 0..20 {
            assert_eq!(program.get(&server.url("small"), 10).unwrap().2, b"small");
            let small = vec![url(server.url("small"), Compression::None)];
            assert_eq!(program.fetch(small, 5).whole(), b"small");
        }
        assert!(program.peak_kib() < 32 << 10, "{} KiB", program.peak_kib());
        let body = std::thread::spawn(move || {
            let mut body = Vec::new();
            std::io::Read::read_to_end(&mut fs::File::from(reader), &mut body).unwrap();
            body
        });
        let events = all_of(&mut exchange, resting);
        assert!(
            matches!(events.last(), Some(Event::Finished { .. })),
            "{events:?}"
        );
        assert!(body.join().unwrap() == contents);
    }
}

#[test]
fn progress_is_reported_and_not_too_often() {
    let contents = noise(300_000);
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("x"), &contents).unwrap();
    let server = WebServer::with(directory.path(), Protocol::Http, "limit_rate 200k;");
    let begin = std::time::Instant::now();
    let fetched = Program::new().fetch(
        vec![url(server.url("x"), Compression::None)],
        contents.len() as u64,
    );
    let elapsed = begin.elapsed();
    let mut reports = Vec::new();
    for event in &fetched.events {
        if let Event::Progress { done, total } = event {
            assert_eq!(*total, Some(300_000));
            reports.push(*done);
        }
    }
    assert!(!reports.is_empty() && reports.is_sorted(), "{reports:?}");
    let limit = elapsed.as_millis() / 200 + 1;
    assert!(reports.len() as u128 <= limit, "{reports:?} in {elapsed:?}");
    assert!(fetched.whole() == contents);
}

#[test]
fn what_is_cancelled_ends_and_frees_its_place() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("large"), noise(4 << 20)).unwrap();
    let server = WebServer::start(directory.path());
    let program = Program::new();
    let mut exchange = program.exchange();
    let mut readers = Vec::new();
    // More than run at once, and nobody reads.
    for _ in 0..100 {
        let (reader, writer) = system::pipe::pipe().unwrap();
        let sources = vec![url(server.url("large"), Compression::None)];
        let size = 4 << 20;
        readers.push((exchange.fetch(Fetch { sources, size }, writer), reader));
    }
    assert!(matches!(next(&mut exchange).1, Event::Started { .. }));
    let (one, reader) = readers.swap_remove(0);
    exchange.cancel(one);
    // The end of the pipe comes.
    std::io::Read::read_to_end(&mut fs::File::from(reader), &mut Vec::new()).unwrap();
    assert_eq!(exchange.pending(), 99);
    drop(exchange);
    for (_, reader) in readers {
        std::io::Read::read_to_end(&mut fs::File::from(reader), &mut Vec::new()).unwrap();
    }
    let sources = vec![url(server.url("large"), Compression::None)];
    program.fetch(sources, 4 << 20).whole();
    assert_eq!(program.starts(), 1);
}

#[test]
fn a_pipe_that_is_closed_or_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("large"), noise(4 << 20)).unwrap();
    let server = WebServer::start(directory.path());
    let program = Program::new();
    let mut exchange = program.exchange();
    let sources = || vec![url(server.url("large"), Compression::None)];
    let (reader, writer) = system::pipe::pipe().unwrap();
    drop(reader);
    let size = 4 << 20;
    exchange.fetch(
        Fetch {
            sources: sources(),
            size,
        },
        writer,
    );
    // A regular file: the program must not be able to write one.
    exchange.fetch(
        Fetch {
            sources: sources(),
            size,
        },
        file(b""),
    );
    for event in last_events(&mut exchange).into_values() {
        let Event::Failed(error) = event else {
            panic!("{event:?}");
        };
        assert_eq!(error.kind(), ErrorKind::Output, "{error}");
    }
    program.fetch(sources(), size).whole();
    assert_eq!(program.starts(), 1);
}

#[test]
fn what_is_asked_for_wrongly_is_refused() {
    let program = Program::new();
    for sources in [
        Vec::new(),
        (0..33)
            .map(|_| url("http://127.0.0.1/", Compression::None))
            .collect(),
        vec![url(
            format!("http://{}/", "x".repeat(9000)),
            Compression::None,
        )],
        vec![url("file:///etc/hosts", Compression::None)],
        vec![url("ftp://127.0.0.1/x", Compression::None)],
    ] {
        let fetched = program.fetch_patiently(sources, 1, Duration::from_secs(5));
        assert_eq!(fetched.error().kind(), ErrorKind::Refused, "{fetched:?}");
        assert_eq!(fetched.body, b"");
    }
}
