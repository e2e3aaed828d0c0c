//! Files made by Guix's own programs (`vectors/README.md`), read and written byte for byte.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::{BASE32_NOPAD, BASE64};
use formats::derivation::{Derivation, ModuloHashes};
use formats::hash::HashReader;
use formats::{Algorithm, Hash, StoreDir, StorePath, export, nar};

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name)
}

fn lines(name: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(vectors(name)).unwrap();
    text.lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

fn store() -> StoreDir {
    StoreDir::new("/gnu/store").unwrap()
}

/// `hash` in one of the formats that `guix hash` prints.
fn formatted(hash: &Hash, format: &str) -> String {
    match format {
        "nix-base32" => hash.base32(),
        "base16" => hash.hex(),
        // RFC 4648's base-32.
        "base32" => BASE32_NOPAD.encode(hash.bytes()).to_lowercase(),
        "base64" => BASE64.encode(hash.bytes()),
        _ => panic!("{format}"),
    }
}

#[test]
fn nars_are_read_and_written_the_same() {
    let mut count = 0;
    for entry in fs::read_dir(vectors("nar")).unwrap() {
        let name = entry.unwrap().path();
        let bytes = fs::read(&name).unwrap();
        let mut copy = Vec::new();
        let mut rest = bytes.as_slice();
        nar::read(&mut rest, &mut nar::Writer::new(&mut copy)).unwrap();
        assert!(rest.is_empty(), "{name:?}");
        assert_eq!(copy, bytes, "{name:?}");
        count += 1;
    }
    assert_eq!(count, 6);
    assert_eq!(
        nar::of_file(false, b"123456789"),
        fs::read(vectors("nar/nine.nar")).unwrap()
    );
    assert_eq!(
        nar::of_file(true, b"#!/bin/sh\nexit 0\n"),
        fs::read(vectors("nar/script.nar")).unwrap()
    );
}

#[test]
fn hashes_of_nars() {
    for line in lines("nar-hashes") {
        let [file, _, algorithm, format, expected] = line.as_slice() else {
            panic!("{line:?}");
        };
        let bytes = fs::read(vectors(&format!("nar/{file}.nar"))).unwrap();
        let hash = Hash::of(algorithm.parse().unwrap(), bytes);
        assert_eq!(formatted(&hash, format), *expected, "{line:?}");
    }
}

#[test]
fn hashes_of_files() {
    let mut checked = 0;
    for line in lines("flat-hashes") {
        let [file, algorithm, format, expected] = line.as_slice() else {
            panic!("{line:?}");
        };
        // `guix hash` supports more algorithms than its daemon, and therefore than we do.
        let Ok(algorithm) = algorithm.parse::<Algorithm>() else {
            continue;
        };
        let contents = match file.as_str() {
            "hello" => "hello, world\n",
            "empty" => "",
            "nine" => "123456789",
            _ => panic!("{line:?}"),
        };
        let hash = Hash::of(algorithm, contents);
        assert_eq!(formatted(&hash, format), *expected, "{line:?}");
        if matches!(format.as_str(), "nix-base32" | "base16") {
            assert_eq!(Hash::parse(algorithm, expected).unwrap(), hash, "{line:?}");
        }
        checked += 1;
    }
    assert_eq!(checked, Algorithm::ALL.len() * 3 * 4);
}

/// All derivations by their paths.
fn derivations() -> HashMap<StorePath, Derivation> {
    fs::read_dir(vectors("derivations"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "drv"))
        .map(|file| {
            let text = fs::read(&file).unwrap();
            let derivation = Derivation::parse(&text, &store()).unwrap();
            assert_eq!(derivation.to_bytes(), text, "{file:?}");
            let name = file.file_name().unwrap().to_str().unwrap();
            (store().join(name).unwrap(), derivation)
        })
        .collect()
}

#[test]
fn derivations_are_read_and_written_the_same_and_have_their_paths() {
    let all = derivations();
    assert_eq!(all.len(), 11);
    let mut hashes = ModuloHashes::new();
    let absent = |path: &StorePath| {
        all.get(path)
            .cloned()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    for (path, derivation) in &all {
        let contents = Hash::sha256(derivation.to_bytes());
        let name = path.name();
        let computed = store().text_path(name, &contents, &derivation.references());
        assert_eq!(computed.unwrap(), *path);
        derivation
            .check_outputs(path, &store(), |input| hashes.get(input, absent))
            .unwrap();
    }
    for line in lines("derivations/LIST") {
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        if let ["drv", path, "modulo", hash] = line.as_slice() {
            let path = store().parse(path.as_bytes()).unwrap();
            assert_eq!(hashes.get(&path, absent).unwrap().hex(), *hash, "{path}");
        }
    }
}

/// Reads an export and writes it again; returns the bytes and the paths of its items.
fn copy_export(bytes: &[u8]) -> (Vec<u8>, Vec<StorePath>) {
    let (mut copy, mut paths) = (Vec::new(), Vec::new());
    let mut input = bytes;
    while export::read_marker(&mut input).unwrap() {
        copy.extend_from_slice(&export::ITEM.to_le_bytes());
        let mut item = HashReader::new(&mut input, Algorithm::Sha256);
        nar::read(&mut item, &mut nar::Writer::new(&mut copy)).unwrap();
        let fields = export::Fields::read(&mut item, &store()).unwrap();
        let (_, hash, _) = item.finish();
        let signature = export::read_signature(&mut input).unwrap().unwrap();
        let signed = format!("(hash sha256 #{}#)", hash.hex().to_uppercase());
        assert!(signature.to_string().contains(&signed), "{signature}");
        fields.write(&mut copy).unwrap();
        export::write_signature(&mut copy, Some(&signature)).unwrap();
        paths.push(fields.path);
    }
    copy.extend_from_slice(&export::END.to_le_bytes());
    assert!(input.is_empty());
    (copy, paths)
}

#[test]
fn exports_are_read_and_written_the_same() {
    for (name, count) in [("one", 1), ("several", 3), ("closure", 2)] {
        let bytes = fs::read(vectors("export").join(name)).unwrap();
        let (copy, paths) = copy_export(&bytes);
        assert_eq!(copy, bytes, "{name}");
        assert_eq!(paths.len(), count, "{name}: {paths:?}");
    }
}
