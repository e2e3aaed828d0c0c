//! Permissions of clients.

use protocol::client::Connection;
use protocol::operations::{BuildMode, GcAction, SetOptions};

use crate::harness::{Bytes, End, RawClient, Site};
use crate::items::*;
use crate::support::*;

/// A client that isn't root.
fn nobody(fixture: &Fixture) -> Connection {
    fixture.greet(connect_as(NOBODY, &fixture.site.socket()))
}

#[test]
fn anybody_may_use_the_store() {
    let fixture = Fixture::new();
    let keys = fixture.install_keys();
    let mut client = nobody(&fixture);
    let text = add_text(&mut client, "text", "x", &[]);
    assert_canonical(text.as_path());
    let tree = add_tree(&mut client, "tree", &Tree::file(noise(1, 20_000))).unwrap();
    let mut archive = Vec::new();
    client
        .export_paths([&text, &tree], true, &mut archive)
        .unwrap();
    client.import_paths(&mut archive.as_slice()).unwrap();
    let imported = Item::text(&fixture.path("x"), "x").archive(Some(&keys));
    client.import_paths(&mut imported.as_slice()).unwrap();
    assert_canonical(fixture.path("x").as_path());
    client.optimise_store(&mut |_| {}).unwrap();
    assert!(!client.verify_store(true, false).unwrap());
    client.find_roots().unwrap();
    assert_eq!(
        collect(&mut client, GcAction::DeleteDead, &[]).paths.len(),
        3
    );
    fixture.assert_holds([]);
}

#[test]
fn only_root_may_repair() {
    let fixture = Fixture::new();
    let mut client = nobody(&fixture);
    let path = add_text(&mut client, "text", "x", &[]);
    for contents in [false, true] {
        let refused = refusal(client.verify_store(contents, true));
        assert_eq!(refused, "you are not privileged to repair paths");
        // An error of the operation only.
        client = match client.builtin_builders() {
            Ok(_) => client,
            Err(_) => nobody(&fixture),
        };
    }
    let target = vec![path.clone().into()];
    let refused = refusal(client.build_paths(target.clone(), BuildMode::Repair, &mut |_| {}));
    assert!(
        refused.contains("repairing is a privileged operation"),
        "{refused}"
    );
    client
        .builtin_builders()
        .expect_err("the connection is closed");
    let mut root = fixture.client();
    root.build_paths(target, BuildMode::Repair, &mut |_| {})
        .unwrap();
}

#[test]
fn nobody_may_import_without_a_signature_not_even_root() {
    let fixture = Fixture::new();
    fixture.install_keys();
    let unsigned = Item::text(&fixture.path("x"), "x").archive(None);
    let foreign = Item::text(&fixture.path("x"), "x").archive(Some(&new_keys()));
    for mut client in [fixture.client(), nobody(&fixture)] {
        let refused = refusal(client.import_paths(&mut unsigned.as_slice()));
        assert!(refused.contains("lacks a signature"), "{refused}");
    }
    for mut client in [fixture.client(), nobody(&fixture)] {
        let refused = refusal(client.import_paths(&mut foreign.as_slice()));
        assert!(refused.contains("unauthorized public key"), "{refused}");
    }
    fixture.assert_holds([]);
}

#[test]
fn only_root_sets_what_concerns_the_daemon() {
    let fixture = Fixture::with(Site::new(), &["--substitute-urls=https://daemon.example"]);
    let mut options = SetOptions::default();
    options.set("build-use-substitutes", "false");
    let mut root = fixture.client();
    root.set_options(&options).unwrap();
    assert_eq!(root.substitute_urls().unwrap().len(), 0);
    let mut client = nobody(&fixture);
    client.set_options(&options).unwrap();
    assert_eq!(
        client.substitute_urls().unwrap(),
        ["https://daemon.example"]
    );
    // An invalid value is not even checked.
    let mut options = SetOptions::default();
    options.set("build-use-chroot", "nonsense");
    let mut client = nobody(&fixture);
    client.set_options(&options).unwrap();
    client.builtin_builders().unwrap();
    let refused = refusal(fixture.client().set_options(&options));
    assert!(refused.contains("build-use-chroot"), "{refused}");
    // For themselves, they may choose.
    let mut options = SetOptions::default();
    options.set("substitute-urls", "https://own.example");
    options.set("build-max-jobs", "3");
    options.set("build-cores", "2");
    options.set("build-timeout", "10");
    options.set("build-max-silent-time", "10");
    options.set("build-repeat", "1");
    options.set("multiplexed-build-output", "true");
    let mut client = nobody(&fixture);
    client.set_options(&options).unwrap();
    assert_eq!(client.substitute_urls().unwrap(), ["https://own.example"]);
    assert_eq!(
        nobody(&fixture).substitute_urls().unwrap(),
        ["https://daemon.example"]
    );
}

#[test]
fn a_request_that_only_root_may_make_does_not_end_other_sessions() {
    let fixture = Fixture::new();
    let mut other = nobody(&fixture);
    let mut client = RawClient {
        stream: connect_as(NOBODY, &fixture.site.socket()),
    };
    client.send(Bytes::hello(0x64));
    assert_eq!(
        (client.word(), client.word(), client.end()),
        (0x6478_696f, 0x164, End::Last)
    );
    client.send(
        Bytes::new()
            .word(9)
            .strings(&[fixture.path("x").as_str()])
            .word(1),
    );
    assert_error(client.end(), "repairing is a privileged operation");
    assert!(client.is_closed());
    assert_eq!(other.builtin_builders().unwrap().len(), 2);
}
