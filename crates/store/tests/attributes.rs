//! Access control lists and extended attributes: items have none but those set by the system,
//! whatever builders and the store directory have.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use formats::StorePath;
use formats::hash::Algorithm;
use store::{InodesSeen, VerifyRequest};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// An access control list in the kernel's format (`acl(5)`): everybody may read, except this user.
fn list_against(uid: u32) -> Vec<u8> {
    let mut list = 2u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    for (tag, permissions, id) in [
        (0x01u16, 6u16, nobody), // the owner
        (0x02, 0, uid),          // that user
        (0x04, 4, nobody),       // the group
        (0x10, 4, nobody),       // the mask
        (0x20, 4, nobody),       // others
    ] {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

fn attributes(path: &Path) -> Vec<String> {
    let names = xattr::list(path).unwrap();
    let foreign = names.filter(|name| !name.to_string_lossy().starts_with("security."));
    foreign.map(|name| name.into_string().unwrap()).collect()
}

/// A file in a directory, as a builder creates it, with every attribute that can be set.
fn tree_with_attributes(fixture: &Fixture) -> [PathBuf; 3] {
    let tree = fixture.root().join("tree");
    let file = tree.join("file");
    let link = tree.join("link");
    fs::create_dir(&tree).unwrap();
    fs::write(&file, "contents").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    xattr::set(&file, ACCESS, &list_against(65534)).unwrap();
    xattr::set(&file, "user.note", b"x").unwrap();
    xattr::set(&tree, ACCESS, &list_against(65534)).unwrap();
    xattr::set(&tree, DEFAULT, &list_against(65534)).unwrap();
    xattr::set(&tree, "user.long", &vec![b'x'; 1000]).unwrap();
    assert!(!attributes(&file).is_empty() && !attributes(&tree).is_empty());
    [tree, file, link]
}

#[test]
fn canonical_trees_have_none() {
    let fixture = Fixture::new();
    let files = tree_with_attributes(&fixture);
    let mut seen = InodesSeen::new();
    fixture
        .store
        .canonicalise(&files[0], None, &mut seen, &store::Quiet)
        .unwrap();
    for file in files {
        assert_eq!(attributes(&file), [""; 0], "{}", file.display());
        assert_canonical(&file);
    }
}

#[test]
fn items_inherit_nothing_from_the_store_directory() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let store = fixture.store.dir().as_path();
    xattr::set(store, DEFAULT, &list_against(65534)).unwrap();
    let text = fixture.add(&roots, "text", "text", &[]);
    let tree = Tree::Directory(vec![
        (
            "below",
            Tree::Directory(vec![("file", Tree::File(false, b"y".to_vec()))]),
        ),
        ("file", Tree::File(true, b"x".to_vec())),
        ("large", Tree::File(false, noise(1, 700_000))),
    ]);
    let add = |name: &str, tree: &Tree| {
        let nar = tree.nar();
        let (store, reader) = (&fixture.store, &mut nar.as_slice());
        store
            .add_nar(name, true, Algorithm::Sha256, reader, &adding(&roots))
            .unwrap()
    };
    let tree = add("tree", &tree);
    let file = add("file", &Tree::File(true, noise(2, 700_000)));
    let mut files = vec![text.as_path().to_owned(), file.as_path().to_owned()];
    for name in ["", "file", "large", "below", "below/file"] {
        files.push(tree.as_path().join(name));
    }
    for file in files {
        assert_eq!(attributes(&file), [""; 0], "{}", file.display());
        assert_canonical(&file);
    }
}

#[test]
fn verification_finds_old_ones_and_repair_removes_them() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let path = fixture.add(&roots, "old", "old", &[]);
    let other = fixture.add(&roots, "good", "good", &[]);
    xattr::set(path.as_path(), ACCESS, &list_against(65534)).unwrap();
    let verify = |repair: bool| {
        let listener = Listener::default();
        let refuse = |path: &StorePath| Err(format!("`{path}' is not what was damaged"));
        let request = VerifyRequest {
            contents: true,
            repair: repair.then_some(&refuse),
        };
        let errors = fixture.store.verify(&request, &listener).unwrap();
        let found = listener.heard(&format!("path `{path}' has extended attributes"));
        assert!(!listener.heard(&format!("path `{other}' has")));
        (errors, found)
    };
    assert_eq!(verify(false), (true, true));
    assert_eq!(verify(true), (false, true));
    assert_eq!(verify(false), (false, false));
    assert_eq!(attributes(path.as_path()), [""; 0]);
    assert_canonical(path.as_path());
}
