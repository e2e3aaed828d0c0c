//! Adding, exporting and importing, with good and bad input.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use common::*;
use formats::hash::{Algorithm, Hash};
use store::{AddOptions, Error, Quiet, StoreOptions};

fn tree() -> Tree {
    Tree::Directory(vec![
        ("empty", Tree::Directory(vec![])),
        ("large", Tree::File(false, noise(1, 700_000))),
        ("link", Tree::Link("large")),
        ("program", Tree::File(true, noise(2, 20_000))),
        ("small", Tree::File(false, b"x".to_vec())),
    ])
}

#[test]
fn text_has_the_name_and_metadata_that_guix_gives_it() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let path = fixture.add(&roots, "hello.txt", "Hello, world!\n", &[]);
    let info = fixture.store.path_info(&path).unwrap();
    assert_eq!(info.nar_size, 128);
    assert_eq!(
        info.hash.hex(),
        "5849379a8b8cbfc4131d0c0f89ad020ea270d85f161e257b7d52135b58337ece"
    );
    assert_eq!(
        fs::read_to_string(path.as_path()).unwrap(),
        "Hello, world!\n"
    );
    assert_canonical(path.as_path());
    assert_eq!(
        fixture.entries(),
        BTreeSet::from([path.base_name().to_owned()])
    );
    let other = fixture.add(&roots, "other", "refers", &[&path]);
    assert_eq!(
        fixture.store.query_referrers(&path).unwrap(),
        BTreeSet::from([other.clone()])
    );
    assert_eq!(
        fixture.store.query_references(&other).unwrap(),
        BTreeSet::from([path.clone()])
    );
    let found = fixture
        .store
        .query_path_from_hash_part(path.hash_part())
        .unwrap();
    assert_eq!(found, Some(path));
}

#[test]
fn references_have_to_be_valid_and_nothing_is_left_if_not() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let missing = fixture
        .store
        .dir()
        .join("00000000000000000000000000000000-no")
        .unwrap();
    let error = fixture
        .try_add(&roots, "text", "x", &[&missing])
        .unwrap_err();
    assert_eq!(error.to_string(), format!("path `{missing}' is not valid"));
    assert!(fixture.entries().iter().all(|name| name.ends_with(".lock")));
    assert!(fixture.store.query_all_valid_paths().unwrap().is_empty());
    assert!(fixture.try_add(&roots, "a/b", "x", &[]).is_err());
    assert!(fixture.try_add(&roots, ".x", "x", &[]).is_err());
}

#[test]
fn trees_are_unpacked_with_canonical_metadata_and_deduplicated() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let nar = tree().nar();
    let add = |name: &str, algorithm| {
        fixture
            .store
            .add_nar(name, true, algorithm, &mut nar.as_slice(), &adding(&roots))
            .unwrap()
    };
    let path = add("tree", Algorithm::Sha256);
    let expected = fixture
        .store
        .dir()
        .fixed_output_path("tree", true, &Hash::sha256(&nar));
    assert_eq!(path, expected.unwrap());
    assert_canonical(path.as_path());
    let info = fixture.store.path_info(&path).unwrap();
    assert_eq!(
        (info.hash, info.nar_size),
        (Hash::sha256(&nar), nar.len() as u64)
    );
    assert_eq!(
        fixture
            .store
            .hash_path(path.as_path(), &store::Quiet)
            .unwrap(),
        (info.hash, info.nar_size)
    );
    // Two files are large enough for `.links`; an identical tree under another name shares them.
    assert_eq!(fixture.links(), 2);
    let again = add("again", Algorithm::Sha1);
    for name in ["large", "program"] {
        let (one, two) = (path.as_path().join(name), again.as_path().join(name));
        let (one, two) = (fs::metadata(one).unwrap(), fs::metadata(two).unwrap());
        assert_eq!(one.ino(), two.ino(), "{name}");
        assert_eq!(one.nlink(), 3);
    }
    assert_canonical(again.as_path());
    assert_eq!(fixture.entries().len(), 2);
    // The whole-store pass finds nothing more to do.
    let stats = fixture.store.optimise(&roots, &Quiet).unwrap();
    assert_eq!(stats.files_linked, 0);
}

#[test]
fn flat_files_are_named_by_their_contents_and_never_executable() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    for (size, algorithm) in [(14, Algorithm::Sha256), (400_000, Algorithm::Md5)] {
        let data = noise(9, size);
        let nar = Tree::File(true, data.clone()).nar();
        let path = fixture
            .store
            .add_nar(
                "flat",
                false,
                algorithm,
                &mut nar.as_slice(),
                &adding(&roots),
            )
            .unwrap();
        let hash = Hash::of(algorithm, &data);
        assert_eq!(
            path,
            fixture
                .store
                .dir()
                .fixed_output_path("flat", false, &hash)
                .unwrap()
        );
        assert_eq!(fs::read(path.as_path()).unwrap(), data);
        assert_eq!(fs::metadata(path.as_path()).unwrap().mode() & 0o7777, 0o444);
        let info = fixture.store.path_info(&path).unwrap();
        assert_eq!(
            fixture
                .store
                .hash_path(path.as_path(), &store::Quiet)
                .unwrap(),
            (info.hash, info.nar_size)
        );
    }
    let error = fixture
        .store
        .add_nar(
            "flat",
            false,
            Algorithm::Sha256,
            &mut tree().nar().as_slice(),
            &adding(&roots),
        )
        .unwrap_err();
    assert_eq!(error.to_string(), "regular file expected");
}

#[test]
fn damaged_nars_leave_nothing() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let nar = tree().nar();
    let mut cases: Vec<Vec<u8>> = [0, 8, 40, 300, 5_000, 300_000, nar.len() - 8]
        .map(|end| nar[..end].to_vec())
        .into();
    let mut padding = nar.clone();
    let last = padding.len() - 1;
    padding[last] = 1;
    cases.push(padding);
    for name in ["..", "a/b", "a\0", ""] {
        let mut forged = Tree::Directory(vec![("aaa", Tree::File(false, vec![]))]).nar();
        let at = forged
            .windows(3)
            .position(|window| window == b"aaa")
            .unwrap();
        forged[at - 8] = name.len() as u8;
        forged[at..at + 3].copy_from_slice(&[0; 3]);
        forged[at..at + name.len()].copy_from_slice(name.as_bytes());
        cases.push(forged);
    }
    for case in cases {
        let added = fixture.store.add_nar(
            "bad",
            true,
            Algorithm::Sha256,
            &mut case.as_slice(),
            &adding(&roots),
        );
        assert!(added.is_err());
        assert_eq!(fixture.entries(), BTreeSet::new());
    }
    assert!(fixture.store.query_all_valid_paths().unwrap().is_empty());
}

#[test]
fn leftovers_are_replaced_and_repairing_replaces_what_is_valid() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let nar = tree().nar();
    let path = fixture
        .store
        .dir()
        .fixed_output_path("tree", true, &Hash::sha256(&nar))
        .unwrap();
    fs::create_dir_all(path.as_path().join("left/over")).unwrap();
    let add = |repair| {
        let options = AddOptions {
            temp_roots: &roots,
            repair,
            progress: &Quiet,
        };
        let reader = &mut nar.as_slice();
        assert_eq!(
            fixture
                .store
                .add_nar("tree", true, Algorithm::Sha256, reader, &options)
                .unwrap(),
            path
        );
        assert_eq!(
            fixture
                .store
                .hash_path(path.as_path(), &store::Quiet)
                .unwrap()
                .0,
            Hash::sha256(&nar)
        );
    };
    add(false);
    fs::set_permissions(path.as_path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(path.as_path().join("small")).unwrap();
    add(true);
    let text = fixture.add(&roots, "text", "good", &[]);
    fs::remove_file(text.as_path()).unwrap();
    fs::create_dir(text.as_path()).unwrap();
    let options = AddOptions {
        temp_roots: &roots,
        repair: true,
        progress: &Quiet,
    };
    fixture
        .store
        .add_text("text", b"good", &BTreeSet::new(), &options)
        .unwrap();
    assert_eq!(fs::read(text.as_path()).unwrap(), b"good");
    assert_eq!(fixture.entries().len(), 2);
}

#[test]
fn derivations_with_wrong_outputs_are_refused() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let store = fixture.store.dir();
    let wrong = store.join("00000000000000000000000000000000-d").unwrap();
    let text = |out: &str| {
        format!(
            "Derive([(\"out\",\"{out}\",\"\",\"\")],[],[],\"x86_64-linux\",\"/bin/sh\",[],\
             [(\"out\",\"{out}\")])"
        )
    };
    let error = fixture
        .try_add(&roots, "d.drv", &text(wrong.as_str()), &[])
        .unwrap_err();
    assert!(
        error.to_string().contains("has incorrect output"),
        "{error}"
    );
    let right = error.to_string();
    let right = right
        .rsplit_once("should be `")
        .unwrap()
        .1
        .trim_end_matches('\'');
    let derivation = fixture.add(&roots, "d.drv", &text(right), &[]);
    let outputs = fixture.store.query_derivation_outputs(&derivation).unwrap();
    assert_eq!(outputs["out"].as_str(), right);
    let derivers = fixture.store.query_valid_derivers(&outputs["out"]).unwrap();
    assert_eq!(derivers, BTreeSet::from([derivation.clone()]));
    fixture.store.register_failed_path(&outputs["out"]).unwrap();
    assert!(fixture.store.has_path_failed(&outputs["out"]).unwrap());
    fixture
        .store
        .clear_failed_paths([derivation.as_str()])
        .unwrap();
    assert!(fixture.store.query_failed_paths().unwrap().is_empty());
    assert!(fixture.try_add(&roots, "e.drv", "Derive(", &[]).is_err());
}

#[test]
fn archives_go_to_another_store_and_only_with_the_right_signature() {
    let (from, to) = (Fixture::new(), tempfile::tempdir().unwrap());
    let roots = from.store.temp_roots();
    let nar = tree().nar();
    let text = from.add(&roots, "text", "x", &[]);
    let mut paths = vec![text.clone(), from.add(&roots, "refers", "y", &[&text])];
    paths.push(
        from.store
            .add_nar(
                "tree",
                true,
                Algorithm::Sha256,
                &mut nar.as_slice(),
                &adding(&roots),
            )
            .unwrap(),
    );
    let mut archive = Vec::new();
    let seal = Seal("secret");
    from.store
        .export_items(&paths, Some(&seal), &mut archive, &Quiet)
        .unwrap();
    // The other store has the same name, as in another mount namespace: it has its own state.
    let mut directories = common::directories(&from.root());
    directories.state = to.path().join("state");
    directories.database = to.path().join("state/db");
    for path in &paths {
        std::process::Command::new("rm")
            .arg("-rf")
            .arg(path.as_str())
            .status()
            .unwrap();
    }
    let store = store::Store::open(directories, StoreOptions::default(), &Quiet).unwrap();
    let roots = store.temp_roots();
    let other = Seal("other");
    let refused = store.import_items(&mut archive.as_slice(), &importing(&roots, Some(&other)));
    assert_eq!(refused.unwrap_err().to_string(), "unauthorized public key");
    let mut altered = archive.clone();
    let at = archive
        .windows(4)
        .position(|window| window == b"text")
        .unwrap();
    altered[at] = b'T';
    assert!(
        store
            .import_items(&mut altered.as_slice(), &importing(&roots, Some(&seal)))
            .is_err()
    );
    let cut = &archive[..archive.len() / 2];
    assert!(
        store
            .import_items(&mut &cut[..], &importing(&roots, Some(&seal)))
            .is_err()
    );
    assert!(!store.is_valid(&paths[2]).unwrap());
    let imported = store
        .import_items(&mut archive.as_slice(), &importing(&roots, Some(&seal)))
        .unwrap();
    assert_eq!(imported, paths);
    for path in &paths {
        let (old, new) = (
            from.store.path_info(path).unwrap(),
            store.path_info(path).unwrap(),
        );
        assert_eq!(
            (old.hash, old.nar_size, old.references),
            (new.hash, new.nar_size, new.references)
        );
        assert_canonical(path.as_path());
    }
    let mut unsigned = Vec::new();
    from.store
        .export_items(&paths, None, &mut unsigned, &Quiet)
        .unwrap();
    let error = store.import_items(&mut unsigned.as_slice(), &importing(&roots, Some(&seal)));
    assert!(matches!(error, Err(Error::Unsigned(_))));
    assert_eq!(
        store
            .import_items(&mut unsigned.as_slice(), &importing(&roots, None))
            .unwrap(),
        paths
    );
}

#[test]
fn altered_items_are_not_exported() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let path = fixture.add(&roots, "text", "as it was", &[]);
    std::process::Command::new("chmod")
        .arg("u+w")
        .arg(path.as_str())
        .status()
        .unwrap();
    fs::write(path.as_path(), "as it is").unwrap();
    let mut out = Vec::new();
    let error = fixture
        .store
        .export_items(&[path], None, &mut out, &Quiet)
        .unwrap_err();
    assert!(matches!(error, Error::HashChanged { .. }), "{error}");
}

#[test]
fn outputs_are_scanned_made_canonical_and_registered_together() {
    let fixture = Fixture::new();
    let roots = fixture.store.temp_roots();
    let input = fixture.add(&roots, "input", "x", &[]);
    let unused = fixture.add(&roots, "unused", "y", &[]);
    let out = fixture
        .store
        .dir()
        .join("11111111111111111111111111111111-out")
        .unwrap();
    fs::create_dir(out.as_path()).unwrap();
    fs::write(
        out.as_path().join("file"),
        format!("uses {input} and {out}"),
    )
    .unwrap();
    fs::hard_link(out.as_path().join("file"), out.as_path().join("hard")).unwrap();
    fs::write(out.as_path().join("big"), noise(4, 9_000)).unwrap();
    let us = nix::unistd::geteuid().as_raw();
    let mut seen = store::InodesSeen::new();
    assert!(
        fixture
            .store
            .canonicalise(out.as_path(), Some(us + 1), &mut seen, &store::Quiet)
            .is_err()
    );
    fixture
        .store
        .canonicalise(out.as_path(), Some(us), &mut seen, &store::Quiet)
        .unwrap();
    assert_canonical(out.as_path());
    let candidates = [&input, &unused, &out];
    let scan = fixture
        .store
        .scan_and_hash(out.as_path(), candidates, &store::Quiet)
        .unwrap();
    assert_eq!(
        scan.references,
        BTreeSet::from([input.clone(), out.clone()])
    );
    let new = store::NewPath {
        path: out.clone(),
        hash: scan.hash,
        nar_size: scan.nar_size,
        references: scan.references,
        deriver: None,
        registration_time: None,
    };
    fixture.store.register_valid_paths(&[new]).unwrap();
    fixture
        .store
        .deduplicate(&out, Some(&scan.files), &Quiet)
        .unwrap();
    assert_eq!(fixture.links(), 1);
    assert_canonical(out.as_path());
    let error = fixture.store.invalidate(&input).unwrap_err();
    assert!(error.to_string().contains("in use by"), "{error}");
    fixture.store.invalidate(&out).unwrap();
    fixture.store.invalidate(&input).unwrap();
}

#[test]
fn cycles_are_refused() {
    let fixture = Fixture::new();
    let [one, two] = ["1", "2"].map(|digit| {
        fixture
            .store
            .dir()
            .join(&format!("{}-x", digit.repeat(32)))
            .unwrap()
    });
    let new = |path: &formats::StorePath, reference: &formats::StorePath| store::NewPath {
        path: path.clone(),
        hash: Hash::sha256("x"),
        nar_size: 1,
        references: BTreeSet::from([reference.clone()]),
        deriver: None,
        registration_time: None,
    };
    let error = fixture
        .store
        .register_valid_paths(&[new(&one, &two), new(&two, &one)])
        .unwrap_err();
    assert!(matches!(error, Error::Cycle(_)), "{error}");
    assert!(fixture.store.query_all_valid_paths().unwrap().is_empty());
    fixture
        .store
        .register_valid_paths(&[new(&one, &two), new(&two, &two)])
        .unwrap();
}

#[test]
fn files_that_are_not_the_builders_are_refused() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can give files away");
    }
    const BUILDER: u32 = 54_321;
    let fixture = Fixture::new();
    let out = fixture
        .store
        .dir()
        .join("44444444444444444444444444444444-out")
        .unwrap();
    let file = |name: &str| out.as_path().join(name);
    let give = |path: &std::path::Path| {
        std::os::unix::fs::lchown(path, Some(BUILDER), Some(BUILDER)).unwrap();
    };
    fs::create_dir(out.as_path()).unwrap();
    fs::write(file("one"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/shadow", file("symlink")).unwrap();
    for path in [out.as_path().to_owned(), file("one"), file("symlink")] {
        give(&path);
    }
    fs::hard_link(file("one"), file("two")).unwrap();
    // When the file's second name is visited, the file already belongs to the daemon, as expected.
    let mut seen = store::InodesSeen::new();
    fixture
        .store
        .canonicalise(out.as_path(), Some(BUILDER), &mut seen, &store::Quiet)
        .unwrap();
    assert_canonical(out.as_path());
    // Also among the outputs of the same build, but not in those of another.
    let other = fixture
        .store
        .dir()
        .join("55555555555555555555555555555555-out")
        .unwrap();
    fs::hard_link(file("one"), other.as_path()).unwrap();
    fixture
        .store
        .canonicalise(other.as_path(), Some(BUILDER), &mut seen, &store::Quiet)
        .unwrap();
    let error = fixture
        .store
        .canonicalise(
            other.as_path(),
            Some(BUILDER),
            &mut store::InodesSeen::new(),
            &store::Quiet,
        )
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("invalid ownership on file `{other}'")
    );
    let made = std::process::Command::new("mkfifo")
        .arg(file("fifo"))
        .status()
        .unwrap();
    assert!(made.success());
    let error = fixture
        .store
        .canonicalise(
            out.as_path(),
            None,
            &mut store::InodesSeen::new(),
            &store::Quiet,
        )
        .unwrap_err();
    assert!(
        error.to_string().ends_with("has an unsupported type"),
        "{error}"
    );
}
