//! Users share the network: what one of them fetches, or cannot get on with, keeps no other from an item.

use std::fs;
use std::path::Path;

use crate::fixture::{Fixture, free_port, text_item};
use crate::harness::{Site, eventually};
use crate::network::fixture::{HandServer, drip, respond};

/// A server for the files of a directory, of which those of items called `slow-…` never come to an end.
fn slow_server(directory: &Path) -> HandServer {
    let directory = directory.to_owned();
    HandServer::start(move |_, header, stream| {
        let path = header.split(' ').nth(1).unwrap_or_default();
        if path.contains("-slow-") {
            return drip(stream);
        }
        match fs::read(directory.join(path.trim_start_matches('/'))) {
            Ok(contents) => respond(stream, "200 OK", "", &contents),
            Err(_) => respond(stream, "404 Not Found", "", b""),
        }
    })
}

#[test]
fn a_server_that_drips_for_one_user_serves_another() {
    let site = Site::new();
    let server = slow_server(&site.path("server"));
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let port = free_port();
    let options = [
        format!("--listen=127.0.0.1:{port}"),
        format!("--listen={}", site.socket().display()),
        "--max-substitutions=40".to_owned(),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let fixture = Fixture::with(site, program, server.url("").as_str(), &options);
    let slow: Vec<_> = (0..40)
        .map(|number| fixture.publish(&text_item(&format!("slow-{number}"), &number.to_string())))
        .collect();
    let quick = fixture.publish(&text_item("quick", "quick"));
    let mut greedy = fixture.stranger(port);
    let greedy = std::thread::spawn(move || {
        greedy.set(|_| ());
        greedy.build(&slow.iter().collect::<Vec<_>>())
    });
    let is_busy = || {
        let requests = server.requests();
        let slow = requests.iter().filter(|header| header.contains("-slow-"));
        slow.count() >= 24
    };
    assert!(eventually(is_busy), "{:#?}", server.requests());
    // Another user's turn comes, long before any of that ends.
    let mut client = fixture.client();
    client.set(|options| options.set("build-timeout", "60"));
    client.ensure(&quick).succeeded();
    fixture.assert_holds([&quick]);
    assert!(!greedy.is_finished());
    drop(fixture);
    greedy.join().unwrap().failed();
}
