//! Substitutes as clients see them, from servers that can be reached and some that can't.

use std::fs;
use std::os::unix::fs::symlink;

use formats::StorePath;
use substitutes::Compression;

use crate::evil_program;
use crate::fixture::{Fixture, free_port, text_item};
use crate::harness::Site;
use crate::harness::substitutes::{Item, Publisher, Tree};

/// A daemon whose network program reads files, with these options.
fn with(options: &[&str]) -> Fixture {
    let site = Site::new();
    let program = evil_program::install(&site.path(""), "honest");
    Fixture::with(site, &program, "http://server.example", options)
}

/// Publishes so many items, of which each refers to the one before.
fn chain(fixture: &Fixture, length: usize) -> Vec<StorePath> {
    let mut paths: Vec<StorePath> = Vec::new();
    for number in 0..length {
        let mut item = plain(&format!("item-{number}"), &format!("contents of {number}"));
        if let Some(last) = paths.last() {
            item = item.reference(last);
        }
        paths.push(fixture.publish(&item));
    }
    paths
}

fn plain(name: &str, text: &str) -> Item {
    text_item(name, text).compressed(&[Compression::None])
}

#[test]
fn a_closure_is_looked_up_in_one_go_and_registered_references_first() {
    let fixture = with(&["--max-substitutions=3"]);
    let paths = chain(&fixture, 30);
    let mut client = fixture.client();
    client.set(|_| ());
    let done = client.build(&[&paths[29], &paths[20]]);
    done.succeeded();
    fixture.assert_holds(&paths);
    // One lookup.
    assert_eq!(done.log.matches("100.0%\n").count(), 1, "{}", done.log);
    let at = |path: &StorePath| {
        let trace = format!("@ substituter-succeeded {path}\n");
        done.log
            .find(&trace)
            .unwrap_or_else(|| panic!("{path}: {}", done.log))
    };
    assert!(paths.windows(2).all(|pair| at(&pair[0]) < at(&pair[1])));
}

#[test]
fn what_is_missing_of_a_closure_is_told_and_nothing_is_registered_without_it() {
    let fixture = with(&[]);
    let paths = chain(&fixture, 3);
    fixture.publisher.withdraw(&paths[0]);
    let mut client = fixture.client();
    client.set(|_| ());
    client.ensure(&paths[2]).failed();
    fixture.assert_holds([]);
}

#[test]
fn clients_are_told_what_there_is() {
    let fixture = with(&[]);
    let paths = chain(&fixture, 2);
    let missing = fixture
        .store()
        .join(&format!("{}-x", "1".repeat(32)))
        .unwrap();
    let mut client = fixture.client();
    let asked = [&paths[0], &paths[1], &missing];
    assert_eq!(
        client.substitutable(&asked),
        paths.iter().cloned().collect()
    );
    let asked = asked.into_iter().cloned().collect();
    let infos = client.0.query_substitutable_path_infos(asked).unwrap();
    assert_eq!(infos.len(), 2);
    for (path, info) in infos {
        let references = if path == paths[1] { &paths[..1] } else { &[] };
        assert_eq!(info.references, references.iter().cloned().collect());
        assert!(info.nar_size > 100 && info.download_size == info.nar_size);
    }
}

#[test]
fn a_directory_is_a_server_only_for_who_may_name_it() {
    let site = Site::new();
    let program = evil_program::install(&site.path(""), "dead");
    let port = free_port();
    let (tcp, unix) = (
        format!("--listen=127.0.0.1:{port}"),
        format!("--listen={}", site.socket().display()),
    );
    let fixture = Fixture::with(site, &program, "http://server.example", &[&tcp, &unix]);
    let path = fixture.publish(&plain("x", "text"));
    let url = fixture.publisher.url();
    // Root may.
    let mut client = fixture.client();
    client.set(|options| options.set("substitute-urls", url.as_str()));
    assert_eq!(client.substitutable(&[&path]), [path.clone()].into());
    // Others may not.
    let mut client = fixture.stranger(port);
    client.set(|options| options.set("substitute-urls", url.as_str()));
    assert_eq!(client.substitutable(&[&path]), [].into());
    let done = client.ensure(&path);
    done.failed();
    done.said("only the administrator can name a directory as a substitute server");
}

#[test]
fn links_in_a_servers_directory_lead_nowhere() {
    let site = Site::new();
    let program = evil_program::install(&site.path(""), "dead");
    let fixture = Fixture::with(site, &program, "http://server.example", &[]);
    let elsewhere = Publisher::new(fixture.site.path("elsewhere"));
    elsewhere.authorise(&fixture.site.configuration());
    let path = elsewhere.publish(&fixture.store(), &plain("x", "text"));
    let name = format!("{}.narinfo", path.hash_part());
    let link = fixture.publisher.directory().join(&name);
    symlink(elsewhere.directory().join(&name), &link).unwrap();
    let mut client = fixture.client();
    let url = fixture.publisher.url();
    client.set(|options| options.set("substitute-urls", url.as_str()));
    assert_eq!(client.substitutable(&[&path]), [].into());
    fs::remove_file(&link).unwrap();
    fs::copy(elsewhere.directory().join(&name), &link).unwrap();
    assert_eq!(client.substitutable(&[&path]), [path].into());
}

#[test]
fn an_unsigned_server_may_deliver_what_a_signed_one_vouches_for() {
    let site = Site::new();
    let program = evil_program::install(&site.path(""), "honest");
    let fixture = Fixture::with(site, &program, "http://server.example", &[]);
    let foreign = Publisher::new(fixture.site.path("foreign"));
    let item = plain("x", "text");
    let path = foreign.publish(&fixture.store(), &item);
    let mut client = fixture.client();
    let urls = format!("{} http://server.example", foreign.url());
    client.set(|options| options.set("substitute-urls", urls.as_str()));
    assert_eq!(client.substitutable(&[&path]), [].into());
    fixture.publish(&item);
    fixture.forget();
    assert_eq!(client.substitutable(&[&path]), [path.clone()].into());
    // The program reads no files; so the second server has to deliver after all.
    let done = client.ensure(&path);
    done.succeeded();
    done.said(&format!("download from '{}/nar/", foreign.url()));
    done.said(&format!(
        "@ download-succeeded {path} http://server.example/nar/"
    ));
    fixture.assert_holds([&path]);
}

#[test]
fn a_damaged_item_is_repaired() {
    let fixture = with(&[]);
    let path = fixture.publish(&plain("x", "text"));
    let mut client = fixture.client();
    client.ensure(&path).succeeded();
    fs::remove_file(path.as_path()).unwrap();
    fs::write(path.as_path(), "damaged").unwrap();
    assert!(client.0.verify_store(true, false).unwrap());
    client.0.verify_store(true, true).unwrap();
    assert_eq!(fs::read_to_string(path.as_path()).unwrap(), "text");
    assert!(!client.0.verify_store(true, false).unwrap());
    fixture.assert_holds([&path]);
}

#[test]
fn deduplication_is_the_daemons_to_decide() {
    use std::os::unix::fs::MetadataExt;
    for (options, links) in [(&[][..], 3), (&["--disable-deduplication"], 1)] {
        let fixture = with(options);
        let contents = "x".repeat(10_000);
        let tree = Tree::directory([("a", Tree::file(&contents)), ("b", Tree::file(&contents))]);
        let item = Item::new("x", tree).compressed(&[Compression::None]);
        let path = fixture.publish(&item);
        fixture.client().ensure(&path).succeeded();
        let file = path.as_path().join("a");
        assert_eq!(fs::metadata(file).unwrap().nlink(), links);
    }
}

#[test]
fn a_daemon_that_is_killed_leaves_what_the_collector_removes() {
    let fixture = with(&[]);
    let big = Tree::file(vec![b'x'; 4 << 20]);
    let item = Item::new("big", big).compressed(&[Compression::None]);
    let path = fixture.publish(&item);
    evil_program::set_mode(&fixture.site.path(""), "fetch hang");
    let mut client = fixture.client();
    let wanted = path.clone();
    let thread = std::thread::spawn(move || client.ensure(&wanted));
    let store = fixture.site.store();
    let unpacking = || {
        let names = fs::read_dir(&store).unwrap().flatten();
        let is_new = |name: String| !name.ends_with(".lock") && name != ".links";
        names
            .into_iter()
            .any(|entry| is_new(entry.file_name().into_string().unwrap()))
    };
    fixture.daemon.wait_until(unpacking, "to unpack");
    let (site, publisher) = (fixture.site, fixture.publisher);
    fixture.daemon.kill();
    thread.join().unwrap().failed();
    let program = evil_program::install(&site.path(""), "honest");
    let urls = "--substitute-urls=http://server.example";
    let site = site.env("GUIX_FETCH", program);
    let daemon = site.start(&[urls]);
    let fixture = Fixture {
        daemon,
        site,
        publisher,
    };
    let mut client = fixture.client();
    let collected = client.0.collect_garbage(
        protocol::operations::GcAction::DeleteDead,
        [].into(),
        u64::MAX,
        &mut |_| (),
    );
    collected.unwrap();
    drop(client);
    fixture.assert_holds([]);
    fixture.client().ensure(&path).succeeded();
    fixture.assert_holds([&path]);
}
