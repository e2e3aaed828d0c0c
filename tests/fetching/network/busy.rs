//! Servers that are too busy to deliver an item now.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use substitutes::Compression;
use substitutes::network::{ErrorKind, Event};

use super::fixture::{HandServer, Program, noise, range_start, respond, url};

#[test]
fn a_busy_server_is_asked_for_an_item_again_a_few_times() {
    let program = Program::new();
    for (statuses, fields, expected, asked) in [
        (&["503 Busy", "429 Busy"][..], "Retry-After: 0\r\n", None, 3),
        (&["503 Busy"], "", None, 2),
        // A date is as good, by the server's clock.
        (
            &["429 Busy"],
            "Date: Fri, 27 Nov 2037 07:00:01 GMT\r\nRetry-After: Fri, 27 Nov 2037 07:00:00 GMT\r\n",
            None,
            2,
        ),
        (
            &["429 Busy"; 9],
            "Date: Fri, 27 Nov 2037 06:00:00 GMT\r\nRetry-After: Fri, 27 Nov 2037 07:00:00 GMT\r\n",
            Some(429),
            1,
        ),
        // It says that it is no use to wait.
        (&["503 Busy"; 9], "Retry-After: 3600\r\n", Some(503), 1),
        (&["429 Busy"; 9], "Retry-After: 0\r\n", Some(429), 4),
        // What is not said to pass is not waited for.
        (&["500 Broken"; 9], "Retry-After: 0\r\n", Some(500), 1),
    ] {
        let server = HandServer::start(move |number, _, stream| match statuses.get(number) {
            Some(status) => respond(stream, status, fields, b"later"),
            None => respond(stream, "200 OK", "", b"contents"),
        });
        let sources = vec![url(server.url("x"), Compression::None)];
        let fetched = program.fetch(sources, 8);
        assert_eq!(server.requests().len(), asked, "{statuses:?}");
        match expected {
            None => assert_eq!(fetched.whole(), b"contents"),
            Some(status) => assert_eq!(fetched.error().kind(), ErrorKind::Status(status)),
        }
    }
    assert_eq!(program.starts(), 1);
}

#[test]
fn it_is_left_alone_for_as_long_as_it_wishes() {
    let asked = Mutex::new(None);
    let server = HandServer::start(move |_, _, stream| {
        let mut first = asked.lock().unwrap();
        let begun = *first.get_or_insert_with(Instant::now);
        // Whoever comes too early does not get it.
        match begun.elapsed() {
            early if early < Duration::from_secs(2) => {
                respond(stream, "429 Busy", "Retry-After: 2\r\n", b"");
            }
            _ => respond(stream, "200 OK", "", b"contents"),
        }
    });
    let program = Program::new();
    let mut exchange = program.exchange();
    let requests: Vec<_> = (0..3)
        .map(|number| {
            let sources = vec![url(server.url(&number.to_string()), Compression::None)];
            super::fixture::start(&mut exchange, sources, 8)
        })
        .collect();
    let events = super::fixture::last_events(&mut exchange);
    for (id, reader) in requests {
        assert!(matches!(events[&id], Event::Finished { .. }), "{events:?}");
        assert_eq!(reader.join().unwrap(), b"contents");
    }
    // Once too early at most, each of them.
    assert!(server.requests().len() <= 6, "{:#?}", server.requests());
}

#[test]
fn another_server_that_has_the_item_is_asked_at_once() {
    let busy = HandServer::start(|_, _, stream| {
        respond(stream, "503 Busy", "Retry-After: 25\r\n", b"");
    });
    let good = HandServer::start(|_, _, stream| respond(stream, "200 OK", "", b"contents"));
    let sources = vec![
        url(busy.url("x"), Compression::None),
        url(busy.url("y"), Compression::None),
        url(good.url("z"), Compression::None),
    ];
    let program = Program::new();
    let fetched = program.fetch(sources, 8);
    let failed = fetched.failed_sources();
    let kinds: Vec<ErrorKind> = failed.iter().map(|(_, error)| error.kind()).collect();
    assert_eq!(kinds, [ErrorKind::Status(503); 2], "{failed:?}");
    // It was not asked for its second file.
    assert_eq!(busy.requests().len(), 1);
    assert_eq!(fetched.whole(), b"contents");
    // What waits for it can be cancelled.
    let mut exchange = program.exchange();
    let sources = vec![url(busy.url("x"), Compression::None)];
    let (id, reader) = super::fixture::start(&mut exchange, sources, 8);
    exchange.cancel(id);
    assert_eq!(reader.join().unwrap(), b"");
}

#[test]
fn an_item_is_continued_when_the_server_is_no_longer_busy() {
    let contents = noise(300_000);
    let served = contents.clone();
    let server = HandServer::start(move |number, header, stream| {
        let from = range_start(header).unwrap_or(0);
        if number == 1 {
            return respond(stream, "503 Busy", "Retry-After: 0\r\n", b"");
        }
        let (last, all) = (served.len() - 1, served.len());
        let (status, range) = match from {
            0 => ("200 OK", String::new()),
            _ => (
                "206 Partial Content",
                format!("Content-Range: bytes {from}-{last}/{all}\r\n"),
            ),
        };
        let length = all - from;
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"one\"\r\n{range}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let end = if number == 0 { 100_000 } else { all };
        stream.write_all(&served[from..end]).unwrap();
    });
    let sources = vec![url(server.url("x"), Compression::None)];
    let fetched = Program::new().fetch(sources, contents.len() as u64);
    assert!(fetched.whole() == contents);
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(range_start(&requests[2]).is_some_and(|from| from > 0));
}
