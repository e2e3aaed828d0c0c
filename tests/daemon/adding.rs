//! AddTextToStore and AddToStore: valid items, and invalid ones, which leave nothing behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use formats::{Algorithm, Hash};

use crate::harness::{Bytes, End, is_ours};
use crate::items::*;
use crate::only_ours;
use crate::support::*;

#[test]
fn texts_are_named_by_what_they_are_and_refer_to() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let text = add_text(&mut client, "hello.txt", "Hello, world!\n", &[]);
    let dir = fixture.dir();
    assert_eq!(
        text,
        dir.text_path("hello.txt", &Hash::sha256("Hello, world!\n"), [])
            .unwrap()
    );
    assert_eq!(fs::read(text.as_path()).unwrap(), b"Hello, world!\n");
    assert_canonical(text.as_path());
    let info = client.query_path_info(&text).unwrap();
    assert_eq!(info.nar_size, 128);
    let hash = "5849379a8b8cbfc4131d0c0f89ad020ea270d85f161e257b7d52135b58337ece";
    assert_eq!(info.hash.hex(), hash);
    assert_eq!((info.deriver, info.references), (None, BTreeSet::new()));
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now - u64::from(info.registration_time) < 60);

    let other = add_text(&mut client, "hello.txt", "Hello, world!\n", &[&text]);
    assert_ne!(other, text);
    assert_eq!(
        client.query_references(&other).unwrap(),
        [text.clone()].into()
    );
    let empty = add_text(&mut client, "empty", "", &[&text, &other]);
    assert_eq!(fs::read(empty.as_path()).unwrap(), b"");
    // Again: the same result, and nothing new.
    assert_eq!(
        add_text(&mut client, "hello.txt", "Hello, world!\n", &[]),
        text
    );
    fixture.assert_holds([&text, &other, &empty]);
}

#[test]
fn references_have_to_be_valid() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let missing = fixture.path("missing");
    let refused = refusal(client.add_text_to_store("text", "x", BTreeSet::from([missing.clone()])));
    assert_eq!(refused, format!("path `{missing}' is not valid"));
    // A text can't refer to itself, because its path depends on its references.
    let own = fixture
        .dir()
        .text_path("self", &Hash::sha256("x"), [])
        .unwrap();
    refusal(client.add_text_to_store("self", "x", BTreeSet::from([own])));
    fixture.assert_empty();
    let text = add_text(&mut client, "text", "x", &[]);
    assert_eq!(client.query_all_valid_paths().unwrap(), [text].into());
}

#[test]
fn bad_names_are_refused_and_the_connection_goes_on() {
    let fixture = Fixture::new();
    let mut client = fixture.raw();
    let long = "n".repeat(5000);
    let names = [
        "a/b",
        "../../etc/x",
        "/etc/x",
        ".hidden",
        "..",
        "a b",
        "a\nb",
        "é",
        "a!b",
        &long,
    ];
    for name in names {
        let text = Bytes::new()
            .word(8)
            .string(name)
            .string("x")
            .strings::<&str>(&[]);
        let nar = Bytes::new()
            .word(7)
            .string(name)
            .word(1)
            .word(1)
            .string("sha256");
        for (request, may_end) in [(text, false), (nar.raw(&sample().nar()), true)] {
            offer(&mut client, &request);
            match client.end() {
                End::Error(message, 1) => assert!(!message.is_empty()),
                // Guix's daemon unpacks first, and dies of some names.
                End::Closed if may_end => client = fixture.raw(),
                other => panic!("{name:?}: {other:?}"),
            }
        }
    }
    client.send(
        Bytes::new()
            .word(8)
            .string("a/b")
            .string("x")
            .strings::<&str>(&[]),
    );
    assert_error(client.end(), "invalid character `/' in name `a/b'");
    client.send(
        Bytes::new()
            .word(8)
            .string(".x")
            .string("x")
            .strings::<&str>(&[]),
    );
    assert_error(client.end(), "invalid name: `.x'");
    let own = add_text(&mut fixture.client(), "proper", "x", &[]);
    fixture.assert_holds([&own]);
    assert!(!fixture.site.path("etc/x").exists());
}

#[test]
fn names_with_nul_or_no_text_are_refused() {
    only_ours!();
    let fixture = Fixture::new();
    for name in [&b"a\0b"[..], b"\xff\xfe", b"a\0/../../x"] {
        for number in [7, 8] {
            let mut client = fixture.raw();
            client.send(
                Bytes::new()
                    .word(number)
                    .string(name)
                    .string("x")
                    .word(0)
                    .word(0),
            );
            match client.end() {
                End::Error(..) => {}
                other => panic!("{name:?}: {other:?}"),
            }
        }
    }
    fixture.assert_holds([]);
}

#[test]
fn trees_are_unpacked_as_they_are() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let tree = sample();
    let path = add_tree(&mut client, "tree", &tree).unwrap();
    let dir = fixture.dir();
    let hash = Hash::sha256(tree.nar());
    assert_eq!(path, dir.fixed_output_path("tree", true, &hash).unwrap());
    let info = client.query_path_info(&path).unwrap();
    assert_eq!((info.hash, info.nar_size), (hash, tree.nar().len() as u64));
    assert_canonical(path.as_path());
    let inside = |name: &str| path.as_path().join(name);
    assert_eq!(fs::read(inside("large")).unwrap(), noise(1, 700_000));
    assert_eq!(
        fs::read_link(inside("link")).unwrap().to_str(),
        Some("large")
    );
    assert_eq!(
        fs::metadata(inside("program"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o555
    );
    assert_eq!(
        fs::metadata(inside("small")).unwrap().permissions().mode() & 0o777,
        0o444
    );
    assert_eq!(fs::read_dir(inside("empty")).unwrap().count(), 0);
    // Files of 8 KiB and more are deduplicated.
    assert_eq!(fixture.links(), 2);
    let single = add_tree(&mut client, "single", &Tree::File(true, noise(2, 20_000))).unwrap();
    let (one, other) = (
        fs::metadata(single.as_path()),
        fs::metadata(inside("program")),
    );
    assert_eq!(one.unwrap().ino(), other.unwrap().ino());
    let link = add_tree(&mut client, "link", &Tree::Link("/nowhere")).unwrap();
    assert_eq!(
        fs::read_link(link.as_path()).unwrap().to_str(),
        Some("/nowhere")
    );
    fixture.assert_holds([&path, &single, &link]);
}

#[test]
fn every_algorithm_names_items_recursively_and_flat() {
    let fixture = Fixture::new();
    let (mut client, dir) = (fixture.client(), fixture.dir());
    let mut all = Vec::new();
    for algorithm in Algorithm::ALL {
        let file = Tree::file("contents");
        let path = client
            .add_to_store("flat", false, algorithm, |writer| file.write(writer))
            .unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
        let expected = dir.fixed_output_path("flat", false, &Hash::of(algorithm, "contents"));
        assert_eq!(path, expected.unwrap(), "{algorithm:?}");
        all.push(path);
        let tree = Tree::Directory(vec![("x", Tree::Link("y"))]);
        let path = client
            .add_to_store("tree", true, algorithm, |writer| tree.write(writer))
            .unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
        let expected = dir.fixed_output_path("tree", true, &Hash::of(algorithm, tree.nar()));
        assert_eq!(path, expected.unwrap(), "{algorithm:?}");
        all.push(path);
    }
    fixture.assert_holds(&all);
}

#[test]
fn only_a_file_can_be_flat_and_is_never_executable() {
    let fixture = Fixture::new();
    for tree in [sample(), Tree::Link("x"), Tree::Directory(vec![])] {
        let mut client = fixture.client();
        let refused = refusal(
            client.add_to_store("x", false, Algorithm::Sha256, |writer| tree.write(writer)),
        );
        assert_eq!(refused, "regular file expected");
    }
    fixture.assert_holds([]);
    let mut client = fixture.client();
    let program = Tree::File(true, b"x".to_vec());
    let path = client.add_to_store("x", false, Algorithm::Sha1, |writer| program.write(writer));
    let path = path.unwrap();
    assert_eq!(
        fs::metadata(path.as_path()).unwrap().permissions().mode() & 0o777,
        0o444
    );
}

#[test]
fn old_clients_get_the_hash_of_the_nar_whatever_they_say() {
    let fixture = Fixture::new();
    let mut client = fixture.raw();
    let nar = Tree::file("x").nar();
    let expected = fixture
        .dir()
        .fixed_output_path("x", true, &Hash::sha256(&nar))
        .unwrap();
    for (fixed, recursive, algorithm) in [(0, 0, "sha1"), (2, 0, "nonsense"), (1, 1, "sha256")] {
        let request = Bytes::new().word(7).string("x").word(fixed).word(recursive);
        client.send(request.string(algorithm).raw(&nar));
        assert_eq!(client.end(), End::Last);
        assert_eq!(client.string(), expected.as_str().as_bytes());
    }
    let request = Bytes::new()
        .word(7)
        .string("x")
        .word(1)
        .word(1)
        .string("sha257");
    client.send(request.raw(&nar));
    match client.end() {
        End::Error(..) | End::Closed => {}
        End::Last => panic!("accepted an unknown algorithm"),
    }
    fixture.assert_holds([&expected]);
}

#[test]
fn clients_that_add_the_same_at_once_get_the_same() {
    let fixture = Fixture::new();
    drop(fixture.client());
    let paths: BTreeSet<_> = std::thread::scope(|scope| {
        let adding: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = fixture.client();
                    let tree = add_tree(&mut client, "tree", &sample()).unwrap();
                    (tree, add_text(&mut client, "text", "x", &[]))
                })
            })
            .collect();
        adding
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(paths.len(), 1);
    let (tree, text) = paths.first().unwrap();
    fixture.assert_holds([tree, text]);
}

#[test]
fn derivations_with_outputs_elsewhere_are_refused() {
    let fixture = Fixture::new();
    let (mut client, dir) = (fixture.client(), fixture.dir());
    let (text, output) = fixed_derivation(&dir, "x", &Tree::file("x"));
    let elsewhere = fixture.path("x");
    let wrong = text.replace(output.as_str(), elsewhere.as_str());
    let refused = refusal(client.add_text_to_store("x.drv", wrong, BTreeSet::new()));
    let expected = format!("has incorrect output `{elsewhere}', should be `{output}'");
    assert!(refused.contains(&expected), "{refused}");
    let variable = text.replace(&format!(r#"("out","{output}")])"#), r#"("out","/x")])"#);
    refusal(client.add_text_to_store("x.drv", variable, BTreeSet::new()));
    // Guix's parser doesn't require the last parenthesis.
    let last = if is_ours() { 1 } else { 2 };
    for damaged in ["", "Derive(", "Derive([],[],[]", &text[..text.len() - last]] {
        let refused = refusal(client.add_text_to_store("x.drv", damaged, BTreeSet::new()));
        assert!(refused.contains("error parsing derivation"), "{refused}");
    }
    let known = client.query_all_valid_paths().unwrap();
    assert!(known.is_empty(), "{known:?}");
    let derivation = add_text(&mut client, "x.drv", &text, &[]);
    assert_eq!(client.query_all_valid_paths().unwrap(), [derivation].into());
}
