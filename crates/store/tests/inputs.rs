//! What a derivation needs, with sizes.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::*;
use formats::derivation::{Derivation, ModuloHashes, Recipe};
use formats::hash::{Algorithm, Hash};
use formats::store_path::StorePath;
use store::{NewPath, Store};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Registers an item of this size, without files.
fn register(store: &Store, name: &str, nar_size: u64, references: &[&StorePath]) -> StorePath {
    let hash = Hash::of(Algorithm::Sha256, name.as_bytes());
    let path = store.dir().text_path(name, &hash, []).unwrap();
    register_as(store, &path, nar_size, references);
    path
}

fn register_as(store: &Store, path: &StorePath, nar_size: u64, references: &[&StorePath]) {
    let new = NewPath {
        path: path.clone(),
        hash: Hash::of(Algorithm::Sha256, b""),
        nar_size,
        references: references.iter().map(|path| (*path).clone()).collect(),
        deriver: None,
        registration_time: None,
    };
    store.register_valid_paths(&[new]).unwrap();
}

/// A derivation in the store with two outputs.
fn derivation(
    fixture: &Fixture,
    name: &str,
    inputs: &[(&StorePath, &str)],
    sources: &[&StorePath],
) -> (Derivation, StorePath) {
    let input = |(path, output): &(&StorePath, &str)| {
        ((*path).clone(), BTreeSet::from([(*output).to_owned()]))
    };
    let recipe = Recipe {
        outputs: BTreeMap::from([("out".to_owned(), None), ("doc".to_owned(), None)]),
        inputs: inputs.iter().map(input).collect(),
        sources: sources.iter().map(|path| (*path).clone()).collect(),
        system: "x86_64-linux".into(),
        builder: "/bin/sh".into(),
        ..Recipe::default()
    };
    let store = &fixture.store;
    let mut hashes = ModuloHashes::new();
    let (derivation, path) = recipe
        .instantiate(name, store.dir(), |input| {
            hashes.get(input, |path| store.read_derivation(path))
        })
        .unwrap();
    let roots = store.temp_roots();
    let text = derivation.to_bytes();
    let references = derivation.references();
    let name = format!("{name}.drv");
    let added = store.add_text(&name, &text, &references, &adding(&roots));
    assert_eq!(added.unwrap(), path);
    (derivation, path)
}

#[test]
fn they_are_outputs_and_sources_and_what_those_refer_to() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let library = register(store, "library", 1000, &[]);
    let source = register(store, "source", 30, &[&library]);
    let _other = register(store, "other", 5, &[&library]);
    let (before, drv) = derivation(&fixture, "before", &[], &[]);
    let output = before.outputs["doc"].path.clone();
    // It refers to itself, too.
    register_as(store, &output, 700, &[&source, &output]);
    register_as(store, &before.outputs["out"].path, 9, &[]);
    let (wanted, _) = derivation(&fixture, "wanted", &[(&drv, "doc")], &[&source]);
    let mut found = store.input_sizes(&wanted, 3, soon()).unwrap().unwrap();
    let mut expected = vec![(library, 1000), (source, 30), (output, 700)];
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    // One too many, and too late.
    assert_eq!(store.input_sizes(&wanted, 2, soon()).unwrap(), None);
    assert_eq!(store.input_sizes(&wanted, 3, Instant::now()).unwrap(), None);
}

#[test]
fn what_is_not_valid_does_not_count() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let (_, drv) = derivation(&fixture, "before", &[], &[]);
    let (wanted, _) = derivation(&fixture, "wanted", &[(&drv, "out")], &[]);
    let found = store.input_sizes(&wanted, 10, soon()).unwrap();
    assert_eq!(found, Some(Vec::new()));
}

#[test]
fn many_are_found_in_little_time() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let mut items: Vec<NewPath> = Vec::new();
    for number in 0..3000_usize {
        let name = format!("item-{number}");
        let hash = Hash::of(Algorithm::Sha256, name.as_bytes());
        let before = (1..=6).filter_map(|step| number.checked_sub(step * step));
        items.push(NewPath {
            path: store.dir().text_path(&name, &hash, []).unwrap(),
            hash,
            nar_size: 1,
            references: before.map(|index| items[index].path.clone()).collect(),
            deriver: None,
            registration_time: None,
        });
    }
    store.register_valid_paths(&items).unwrap();
    let last = &items[items.len() - 1].path;
    let (wanted, _) = derivation(&fixture, "wanted", &[], &[last]);
    let began = Instant::now();
    let found = store.input_sizes(&wanted, 20_000, soon()).unwrap().unwrap();
    println!("{} items in {:?}", found.len(), began.elapsed());
    assert!(found.len() > 2900, "{}", found.len());
}
