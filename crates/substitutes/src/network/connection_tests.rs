//! Tests of the side that decides, with a test in the place of the program: it gives the answers that a
//! program gives that a server has taken over.

use std::fs::File;
use std::io::{ErrorKind as ErrorOfSocket, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use formats::wire::WriteExt;
use system::process::Spawn;
use system::socket::receive_with_fds;

use super::super::message::{Reply, Request, VERSION};
use super::super::{
    ErrorKind, Event, Exchange, Fetch, Frames, Network, NetworkError, RequestId, Source,
};
use crate::compression::Compression;

/// More than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A network whose programs are played by the test: each start gives a socket.
fn network() -> (Network, Receiver<UnixStream>) {
    let (sender, starts) = channel();
    let network = Network::new(move |socket| {
        // There must be a process, which is killed in the end.
        let child = Spawn::new("/bin/sleep").arg("1000").spawn()?;
        sender.send(socket).expect("the test runs");
        Ok(child)
    });
    (network, starts)
}

/// The program, played by the test.
struct Played {
    socket: UnixStream,
    frames: Frames,
    files: Vec<OwnedFd>,
    requests: Vec<Request>,
}

impl Played {
    /// Waits for a start, and greets.
    fn start(starts: &Receiver<UnixStream>) -> Played {
        let mut played = Played::silent(starts);
        played.say(&[Reply::Hello { version: VERSION }]);
        assert_eq!(played.next(), Request::Hello { version: VERSION });
        played
    }

    fn silent(starts: &Receiver<UnixStream>) -> Played {
        let socket = starts.recv_timeout(TIMEOUT).expect("a start");
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        socket.set_write_timeout(Some(TIMEOUT)).unwrap();
        Played {
            socket,
            frames: Frames::default(),
            files: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// What is asked next.
    fn next(&mut self) -> Request {
        while self.requests.is_empty() {
            let mut buffer = [0; 4096];
            let (count, files) = receive_with_fds(&self.socket, &mut buffer).unwrap();
            assert!(count > 0, "hung up");
            self.files.extend(files);
            self.frames.add(&buffer[..count]);
            while let Some(message) = self.frames.take().unwrap() {
                self.requests.push(Request::decode(message).unwrap());
            }
        }
        self.requests.remove(0)
    }

    fn next_id(&mut self) -> (u64, RequestId) {
        match self.next() {
            Request::Get { requester, id, .. } | Request::Fetch { requester, id, .. } => {
                (requester.exchange, id)
            }
            other => panic!("{other:?}"),
        }
    }

    fn say(&mut self, replies: &[Reply]) {
        let mut stream = Vec::new();
        for reply in replies {
            reply.append_to(&mut stream);
        }
        // If the other side has had enough, that is what the test is about.
        let _ = self.socket.write_all(&stream);
    }

    /// Whether the other side hangs up.
    fn is_hung_up(&mut self) -> bool {
        match self.socket.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            // There was something that it hadn't read.
            Err(error) => error.kind() == ErrorOfSocket::ConnectionReset,
        }
    }
}

fn response(id: RequestId, body: &[u8]) -> Reply {
    Reply::Event {
        id,
        event: Event::Response {
            status: 200,
            max_age: None,
            retry_after: None,
            body: body.to_vec(),
        },
    }
}

fn event(id: RequestId, event: Event) -> Reply {
    Reply::Event { id, event }
}

fn next(exchange: &mut Exchange) -> (RequestId, Event) {
    exchange.wait(Some(TIMEOUT)).unwrap().expect("an event")
}

fn died(exchange: &mut Exchange) -> NetworkError {
    match next(exchange).1 {
        Event::Failed(error) if error.kind() == ErrorKind::ProgramDied => error,
        other => panic!("{other:?}"),
    }
}

fn fetch() -> Fetch {
    let url = "http://example.org/nar".to_owned();
    let compression = Compression::Zstd;
    Fetch {
        sources: vec![Source::Url { url, compression }],
        size: 1000,
    }
}

#[test]
fn whatever_the_program_must_not_say_ends_it() {
    let (network, starts) = network();
    let unframed = |word: u64| word.to_le_bytes().to_vec();
    let framed = |reply: Reply| {
        let mut stream = Vec::new();
        reply.append_to(&mut stream);
        stream
    };
    let mut unknown = unframed(16);
    unknown.write_u64(77).unwrap();
    unknown.write_u64(1).unwrap();
    let lies: Vec<Box<dyn Fn(RequestId) -> Vec<u8>>> = vec![
        Box::new(move |_| unframed(u64::MAX)),
        Box::new(move |_| unframed(3)),
        Box::new(move |_| unknown.clone()),
        Box::new(move |_| framed(Reply::Hello { version: VERSION })),
        // More than was asked for.
        Box::new(move |id| framed(response(id, &[b'x'; 101]))),
        // Something else than was asked for.
        Box::new(move |id| {
            let finished = Event::Finished {
                source: 0,
                received: 1,
                waited: 0,
            };
            framed(event(id, finished))
        }),
    ];
    for lie in lies {
        let mut exchange = Exchange::new(&network).unwrap();
        exchange.get("http://example.org/narinfo", 100);
        let mut played = Played::start(&starts);
        let (_, id) = played.next_id();
        let bytes = lie(id);
        played.socket.write_all(&bytes).unwrap();
        died(&mut exchange);
        assert!(played.is_hung_up());
    }
    // And of a fetch: a source that it doesn't have.
    let mut exchange = Exchange::new(&network).unwrap();
    let (_reader, writer) = system::pipe::pipe().unwrap();
    exchange.fetch(fetch(), writer);
    let mut played = Played::start(&starts);
    let (_, id) = played.next_id();
    let started = Event::Started {
        source: 1,
        total: None,
    };
    played.say(&[event(id, started)]);
    died(&mut exchange);
}

#[test]
fn another_version_or_no_greeting_ends_it() {
    let (network, starts) = network();
    for first in [
        Reply::Hello {
            version: VERSION + 1,
        },
        response(RequestId::from_number(1), b"x"),
    ] {
        let mut exchange = Exchange::new(&network).unwrap();
        exchange.get("http://example.org/narinfo", 100);
        let mut played = Played::silent(&starts);
        played.say(&[first]);
        died(&mut exchange);
        assert_eq!(exchange.pending(), 0);
    }
}

#[test]
fn a_program_that_ends_at_once_makes_requests_fail() {
    let network = Network::new(|socket| {
        let program = Spawn::new("/bin/sh").args(["-c", "exit 3"]);
        program.fd(socket, 0).spawn()
    });
    let mut exchange = Exchange::new(&network).unwrap();
    for number in 0..3 {
        exchange.get(&format!("http://example.org/{number}"), 100);
        let error = died(&mut exchange);
        assert!(error.text().contains("exit status: 3"), "{error}");
    }
}

#[test]
fn answers_that_nobody_waits_for_are_ignored() {
    let (network, starts) = network();
    let mut exchange = Exchange::new(&network).unwrap();
    let first = exchange.get("http://example.org/1", 100);
    let second = exchange.get("http://example.org/2", 100);
    let mut played = Played::start(&starts);
    assert_eq!(played.next_id().1, first);
    assert_eq!(played.next_id().1, second);
    played.say(&[
        response(RequestId::from_number(12345), b"nobody"),
        response(first, b"one"),
        response(first, b"again"),
        response(second, b"two"),
    ]);
    for (id, expected) in [(first, "one"), (second, "two")] {
        let (of, event) = next(&mut exchange);
        let Event::Response { body, .. } = event else {
            panic!("{event:?}");
        };
        assert_eq!((of, body), (id, expected.as_bytes().to_vec()));
    }
    assert_eq!(exchange.wait(None).unwrap(), None);
}

#[test]
fn a_flood_of_progress_takes_no_memory() {
    let (network, starts) = network();
    let mut exchange = Exchange::new(&network).unwrap();
    let (_reader, writer) = system::pipe::pipe().unwrap();
    let id = exchange.fetch(fetch(), writer);
    let mut played = Played::start(&starts);
    assert_eq!(played.next_id().1, id);
    for _ in 0..100 {
        let progress = |done| event(id, Event::Progress { done, total: None });
        played.say(&(0..1000).map(progress).collect::<Vec<_>>());
    }
    let finished = Event::Finished {
        source: 0,
        received: 7,
        waited: 0,
    };
    played.say(&[event(id, finished.clone())]);
    // Once the last event is there, so are all others that are kept.
    while exchange.pending() > 0 {
        let (_, event) = next(&mut exchange);
        if event == finished {
            break;
        }
        std::thread::yield_now();
    }
    assert_eq!(exchange.next_event(), None);

    // What isn't taken is one event.
    let (_reader, writer) = system::pipe::pipe().unwrap();
    let id = exchange.fetch(fetch(), writer);
    assert_eq!(played.next_id().1, id);
    let other = exchange.get("http://example.org/1", 10);
    assert_eq!(played.next_id().1, other);
    let progress = |done| event(id, Event::Progress { done, total: None });
    played.say(&(0..10_000).map(progress).collect::<Vec<_>>());
    played.say(&[response(other, b"x")]);
    system::poll::wait_readable(&exchange, Some(TIMEOUT)).unwrap();
    let mut marker = Exchange::new(&network).unwrap();
    let last = marker.get("http://example.org/2", 10);
    assert_eq!(played.next_id().1, last);
    played.say(&[response(last, b"x")]);
    next(&mut marker);
    assert!(matches!(
        next(&mut exchange),
        (_, Event::Progress { done: 9999, .. })
    ));
    assert_eq!(next(&mut exchange).0, other);
    assert_eq!(exchange.next_event(), None);
    // Begun and failed sources have a limit, too.
    let started = || {
        event(
            id,
            Event::Started {
                source: 0,
                total: None,
            },
        )
    };
    played.say(
        &std::iter::repeat_with(started)
            .take(1000)
            .collect::<Vec<_>>(),
    );
    let mut count = 0;
    let last = loop {
        match next(&mut exchange).1 {
            last if last.is_last() => break last,
            _ => count += 1,
        }
    };
    assert!(count < 100, "{count} events");
    // That request has failed, and no other one.
    match last {
        Event::Failed(error) => assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(played.next(), Request::Cancel { id });
    let other = exchange.get("http://example.org/3", 10);
    assert_eq!(played.next_id().1, other);
    played.say(&[response(other, b"x")]);
    assert_eq!(next(&mut exchange).0, other);
}

#[test]
fn a_program_that_does_not_listen_holds_up_nobody() {
    let (network, starts) = network();
    let mut exchange = Exchange::new(&network).unwrap();
    for number in 0..100_000 {
        exchange.get(
            &format!("http://example.org/{number}/{}", "x".repeat(1000)),
            100,
        );
    }
    let _silent = Played::silent(&starts);
    let (reader, writer) = system::pipe::pipe().unwrap();
    let last = exchange.fetch(fetch(), writer);
    assert_eq!(
        exchange.wait(Some(Duration::from_millis(10))).unwrap(),
        None
    );
    exchange.cancel(last);
    let mut end = Vec::new();
    File::from(reader).read_to_end(&mut end).unwrap();
    assert_eq!(exchange.pending(), 100_000);
}

#[test]
fn exchanges_take_turns_and_a_few_requests_are_given_at_once() {
    let (network, starts) = network();
    let mut greedy = Exchange::new(&network).unwrap();
    let first = greedy.get("http://example.org/first", 100);
    let mut played = Played::start(&starts);
    let (greedy_number, id) = played.next_id();
    assert_eq!(id, first);
    for number in 0..1000 {
        greedy.get(&format!("http://example.org/{number}"), 100);
    }
    let mut modest = Exchange::new(&network).unwrap();
    modest.get("http://example.org/modest", 100);
    // The window of the first is full long before its requests have come to an end.
    let mut of_greedy = 1;
    loop {
        let (exchange, _) = played.next_id();
        if exchange != greedy_number {
            break;
        }
        of_greedy += 1;
        assert!(of_greedy <= 256);
    }
}

#[test]
fn what_is_cancelled_is_told_and_says_nothing_any_more() {
    let (network, starts) = network();
    let mut exchange = Exchange::new(&network).unwrap();
    let (reader, writer) = system::pipe::pipe().unwrap();
    let id = exchange.fetch(fetch(), writer);
    let mut played = Played::start(&starts);
    assert_eq!(played.next_id().1, id);
    assert_eq!(played.files.len(), 1);
    exchange.cancel(id);
    assert_eq!(played.next(), Request::Cancel { id });
    let finished = Event::Finished {
        source: 0,
        received: 0,
        waited: 0,
    };
    played.say(&[event(id, finished)]);
    assert_eq!(exchange.wait(None).unwrap(), None);
    // Ours was closed when it had been sent.
    played.files.clear();
    File::from(reader).read_to_end(&mut Vec::new()).unwrap();
    let other = exchange.get("http://example.org/1", 100);
    assert_eq!(played.next_id().1, other);
    drop(exchange);
    assert_eq!(played.next(), Request::Cancel { id: other });
}

#[test]
fn the_program_ends_with_its_last_user() {
    let (network, starts) = network();
    let mut exchange = Exchange::new(&network).unwrap();
    exchange.get("http://example.org/1", 100);
    let mut played = Played::start(&starts);
    drop(network);
    drop(exchange);
    assert!(played.is_hung_up());
}

#[test]
fn a_program_that_was_prepared_is_the_one_that_is_asked() {
    let (network, starts) = network();
    network.prepare().unwrap();
    let mut played = Played::start(&starts);
    network.prepare().unwrap();
    let mut exchange = Exchange::new(&network).unwrap();
    let id = exchange.get("http://example.org/1", 100);
    assert_eq!(played.next_id().1, id);
    assert!(starts.try_recv().is_err());
}
