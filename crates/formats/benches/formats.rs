//! Criterion benchmarks of the formats, which are used by every build, import and collection.
#![allow(missing_docs)] // What criterion_group! makes has none.

use std::hint::black_box;
use std::io::{self, Write};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use formats::derivation::{Derivation, ModuloHashes};
use formats::hash::{Algorithm, Hash, Hasher};
use formats::nar::{self, Sink, Writer};
use formats::references::Scanner;
use formats::store_path::{StoreDir, StorePath};
use formats::{base32, derivation};

const MEGABYTE: usize = 1 << 20;

fn store() -> StoreDir {
    StoreDir::new("/gnu/store").expect("an absolute name")
}

/// Incompressible data without a pattern, always the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn paths(count: usize) -> Vec<StorePath> {
    let store = store();
    (0..count)
        .map(|number| {
            let name = format!("package-{number}-1.0");
            store
                .text_path(&name, &Hash::sha256(&name), [])
                .expect("a good name")
        })
        .collect()
}

fn hashes(criterion: &mut Criterion) {
    let data = noise(16 * MEGABYTE);
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("sha256", |bencher| {
        bencher.iter(|| {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            hasher.update(black_box(&data));
            hasher.finish()
        });
    });
    group.finish();
    let digest = Hash::sha256("digest");
    criterion.bench_function("base32/encode", |bencher| {
        bencher.iter(|| base32::encode(black_box(digest.bytes())));
    });
}

/// The archive of a tree of `count` small files.
fn archive(count: usize) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    let contents = noise(700);
    (|| -> io::Result<()> {
        writer.begin_directory()?;
        for number in 0..count {
            writer.entry(format!("file-{number:06}").as_str().into())?;
            writer.regular(
                number % 7 == 0,
                contents.len() as u64,
                &mut contents.as_slice(),
            )?;
        }
        writer.end_directory()
    })()
    .expect("writing to memory");
    writer.into_inner()
}

fn archives(criterion: &mut Criterion) {
    let small = archive(4000);
    let large = nar::of_file(false, &noise(16 * MEGABYTE));
    let mut group = criterion.benchmark_group("nar");
    for (name, archive) in [("4000 files", &small), ("16 MiB file", &large)] {
        group.throughput(Throughput::Bytes(archive.len() as u64));
        group.bench_function(format!("read/{name}"), |bencher| {
            bencher.iter(|| nar::read(&mut black_box(archive.as_slice()), &mut io::sink()));
        });
        group.bench_function(format!("copy/{name}"), |bencher| {
            bencher.iter(|| nar::copy(&mut black_box(archive.as_slice()), &mut io::sink()));
        });
    }
    group.finish();
}

/// A derivation the size of a C program's with a few dozen inputs.
fn text() -> Vec<u8> {
    let store = store();
    let mut recipe = derivation::Recipe {
        system: "x86_64-linux".into(),
        builder: "/gnu/store/00000000000000000000000000000000-bash/bin/bash".into(),
        ..Default::default()
    };
    recipe.outputs.insert("out".to_owned(), None);
    recipe.sources.extend(paths(40));
    for number in 0..30 {
        let value = "a value of the usual length, with a \"quote\" and a\nline";
        recipe
            .environment
            .insert(format!("variable{number}").into(), value.into());
    }
    let (derivation, _) = recipe
        .instantiate("hello-1.0", &store, |_| Ok(Hash::sha256("input")))
        .expect("a good recipe");
    derivation.to_bytes()
}

fn derivations(criterion: &mut Criterion) {
    let (store, text) = (store(), text());
    let mut group = criterion.benchmark_group("derivation");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("parse", |bencher| {
        bencher.iter(|| Derivation::parse(black_box(&text), &store));
    });
    let derivation = Derivation::parse(&text, &store).expect("our own text");
    group.bench_function("print", |bencher| {
        bencher.iter(|| black_box(&derivation).to_bytes())
    });
    group.bench_function("hash modulo", |bencher| {
        bencher.iter(|| derivation.hash_modulo(|_| Ok(Hash::sha256("input"))));
    });
    group.finish();

    // A chain: each derivation depends on the one before it.
    let mut chain: Vec<(StorePath, Derivation)> = Vec::new();
    let mut known = ModuloHashes::new();
    for number in 0..500 {
        let mut recipe = derivation::Recipe {
            system: "x".into(),
            ..Default::default()
        };
        recipe.outputs.insert("out".to_owned(), None);
        if let Some((before, _)) = chain.last() {
            recipe
                .inputs
                .insert(before.clone(), ["out".to_owned()].into());
        }
        let absent = |_: &StorePath| Err::<Derivation, io::Error>(io::ErrorKind::NotFound.into());
        let (derivation, path) = recipe
            .instantiate(&format!("link-{number}"), &store, |path| {
                known.get(path, absent)
            })
            .expect("a good recipe");
        let hash = derivation
            .hash_modulo(|path| known.get(path, absent))
            .expect("known inputs");
        known.insert(path.clone(), hash);
        chain.push((path, derivation));
    }
    let last = chain.last().expect("not empty").0.clone();
    let by_path: std::collections::HashMap<_, _> = chain.into_iter().collect();
    criterion.bench_function("derivation/hash modulo of a chain of 500", |bencher| {
        bencher.iter(|| {
            ModuloHashes::new()
                .get(&last, |path| Ok::<_, io::Error>(by_path[path].clone()))
                .expect("a known chain")
        });
    });
}

fn references(criterion: &mut Criterion) {
    let candidates = paths(200);
    let mut data = noise(16 * MEGABYTE);
    let found = candidates[100].as_str().as_bytes();
    data[8 * MEGABYTE..8 * MEGABYTE + found.len()].copy_from_slice(found);
    let mut group = criterion.benchmark_group("references");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("scan for 200", |bencher| {
        bencher.iter(|| {
            let mut scanner = Scanner::new(candidates.iter().cloned());
            scanner
                .write_all(black_box(&data))
                .expect("a scanner takes everything");
            scanner.finish()
        });
    });
    group.finish();
}

criterion_group! {
    name = all;
    config = Criterion::default().sample_size(20).without_plots();
    targets = hashes, archives, derivations, references
}
criterion_main!(all);
