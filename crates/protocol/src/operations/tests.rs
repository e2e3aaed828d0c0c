use std::fmt::Debug;

use bstr::BString;
use formats::{Hash, StoreDir, StorePath};
use proptest::prelude::*;

use super::*;
use crate::codec::Source;
use crate::request::Request;
use crate::version::Version;

fn store() -> StoreDir {
    StoreDir::new("/gnu/store").unwrap()
}

fn path(name: &str) -> StorePath {
    store()
        .join(&format!("00000000000000000000000000000000-{name}"))
        .unwrap()
}

/// The versions with which the encoding changes, and their neighbours.
const VERSIONS: [u32; 13] = [
    0x101, 0x102, 0x104, 0x105, 0x106, 0x107, 0x10a, 0x10c, 0x10e, 0x10f, 0x160, 0x161, 0x164,
];

fn encoded(value: &impl Encode, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    value.encode(&mut out, version);
    out
}

/// At every version, what was encoded is decoded, without any bytes left.
fn round_trip<T: Encode + Decode + PartialEq + Debug>(value: T) {
    for version in VERSIONS.map(Version) {
        let bytes = encoded(&value, version);
        let mut input = &bytes[..];
        let read = T::decode(&mut Source::new(&mut input, &store(), version)).unwrap();
        assert!(
            input.is_empty(),
            "{version}: {} bytes left of {value:?}",
            input.len()
        );
        // Old versions lose fields; the remaining ones must be the same when encoded again.
        assert_eq!(encoded(&read, version), bytes, "{version}: {value:?}");
        if version == Version::CURRENT {
            assert_eq!(read, value);
        }
    }
}

/// One request of every operation.
fn samples() -> Vec<(Operation, Vec<u8>)> {
    fn sample<C: Call>(request: C) -> (Operation, Vec<u8>) {
        (C::OPERATION, encoded(&request, Version::CURRENT))
    }
    let one = || [path("a"), path("b")].into();
    vec![
        sample(IsValidPath {
            path: "anything".into(),
        }),
        sample(HasSubstitutes { path: path("a") }),
        sample(QueryPathHash { path: path("a") }),
        sample(QueryReferences { path: path("a") }),
        sample(QueryReferrers { path: path("a") }),
        sample(AddToStore {
            name: "n".into(),
            recursive: true,
            algorithm: "sha256".into(),
        }),
        sample(AddTextToStore {
            name: "n".into(),
            text: "t".into(),
            references: one(),
        }),
        sample(BuildPaths {
            targets: vec![path("a.drv").into()],
            mode: BuildMode::Check,
        }),
        sample(EnsurePath { path: path("a") }),
        sample(AddTempRoot { path: path("a") }),
        sample(AddIndirectRoot {
            link: "/home/link".into(),
        }),
        sample(SyncWithGC {}),
        sample(FindRoots {}),
        sample(ExportPath {
            path: path("a"),
            sign: true,
        }),
        sample(QueryDeriver { path: path("a") }),
        sample(options()),
        sample(CollectGarbage {
            action: GcAction::DeleteSpecific,
            paths: one(),
            ignore_liveness: false,
            max_freed: u64::MAX,
        }),
        sample(QuerySubstitutablePathInfo {
            path: "/gnu/store/x".into(),
        }),
        sample(QueryDerivationOutputs {
            path: path("a.drv"),
        }),
        sample(QueryAllValidPaths {}),
        sample(QueryFailedPaths {}),
        sample(ClearFailedPaths {
            paths: [BString::from("*")].into(),
        }),
        sample(QueryPathInfo { path: path("a") }),
        sample(ImportPaths {}),
        sample(QueryDerivationOutputNames {
            path: path("a.drv"),
        }),
        sample(QueryPathFromHashPart {
            hash_part: "0".repeat(32).into(),
        }),
        sample(QuerySubstitutablePathInfos { paths: one() }),
        sample(QueryValidPaths { paths: one() }),
        sample(QuerySubstitutablePaths { paths: one() }),
        sample(QueryValidDerivers { path: path("a") }),
        sample(OptimiseStore {}),
        sample(VerifyStore {
            check_contents: true,
            repair: true,
        }),
        sample(BuiltinBuilders {}),
        sample(SubstituteURLs {}),
        sample(QueryFarmStatus {}),
    ]
}

fn options() -> SetOptions {
    SetOptions {
        keep_failed: true,
        verbosity: 3,
        overrides: vec![("build-cores".into(), "4".into())],
        ..SetOptions::default()
    }
}

fn read(
    operation: Operation,
    mut bytes: &[u8],
    version: Version,
) -> Result<Request, crate::codec::Error> {
    Request::read(operation, &mut Source::new(&mut bytes, &store(), version))
}

#[test]
fn every_operation_is_read() {
    let samples = samples();
    let sampled: Vec<_> = samples.iter().map(|(operation, _)| *operation).collect();
    assert_eq!(sampled, Operation::ALL);
    for (operation, bytes) in samples {
        let request = read(operation, &bytes, Version::CURRENT).unwrap();
        assert_eq!(request.operation(), operation);
        assert_eq!(Operation::from_number(operation.number()), Some(operation));
        // Every proper prefix is incomplete.
        for end in 0..bytes.len() {
            assert!(
                read(operation, &bytes[..end], Version::CURRENT).is_err(),
                "{operation} {end}"
            );
        }
    }
}

#[test]
fn numbers_that_are_no_operations() {
    for number in [0, 2, 15, 17, 36, 79, 82, u32::MAX] {
        assert_eq!(Operation::from_number(number), None);
    }
}

#[test]
fn every_version() {
    round_trip(options());
    round_trip(BuildPaths {
        targets: vec![path("a").into()],
        mode: BuildMode::Repair,
    });
    round_trip(CollectGarbage {
        action: GcAction::ReturnDead,
        paths: [path("a")].into(),
        ignore_liveness: true,
        max_freed: 5,
    });
    let info = Substitutable {
        deriver: Some(path("a.drv")),
        references: [path("b")].into(),
        download_size: 1,
        nar_size: 2,
    };
    round_trip(MaybeSubstitutable(Some(info.clone())));
    round_trip(MaybeSubstitutable(None));
    round_trip(vec![(path("a"), info)]);
    round_trip(PathInfo {
        deriver: None,
        hash: Hash::sha256("x"),
        references: [path("a"), path("b")].into(),
        registration_time: 7,
        nar_size: 1 << 40,
    });
    round_trip(Collected {
        paths: vec![path("a")],
        bytes_freed: 1 << 50,
        obsolete: 0,
    });
}

/// The number of words in SetOptions, by version.
#[test]
fn options_by_version() {
    let words = |version| encoded(&SetOptions::default(), Version(version)).len() / 8;
    assert_eq!(words(0x101), 6);
    assert_eq!(words(0x102), 7);
    assert_eq!(words(0x104), 10);
    assert_eq!(words(0x106), 11);
    assert_eq!(words(0x10a), 12);
    assert_eq!(words(0x10c), 13);
    assert_eq!(words(0x160), 13);
    assert_eq!(words(0x161), 10);
}

#[test]
fn targets() {
    let parse = |text: &str| {
        let mut out = Vec::new();
        crate::codec::put_bytes(&mut out, text);
        Target::decode(&mut Source::new(&mut &out[..], &store(), Version::CURRENT))
    };
    let drv = path("a.drv");
    let target = parse(&format!("{drv}!out,lib")).unwrap();
    assert_eq!(target.path, drv);
    assert_eq!(target.to_string(), format!("{drv}!lib,out"));
    assert_eq!(parse(drv.as_str()).unwrap(), Target::from(drv.clone()));
    assert!(parse(&format!("{drv}!a/b")).is_err());
    assert_eq!(
        parse("/etc!x").unwrap_err().to_string(),
        "path `/etc!x' is not in the store"
    );
}

#[test]
fn old_clients_add_by_sha256() {
    let mut out = Vec::new();
    crate::codec::put_bytes(&mut out, "name");
    [0u32, 0]
        .iter()
        .for_each(|word| word.encode(&mut out, Version::CURRENT));
    crate::codec::put_bytes(&mut out, "md5");
    let request = AddToStore::decode(&mut Source::new(&mut &out[..], &store(), Version::CURRENT));
    let expected = AddToStore {
        name: "name".into(),
        recursive: true,
        algorithm: "sha256".into(),
    };
    assert_eq!(request.unwrap(), expected);
}

proptest! {
    /// Damaged requests are decoded or refused, at any version.
    #[test]
    fn damaged(
        which: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        version in prop::sample::select(&VERSIONS[..]),
    ) {
        let samples = samples();
        let (operation, mut bytes) = samples[which.index(samples.len())].clone();
        for (place, value) in damage {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
        }
        let _ = read(operation, &bytes, Version(version));
    }

    #[test]
    fn random(which: prop::sample::Index, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let operation = Operation::ALL[which.index(Operation::ALL.len())];
        let _ = read(operation, &bytes, Version::CURRENT);
    }
}
