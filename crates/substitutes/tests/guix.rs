//! What Guix's own programs wrote (`vectors/README.md`): narinfos and nars of `guix publish`, the
//! cache of `guix substitute`.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use authority::Keys;
use formats::{Hash, StoreDir, StorePath};
use gcrypt::{Acl, PublicKey};
use substitutes::cache::{Answer, Cache, entry, time_to_live};
use substitutes::{Compression, Location, Narinfo, Server, Trust};

/// The server of which `vectors/cache` has the answers.
const SERVER: &str = "http://127.0.0.1:8732";

/// When they were received.
const RECEIVED: u64 = 1_795_823_761 - 37;

const ITEMS: [&str; 3] = [
    "8b244y85dpxvli3ppnnv459chj641jba-text.txt",
    "in37fqk2ma4jkggswbnc6r8dhhwsfh2l-refers.txt",
    "ba13mfx9rbsbivmpgpfpijf826klfnss-a+tree",
];

const ABSENT: &str = "00000000000000000000000000000000-none";

fn vectors(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors")
        .join(name)
}

fn store() -> StoreDir {
    StoreDir::new("/gnu/store").unwrap()
}

fn item(name: &str) -> StorePath {
    store().join(name).unwrap()
}

fn published(item: &StorePath) -> Vec<u8> {
    fs::read(vectors("published").join(Server::narinfo_name(item.hash_part()))).unwrap()
}

#[test]
fn published_narinfos_are_believed_and_lead_to_the_nars() {
    let configuration = tempfile::tempdir().unwrap();
    let mut acl = Acl::default();
    acl.authorize(PublicKey::load(&vectors("published/signing-key.pub")).unwrap());
    acl.save(configuration.path()).unwrap();
    let trust = Trust::new(Arc::new(Keys::new(configuration.path())), false);
    let judge = trust.judge().unwrap();
    let url = format!("file://{}", vectors("published").display());
    let server = Arc::new(Server::new(&url).unwrap());
    for name in ITEMS {
        let item = item(name);
        let narinfo = Narinfo::parse(&published(&item), &item, &store(), &server).unwrap();
        assert!(judge.vouches_for(&narinfo), "{name}");
        let offered = narinfo.variants().iter().map(|variant| variant.compression);
        let all = [Compression::Gzip, Compression::Zstd, Compression::Lzip];
        assert_eq!(offered.collect::<Vec<_>>(), all, "{name}");
        for variant in narinfo.variants() {
            let Location::File(file) = &variant.location else {
                panic!("{variant:?}")
            };
            let mut contents = Vec::new();
            let mut file = server.open(file).unwrap();
            file.read_to_end(&mut contents).unwrap();
            assert_eq!(variant.file_size, Some(contents.len() as u64), "{name}");
        }
    }
    // A changed byte above the signature is noticed.
    let item = item(ITEMS[0]);
    let text = String::from_utf8(published(&item)).unwrap();
    let changed = text.replace("NarSize: 128", "NarSize: 129");
    let narinfo = Narinfo::parse(changed.as_bytes(), &item, &store(), &server).unwrap();
    assert!(narinfo.signature().is_some() && !judge.vouches_for(&narinfo));
}

#[test]
fn references_and_sizes_are_those_of_the_items() {
    let server = Arc::new(Server::new(SERVER).unwrap());
    let parse = |name: &str| {
        Narinfo::parse(&published(&item(name)), &item(name), &store(), &server).unwrap()
    };
    let refers = parse(ITEMS[1]);
    assert_eq!(refers.references(), &[item(ITEMS[0])].into());
    assert_eq!(refers.deriver(), None);
    let text = parse(ITEMS[0]);
    let nar = formats::nar::of_file(false, b"Hello, world!\n");
    assert_eq!(text.nar_hash(), &Hash::sha256(&nar));
    assert_eq!(text.nar_size(), nar.len() as u64);
    let tree = parse(ITEMS[2]);
    assert_eq!(
        tree.url_of(&tree.variants()[1]),
        format!("{SERVER}/nar/zstd/ba13mfx9rbsbivmpgpfpijf826klfnss-a%2Btree")
    );
}

#[test]
fn the_cache_of_guix_is_read() {
    let cache = Cache::new(vectors("cache"));
    let of_server = cache.of(&Server::new(SERVER).unwrap());
    let wanted: Vec<_> = ITEMS.into_iter().chain([ABSENT]).map(item).collect();
    let at = |now| of_server.get_each(&wanted, now);
    let narinfo = |item| {
        let text = String::from_utf8(published(item)).unwrap();
        Some(Answer::Narinfo(text))
    };
    let known: Vec<_> = wanted[..3].iter().map(narinfo).collect();
    let with_absent = |absent| [&known[..], &[absent]].concat();
    let negative = time_to_live(404, None);
    assert_eq!(at(RECEIVED), with_absent(Some(Answer::Absent)));
    assert_eq!(at(RECEIVED + negative), with_absent(Some(Answer::Absent)));
    assert_eq!(at(RECEIVED + negative + 1), with_absent(None));
    assert_eq!(at(RECEIVED + time_to_live(200, None)), with_absent(None));
    assert_eq!(
        at(RECEIVED + time_to_live(200, None) + 1),
        [const { None }; 4]
    );
    // Another server's answers are other files.
    let other = cache.of(&Server::new("http://127.0.0.1:8732/").unwrap());
    assert_eq!(other.get_each(&wanted, RECEIVED), [const { None }; 4]);
}

#[test]
fn the_cache_is_written_as_guix_writes_it() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path().join("made/for it"));
    let server = Server::new(SERVER).unwrap();
    let ours = cache.of(&server);
    for name in ITEMS {
        let text = String::from_utf8(published(&item(name))).unwrap();
        let ttl = time_to_live(200, None);
        ours.put(&item(name), &Answer::Narinfo(text), ttl, RECEIVED)
            .unwrap();
    }
    let ttl = time_to_live(404, None);
    ours.put(&item(ABSENT), &Answer::Absent, ttl, RECEIVED)
        .unwrap();
    let mut names = 0;
    for server in fs::read_dir(vectors("cache")).unwrap() {
        let server = server.unwrap();
        if !server.file_type().unwrap().is_dir() {
            continue;
        }
        for file in fs::read_dir(server.path()).unwrap() {
            let file = file.unwrap();
            let name = Path::new(&server.file_name()).join(file.file_name());
            let ours = fs::read_to_string(cache.directory().join(&name)).unwrap();
            assert_eq!(ours, fs::read_to_string(file.path()).unwrap(), "{name:?}");
            names += 1;
        }
    }
    assert_eq!(names, ITEMS.len() + 1);
    assert_eq!(ours.get(&item(ABSENT), RECEIVED), Some(Answer::Absent));
}

#[test]
fn guiles_string_literals_are_read() {
    let expected: String = (0..=0x7f)
        .chain([
            0x7f, 0x80, 0x85, 0x9f, 0xa0, 0xad, 0xe9, 0xff, 0x100, 0x3bb, 0x2028, 0x202e,
        ])
        .chain([0xfeff, 0xfffd, 0xfffe, 0x4e2d, 0x1f600, 0xe0001, 0x10ffff])
        .map(|code| char::from_u32(code).unwrap())
        .collect();
    let file = fs::read(vectors("string-utf8")).unwrap();
    let (age, text) = entry::read(&file, SERVER).unwrap();
    assert_eq!((age.date, age.ttl), (RECEIVED, 60));
    assert_eq!(text.as_deref(), Some(expected.as_str()));
    // Ours has only ASCII, and means the same.
    let ours = entry::write(SERVER, age, Some(&expected));
    assert!(ours.is_ascii());
    assert_eq!(entry::read(ours.as_bytes(), SERVER), Some((age, text)));
    // What isn't UTF-8 counts as missing.
    let latin1 = fs::read(vectors("string-latin1")).unwrap();
    assert_eq!(entry::read(&latin1, SERVER), None);
    assert_eq!(entry::read_age(&latin1), Some(age));
}
