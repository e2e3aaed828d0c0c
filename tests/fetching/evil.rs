//! A network program that was taken over can withhold and delay, and nothing else.

use std::fs;

use formats::nar::{self, Sink};
use formats::wire::WriteExt;
use formats::{StoreDir, StorePath};
use substitutes::Compression;

use crate::evil_program;
use crate::fixture::Fixture;
use crate::harness::substitutes::{Item, Tree};
use crate::harness::{Site, eventually};

const SERVER: &str = "http://evil.example";

/// A daemon whose network program lies in this way.
fn with(mode: &str) -> Fixture {
    let site = Site::new();
    let program = evil_program::install(&site.path(""), mode);
    Fixture::with(site, &program, SERVER, &[])
}

/// An item of several kilobytes.
fn item(name: &str, seed: u8) -> Item {
    let contents: Vec<u8> = (0..40_000u32).map(|n| (n % 251) as u8 ^ seed).collect();
    Item::new(name, Tree::file(contents)).compressed(&[Compression::None])
}

/// What remains of an item whose program has lied: nothing. And what a program that is honest again
/// makes of it: the item.
fn recovers(fixture: &Fixture, path: &StorePath) {
    fixture.assert_holds([]);
    evil_program::set_mode(&fixture.site.path(""), "honest");
    // The program may have to be started anew, after a pause.
    let again = || fixture.client().ensure(path).result.is_ok();
    assert!(eventually(again), "{:#?}", fixture.client().ensure(path));
    fixture.assert_holds([path]);
}

#[test]
fn an_honest_program_is_all_that_is_needed() {
    let fixture = with("honest");
    let first = fixture.publish(&item("first", 1));
    let second = fixture.publish(&item("second", 2).reference(&first));
    let mut client = fixture.client();
    client.set(|_| ());
    assert_eq!(client.substitutable(&[&first]), [first.clone()].into());
    let done = client.ensure(&second);
    done.succeeded();
    done.said(&format!("@ substituter-started {second} substitute\n"));
    done.said(&format!("@ download-started {second} {SERVER}/nar/"));
    done.said(&format!("@ download-succeeded {second} {SERVER}/nar/"));
    done.said(&format!("@ substituter-succeeded {second}\n"));
    fixture.assert_holds([&first, &second]);
    assert!(!client.0.verify_store(true, false).unwrap());
}

#[test]
fn what_it_says_of_an_item_is_not_believed() {
    for mode in [
        "get other",
        "get unsigned",
        "get changed",
        "get large",
        "get binary",
        "get finished",
        "get twice",
        "get gone",
        "get die",
        "dead",
        "garbage",
        "flood",
        "foreign",
    ] {
        println!("{mode}");
        let fixture = with(mode);
        let reference = fixture.publish(&item("reference", 1));
        let wanted = fixture.publish(&item("wanted", 2).reference(&reference));
        // An old item that is signed, with everything else right.
        let old = fixture.publish(&item("old", 3));
        let server = fixture.publisher.directory();
        let other = server.join(format!("{}.narinfo", old.hash_part()));
        fs::copy(other, fixture.site.path("other.narinfo")).unwrap();
        let mut client = fixture.client();
        client.set(|_| ());
        assert_eq!(client.substitutable(&[&wanted]), [].into());
        let done = client.ensure(&wanted);
        done.failed();
        done.did_not_say("\n@ build-succeeded");
        done.did_not_say("\x1b[2J");
        fixture.assert_holds([]);
        evil_program::set_mode(&fixture.site.path(""), "honest");
        // What was learnt of the server may be kept for a minute, but a cache can be deleted.
        let again = || {
            let _ = fs::remove_dir_all(fixture.site.state().join("substitute"));
            fixture.client().ensure(&wanted).result.is_ok()
        };
        assert!(eventually(again), "{:#?}", fixture.client().ensure(&wanted));
        fixture.assert_holds([&reference, &wanted]);
    }
}

/// A nar of a directory that has a file of this name.
pub fn nar_with(name: &str) -> Vec<u8> {
    let mut nar = Vec::new();
    for word in [
        "nix-archive-1",
        "(",
        "type",
        "directory",
        "entry",
        "(",
        "name",
        name,
        "node",
        "(",
        "type",
        "regular",
        "contents",
        "evil",
        ")",
        ")",
        ")",
    ] {
        nar.write_bytes(word.as_bytes()).unwrap();
    }
    nar
}

#[test]
fn what_it_delivers_instead_leaves_nothing() {
    for mode in [
        "fetch nothing",
        "fetch changed",
        "fetch short",
        "fetch endless",
        "fetch giant",
        "fetch lost source",
        "fetch response",
        "fetch refused",
        "fetch die",
    ] {
        println!("{mode}");
        let fixture = with(mode);
        let wanted = fixture.publish(&item("wanted", 1));
        let mut client = fixture.client();
        client.set(|_| ());
        let done = client.ensure(&wanted);
        done.failed();
        done.did_not_say("\n@ substituter-succeeded");
        done.did_not_say("\x1b[2J");
        done.said("@ substituter-failed ");
        if mode == "fetch changed" {
            done.said(&format!("@ hash-mismatch {wanted} sha256 "));
            done.said(&format!("hash mismatch for substituted item `{wanted}'"));
        }
        recovers(&fixture, &wanted);
    }
}

#[test]
fn nothing_waits_for_what_it_withholds() {
    for mode in ["fetch hang", "fetch die", "fetch short", "fetch changed"] {
        println!("{mode}");
        let fixture = with(mode);
        let mut last = fixture.publish(&item("first", 0));
        for seed in 1..5 {
            last = fixture.publish(&item("next", seed).reference(&last));
        }
        let mut client = fixture.client();
        client.set(|options| options.set("build-max-silent-time", "1"));
        client.ensure(&last).failed();
        fixture.assert_holds([]);
    }
}

#[test]
fn other_items_and_names_that_lead_elsewhere_are_not_unpacked() {
    for name in ["instead", "../evil", "..", "/tmp/evil", "a/b", ""] {
        let fixture = with("fetch file");
        let wanted = fixture.publish(&item("wanted", 1));
        let nar = match name {
            "instead" => Tree::directory([("x", Tree::file("not what was signed"))]).nar(),
            name => nar_with(name),
        };
        fs::write(fixture.site.path("instead.nar"), nar).unwrap();
        fixture.client().ensure(&wanted).failed();
        assert!(!fixture.site.path("evil").exists());
        recovers(&fixture, &wanted);
    }
}

#[test]
fn what_nobody_asked_for_is_nobodys_business() {
    // What follows the item, and events of no request.
    for mode in ["fetch longer", "get nobody"] {
        let fixture = with(mode);
        let wanted = fixture.publish(&item("wanted", 1));
        fixture.client().ensure(&wanted).succeeded();
        fixture.assert_holds([&wanted]);
    }
}

#[test]
fn a_program_that_hangs_delays_only_who_waits_for_it() {
    for mode in ["mute", "get hang", "fetch hang", "fetch progress"] {
        println!("{mode}");
        let fixture = with(mode);
        let wanted = fixture.publish(&item("wanted", 1));
        let stream = fixture.daemon.connect();
        let mut client = fixture.client_over(stream.try_clone().unwrap());
        client.set(|options| options.set("build-max-silent-time", "1"));
        let thread = std::thread::spawn(move || client.ensure(&wanted));
        // Meanwhile others are served.
        let text = (fixture
            .client()
            .0
            .add_text_to_store("text", "for others", [].into()))
        .unwrap();
        // Looking for substitutes ends when the client leaves, or when the program was silent for
        // longer than a test may take.
        let is_looking = matches!(mode, "mute" | "get hang");
        if is_looking {
            stream.shutdown(std::net::Shutdown::Both).unwrap();
        }
        let done = thread.join().unwrap();
        done.failed();
        if !is_looking {
            done.said("timed out after 1 seconds of silence");
        }
        fixture.assert_holds([&text]);
    }
}

/// The store of a fixture, for paths that nobody publishes.
fn missing(store: &StoreDir) -> StorePath {
    store.join(&format!("{}-missing", "0".repeat(32))).unwrap()
}

#[test]
fn without_an_authorised_key_nobody_is_asked() {
    let site = Site::new();
    let program = evil_program::install(&site.path(""), "dead");
    let started = site.path("started");
    let script = fs::read_to_string(&program).unwrap();
    let script = script.replace(
        "#!/bin/sh\n",
        &format!("#!/bin/sh\ntouch {}\n", started.display()),
    );
    fs::write(&program, script).unwrap();
    let fixture = Fixture::with(site, &program, SERVER, &[]);
    fs::remove_file(fixture.site.configuration().join("acl")).unwrap();
    let path = missing(&fixture.store());
    let mut client = fixture.client();
    let done = client.ensure(&path);
    done.failed();
    done.said("ACL for archive imports seems to be uninitialized");
    assert_eq!(client.substitutable(&[&path]), [].into());
    assert!(!started.exists());
    fixture.publisher.authorise(&fixture.site.configuration());
    client.ensure(&path).failed();
    assert!(started.exists());
}

#[test]
fn a_link_is_not_written_through() {
    let fixture = with("fetch file");
    let wanted = fixture.publish(&item("wanted", 1));
    let mut writer = nar::Writer::new(Vec::new());
    writer.begin_directory().unwrap();
    writer.entry("x".into()).unwrap();
    let target = fixture.site.path("evil");
    writer.symlink(target.to_str().unwrap().into()).unwrap();
    writer.end_directory().unwrap();
    let link = writer.into_inner();
    let file = nar_with("x");
    // After the beginning of the directory.
    let both = [&link[..link.len() - 16], &file[80..]].concat();
    fs::write(fixture.site.path("instead.nar"), both).unwrap();
    fixture.client().ensure(&wanted).failed();
    assert!(!target.exists());
    recovers(&fixture, &wanted);
}
