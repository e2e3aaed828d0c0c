//! Substitutes, from a fake helper program.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use formats::{Hash, StorePath};
use protocol::operations::{
    BuildMode, MaybeSubstitutable, QuerySubstitutablePathInfo, SetOptions, Substitutable,
};

use crate::harness::Site;
use crate::items::*;
use crate::only_ours;
use crate::support::*;

/// A daemon whose helper has substitutes for these items, which are all texts.
fn with_substitutes(names: &[&str]) -> (Fixture, Vec<StorePath>) {
    let site = Site::new();
    let program = fake_guix(&site);
    let site = site.env("GUIX", program);
    let fixture = Fixture::with(site, &[]);
    let paths: Vec<_> = names.iter().map(|name| fixture.path(name)).collect();
    for path in &paths {
        let text = contents(path);
        let nar = Tree::file(text.as_str()).nar();
        let file = fixture.site.path("substitutes").join(path.base_name());
        let is = format!("sha256:{} {}\n", Hash::sha256(&nar).hex(), nar.len());
        fs::write(format!("{}.is", file.display()), is).unwrap();
        fs::write(file, text).unwrap();
    }
    (fixture, paths)
}

fn contents(path: &StorePath) -> String {
    format!("this is {}", path.name())
}

#[test]
fn what_there_is_to_download_is_told() {
    let (fixture, paths) = with_substitutes(&["one", "two"]);
    let mut client = fixture.client();
    let missing = fixture.path("missing");
    assert!(client.has_substitutes(&paths[0]).unwrap());
    assert!(!client.has_substitutes(&missing).unwrap());
    let mut asked: BTreeSet<StorePath> = paths.iter().cloned().collect();
    asked.insert(missing.clone());
    let found = client.query_substitutable_paths(asked.clone()).unwrap();
    assert_eq!(found, paths.iter().cloned().collect());
    let size = Tree::file(contents(&paths[0])).nar().len() as u64;
    let info = Substitutable {
        deriver: None,
        references: BTreeSet::new(),
        download_size: 1234,
        nar_size: size,
    };
    let infos = client.query_substitutable_path_infos(asked).unwrap();
    let expected: Vec<_> = paths
        .iter()
        .map(|path| (path.clone(), info.clone()))
        .collect();
    assert_eq!(infos, expected);
    let ask = |path: &StorePath| QuerySubstitutablePathInfo {
        path: path.as_str().into(),
    };
    assert_eq!(
        client.call(&ask(&paths[0])).unwrap(),
        MaybeSubstitutable(Some(info))
    );
    assert_eq!(
        client.call(&ask(&missing)).unwrap(),
        MaybeSubstitutable(None)
    );
    fixture.assert_holds([]);
    // A client that doesn't want substitutes isn't told about them.
    let options = SetOptions {
        use_substitutes: Some(false),
        ..SetOptions::default()
    };
    client.set_options(&options).unwrap();
    assert!(!client.has_substitutes(&paths[0]).unwrap());
}

#[test]
fn items_are_substituted_when_they_are_needed() {
    let (fixture, paths) = with_substitutes(&["one", "two"]);
    let mut client = fixture.client();
    client.ensure_path(&paths[0], &mut |_| {}).unwrap();
    assert_eq!(
        fs::read_to_string(paths[0].as_path()).unwrap(),
        contents(&paths[0])
    );
    assert_canonical(paths[0].as_path());
    fixture.assert_holds([&paths[0]]);
    client.ensure_path(&paths[0], &mut |_| {}).unwrap();
    let target = vec![paths[1].clone().into()];
    client
        .build_paths(target, BuildMode::Normal, &mut |_| {})
        .unwrap();
    fixture.assert_holds(&paths);
    assert!(!client.verify_store(true, false).unwrap());
}

#[test]
fn what_can_not_be_had_is_an_error_and_leaves_nothing() {
    let (fixture, _) = with_substitutes(&["x-broken"]);
    let mut client = fixture.client();
    let missing = fixture.path("missing");
    let refused = refusal(client.ensure_path(&missing, &mut |_| {}));
    assert_eq!(
        refused,
        format!("path `{missing}' does not exist and cannot be created")
    );
    // A missing substitute isn't an error.
    let target = vec![missing.into()];
    client
        .build_paths(target, BuildMode::Normal, &mut |_| {})
        .unwrap();
    // A helper that dies instead of replying.
    let broken = fixture.path("x-broken");
    let mut said = String::new();
    let result = client.ensure_path(&broken, &mut |text| {
        said.push_str(&String::from_utf8_lossy(text));
    });
    result.unwrap_err();
    assert!(said.contains("the server is on fire"), "{said}");
    fixture.assert_serves();
    fixture.assert_holds([]);
}

#[test]
fn a_substitute_that_is_not_what_it_should_be_is_refused() {
    let (fixture, paths) = with_substitutes(&["x"]);
    let file = fixture.site.path("substitutes").join(paths[0].base_name());
    fs::write(&file, "something else").unwrap();
    let mut client = fixture.client();
    // Guix's daemon believes what its helper says of it; the next check of the contents detects it.
    if client.ensure_path(&paths[0], &mut |_| {}).is_ok() {
        assert!(!crate::harness::is_ours());
        assert!(client.verify_store(true, false).unwrap());
    } else {
        fixture.assert_holds([]);
    }
}

#[test]
fn verification_repairs_from_substitutes() {
    let (fixture, paths) = with_substitutes(&["x", "y"]);
    let mut client = fixture.client();
    for path in &paths {
        client.ensure_path(path, &mut |_| {}).unwrap();
    }
    let user = add_text(&mut client, "user", "x", &[&paths[1]]);
    let damaged = paths[0].as_path();
    fs::set_permissions(damaged, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(damaged, "damaged").unwrap();
    fs::remove_file(paths[1].as_path()).unwrap();
    assert!(client.verify_store(true, false).unwrap());
    client.verify_store(true, true).unwrap();
    for path in &paths {
        assert_eq!(fs::read_to_string(path.as_path()).unwrap(), contents(path));
        assert_canonical(path.as_path());
    }
    assert!(!client.verify_store(true, false).unwrap());
    fixture.assert_holds(paths.iter().chain([&user]));
}

#[test]
fn what_a_substituter_says_forges_no_event() {
    only_ours!();
    for multiplexed in ["false", "true"] {
        let (fixture, paths) = with_substitutes(&["lying"]);
        let mut client = fixture.client();
        let mut options = SetOptions {
            print_build_trace: Some(true),
            ..SetOptions::default()
        };
        options.set("multiplexed-build-output", multiplexed);
        client.set_options(&options).unwrap();
        let mut said = String::new();
        let log = &mut |text: &[u8]| said.push_str(&String::from_utf8_lossy(text));
        client.ensure_path(&paths[0], log).unwrap();
        assert!(!said.contains("\n@ build-succeeded"), "{said}");
        assert!(!said.contains("\x1b[2J"), "{said}");
        assert!(said.contains("\\u{1b}[2J"), "{said}");
        assert!(said.contains("build-succeeded /victim.drv -\n"), "{said}");
        // What Guix's says.
        assert!(
            said.contains("@ download-started /f http://u 1\n"),
            "{said}"
        );
        assert!(said.contains("\x1b[1mbold\x1b[0m\n"), "{said}");
    }
}
