//! Users share the network: what one of them fetches, or cannot get on with, keeps no other from an item.

use std::fs;
use std::path::Path;

use crate::fixture::{Fixture, free_port, text_item};
use crate::harness::substitutes::{Item, Publisher, Tree};
use crate::harness::web_server::WebServer;
use crate::harness::{Site, eventually, program};
use crate::network::fixture::{HandServer, drip, noise, respond};

/// A server for the files of a directory, of which those of items called `slow-…` take ten minutes each.
fn slow_server(directory: &Path) -> HandServer {
    let directory = directory.to_owned();
    HandServer::start(move |_, header, stream| {
        let path = header.split(' ').nth(1).unwrap_or_default();
        match fs::read(directory.join(path.trim_start_matches('/'))) {
            Ok(contents) if path.contains("-slow-") => drip(stream, &contents),
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
    let contents = Tree::file(noise(400_000));
    let slow: Vec<_> = (0..40)
        .map(|number| fixture.publish(&Item::new(&format!("slow-{number}"), contents.clone())))
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

#[test]
fn with_few_descriptors_clients_wait_and_none_fails() {
    const CLIENTS: usize = 10;
    const ITEMS: usize = 10;
    let guix_fetch = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let site = Site::new().env("GUIX_FETCH", guix_fetch);
    let publisher = Publisher::new(site.path("server"));
    publisher.authorise(&site.configuration());
    let server = WebServer::start(publisher.directory());
    // The fewest with which the daemon starts.
    let mut command = site.command("sh");
    command.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""]);
    command.arg(program()).arg("--fetcher=guix-fetch");
    command.arg(format!("--substitute-urls={}", server.url("")));
    let fixture = Fixture::launch(site, command, publisher);
    let wanted: Vec<Vec<_>> = (0..CLIENTS)
        .map(|client| {
            let name = |item: usize| format!("item-{client}-{item}");
            let items = (0..ITEMS).map(|item| text_item(&name(item), &name(item)));
            items.map(|item| fixture.publish(&item)).collect()
        })
        .collect();
    let clients: Vec<_> = (0..CLIENTS).map(|_| fixture.client()).collect();
    std::thread::scope(|scope| {
        for (mut client, wanted) in clients.into_iter().zip(&wanted) {
            scope.spawn(move || {
                client.set(|_| ());
                client.build(&wanted.iter().collect::<Vec<_>>()).succeeded();
            });
        }
    });
    fixture.assert_holds(wanted.iter().flatten());
}
