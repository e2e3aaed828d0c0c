//! What one user does, with however many requests, holds up no other user.

use std::time::Duration;

use substitutes::Compression;
use substitutes::network::{Event, Fetch};

use super::fixture::{HandServer, Program, answer, drip, last_events, next, respond, start, url};
use crate::fixture::write_script;
use crate::harness::eventually;

/// A server whose files come at once, except for those that never come to an end.
fn server() -> HandServer {
    HandServer::start(|_, header, stream| match header.starts_with("GET /slow") {
        true => drip(stream, &[0; 1 << 20]),
        false => respond(stream, "200 OK", "", b"contents"),
    })
}

fn slow_requests(server: &HandServer) -> usize {
    let requests = server.requests();
    let slow = |header: &&String| header.starts_with("GET /slow");
    requests.iter().filter(slow).count()
}

#[test]
fn downloads_that_drip_leave_a_server_to_other_users() {
    let (server, program) = (server(), Program::new());
    // In one exchange, and in many.
    let mut greedy: Vec<_> = (0..31).map(|_| program.exchange_of(1)).collect();
    for number in 0..60 {
        let exchange = &mut greedy[number % 30];
        let sources = vec![url(server.url("slow"), Compression::None)];
        start(exchange, sources, 1 << 20);
    }
    for _ in 0..60 {
        let sources = vec![url(server.url("slow"), Compression::None)];
        start(&mut greedy[30], sources, 1 << 20);
    }
    assert!(eventually(|| slow_requests(&server) == 24));
    for user in [2, 3, 0] {
        let mut exchange = program.exchange_of(user);
        let readers: Vec<_> = (0..10)
            .map(|_| {
                let sources = vec![url(server.url("quick"), Compression::None)];
                start(&mut exchange, sources, 8).1
            })
            .collect();
        for event in last_events(&mut exchange).into_values() {
            assert!(matches!(event, Event::Finished { .. }), "{event:?}");
        }
        for reader in readers {
            assert_eq!(reader.join().unwrap(), b"contents");
        }
    }
    assert_eq!((slow_requests(&server), program.starts()), (24, 1));
}

#[test]
fn small_bodies_that_drip_leave_a_server_to_other_users() {
    let (server, program) = (server(), Program::new());
    // More than the program is given at once for one user, and for all.
    let mut greedy: Vec<_> = (0..20).map(|_| program.exchange_of(1)).collect();
    for exchange in &mut greedy {
        exchange.set_patience(Duration::from_secs(600));
        for _ in 0..300 {
            exchange.get(&server.url("slow"), 1 << 20);
        }
    }
    assert!(eventually(|| slow_requests(&server) >= 64));
    for user in [2, 3, 0] {
        let mut exchange = program.exchange_of(user);
        for _ in 0..20 {
            exchange.get(&server.url("quick"), 100);
        }
        for _ in 0..20 {
            let (_, event) = next(&mut exchange);
            assert_eq!(answer(event).unwrap().2, b"contents");
        }
    }
    // Nothing of the other user's has come to its end meanwhile.
    assert!(greedy.iter_mut().all(|one| one.next_event().is_none()));
    assert_eq!((slow_requests(&server), program.starts()), (64, 1));
}

#[test]
fn however_many_fetches_one_user_wants_the_program_has_descriptors_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("program");
    // The soft limit is often low; that of this process is, too, as long as nobody raises it.
    let guix_fetch = env!("CARGO_BIN_EXE_guix-fetch");
    write_script(
        &script,
        &format!("ulimit -S -n 256; exec '{guix_fetch}' \"$@\""),
    );
    system::open_files::raise_limit().unwrap();
    let (server, program) = (server(), Program::by(&script));
    let mut pipes = Vec::new();
    let mut greedy: Vec<_> = (0..10).map(|_| program.exchange_of(1)).collect();
    for number in 0..500 {
        let (reader, writer) = system::pipe::pipe().unwrap();
        let sources = vec![url(server.url("slow"), Compression::None)];
        let size = 1 << 20;
        greedy[number % 10].fetch(Fetch { sources, size }, writer);
        pipes.push(reader);
    }
    assert!(eventually(|| slow_requests(&server) == 24));
    let mut exchange = program.exchange_of(2);
    let sources = vec![url(server.url("quick"), Compression::None)];
    let (_, reader) = start(&mut exchange, sources, 8);
    let events = last_events(&mut exchange);
    assert_eq!(reader.join().unwrap(), b"contents", "{events:?}");
    for exchange in &mut greedy {
        while let Some((_, event)) = exchange.next_event() {
            assert!(!event.is_last(), "{event:?}");
        }
    }
    assert_eq!(program.starts(), 1);
}
