//! A cache directory full of rubbish, and its cleaning.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use formats::{Hash, StoreDir, StorePath};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::mkfifo;
use substitutes::Server;
use substitutes::cache::{Answer, Cache, ServerCache};
use system::lock::{self, LockFile};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 3600;

struct Site {
    directory: tempfile::TempDir,
    cache: Cache,
    server: ServerCache,
}

impl Site {
    fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(directory.path().join("cache"));
        let server = cache.of(&Server::new("https://example.org").unwrap());
        Site {
            directory,
            cache,
            server,
        }
    }

    /// The file in which the answer about an item is.
    fn file(&self, item: &StorePath) -> PathBuf {
        self.only_server().join(item.hash_part())
    }

    /// The directory of the only server.
    fn only_server(&self) -> PathBuf {
        let mut entries = fs::read_dir(self.cache.directory()).unwrap();
        entries
            .find_map(|entry| {
                let path = entry.unwrap().path();
                path.is_dir().then_some(path)
            })
            .unwrap()
    }

    fn put(&self, item: &StorePath, ttl: u64, date: u64) {
        self.server.put(item, &answer(), ttl, date).unwrap();
    }
}

fn answer() -> Answer {
    Answer::Narinfo("StorePath: \"x\"\n".into())
}

fn item(name: &str) -> StorePath {
    let store = StoreDir::new("/gnu/store").unwrap();
    store
        .fixed_output_path(name, true, &Hash::sha256(name))
        .unwrap()
}

#[test]
fn rubbish_is_no_answer_and_is_replaced() {
    let site = Site::new();
    let hello = item("hello");
    site.put(&hello, 100, NOW);
    let file = site.file(&hello);
    assert_eq!(site.server.get(&hello, NOW), Some(answer()));
    let good = fs::read_to_string(&file).unwrap();
    let elsewhere = site.directory.path().join("elsewhere");
    fs::write(&elsewhere, &good).unwrap();
    let rubbish: [(&str, &dyn Fn()); 14] = [
        ("empty", &|| fs::write(&file, "").unwrap()),
        ("cut", &|| {
            fs::write(&file, &good[..good.len() - 1]).unwrap()
        }),
        ("cut in the text", &|| {
            fs::write(&file, &good[..good.len() - 5]).unwrap()
        }),
        ("bytes", &|| fs::write(&file, [0xff; 100]).unwrap()),
        ("parentheses", &|| {
            fs::write(&file, "(".repeat(1 << 20)).unwrap()
        }),
        ("version", &|| {
            fs::write(&file, good.replace("version 2", "version 3")).unwrap()
        }),
        ("server", &|| {
            fs::write(&file, good.replace("example.org", "example.com")).unwrap()
        }),
        ("number", &|| {
            fs::write(&file, good.replace("ttl 100", "ttl 1e9")).unwrap()
        }),
        ("large number", &|| {
            fs::write(
                &file,
                good.replace("ttl 100", &format!("ttl {}", "9".repeat(40))),
            )
            .unwrap();
        }),
        ("future", &|| {
            fs::write(&file, good.replace("(date 18", "(date 28")).unwrap()
        }),
        ("huge", &|| {
            File::create(&file).unwrap().set_len(1 << 40).unwrap()
        }),
        ("link", &|| symlink(&elsewhere, &file).unwrap()),
        ("pipe", &|| mkfifo(&file, Mode::S_IRWXU).unwrap()),
        ("socket", &|| {
            // A name that is too long to be bound.
            mknod(&file, SFlag::S_IFSOCK, Mode::S_IRWXU, 0).unwrap()
        }),
    ];
    for (what, make) in rubbish {
        fs::remove_file(&file).unwrap();
        make();
        assert_eq!(site.server.get(&hello, NOW), None, "{what}");
        site.put(&hello, 100, NOW);
        assert_eq!(site.server.get(&hello, NOW), Some(answer()), "{what}");
        assert!(file.symlink_metadata().unwrap().is_file(), "{what}");
    }
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), good);
    // A directory is in the way, and stays.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(site.server.get(&hello, NOW), None);
    assert!(site.server.put(&hello, &answer(), 100, NOW).is_err());
    assert_eq!(fs::read_dir(site.only_server()).unwrap().count(), 1);
}

#[test]
fn links_in_the_cache_are_not_followed() {
    let site = Site::new();
    let hello = item("hello");
    site.put(&hello, 100, NOW);
    let server = site.only_server();
    let elsewhere = site.directory.path().join("elsewhere");
    fs::rename(&server, &elsewhere).unwrap();
    symlink(&elsewhere, &server).unwrap();
    let again = || site.cache.of(&Server::new("https://example.org").unwrap());
    assert_eq!(again().get(&hello, NOW), None);
    assert!(again().put(&item("other"), &answer(), 100, NOW).is_err());
    assert_eq!(site.cache.expire(NOW + 10 * DAY).unwrap(), 0);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
}

#[test]
fn the_cache_may_be_a_link_to_another_disk() {
    let site = Site::new();
    let elsewhere = site.directory.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, site.cache.directory()).unwrap();
    let hello = item("hello");
    site.put(&hello, 100, NOW);
    assert_eq!(site.server.get(&hello, NOW), Some(answer()));
    assert_eq!(site.cache.expire(NOW + 10 * DAY).unwrap(), 1);
}

#[test]
fn names_that_no_item_has_are_never_files() {
    let site = Site::new();
    let store = StoreDir::new("/gnu/store").unwrap();
    for name in [".links", "x", "................................-x"] {
        let item = store.join(name).unwrap();
        site.put(&item, 100, NOW);
        assert_eq!(site.server.get(&item, NOW), None);
    }
    assert!(!site.cache.directory().exists());
}

#[test]
fn what_no_longer_holds_is_deleted_every_five_days() {
    let site = Site::new();
    assert_eq!(site.cache.expire(NOW).unwrap(), 0);
    assert!(!site.cache.directory().exists());
    let [fresh, stale, long] = ["fresh", "stale", "long"].map(item);
    site.put(&fresh, 3600, NOW - 3599);
    site.put(&stale, 3600, NOW - 3600);
    site.put(&long, 30 * DAY, NOW - 2 * DAY);
    let server = site.only_server();
    let other_names = ["README", "x.narinfo"].map(|name| server.join(name));
    for name in &other_names {
        fs::write(name, "").unwrap();
    }
    // Rubbish with the name of an answer, and what a dead program was writing.
    fs::write(site.file(&item("rubbish")), "(narinfo").unwrap();
    mkfifo(&site.file(&item("pipe")), Mode::S_IRWXU).unwrap();
    symlink("/etc/passwd", site.file(&item("link"))).unwrap();
    fs::create_dir(site.file(&item("directory"))).unwrap();
    let temporary = |name: &str, age| {
        let path = site.file(&item(name)).with_extension("1-2");
        let file = File::create(&path).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW - age);
        file.set_modified(time).unwrap();
        path
    };
    let (old, new) = (temporary("old", DAY + 1), temporary("new", DAY - 1));
    fs::write(site.cache.directory().join("file"), "").unwrap();

    assert_eq!(site.cache.expire(NOW).unwrap(), 6);
    assert!(site.server.get(&fresh, NOW).is_some());
    assert!(site.server.get(&long, NOW).is_none());
    assert!(!site.file(&stale).exists() && !old.exists() && new.exists());
    assert!(site.file(&item("directory")).is_dir());
    assert!(other_names.iter().all(|name| name.exists()));
    let last = site.cache.directory().join("last-expiry-cleanup");
    assert_eq!(fs::read_to_string(&last).unwrap(), (NOW + 37).to_string());

    // Not again for five days.
    site.put(&stale, 0, NOW - DAY);
    assert_eq!(site.cache.expire(NOW + 5 * DAY).unwrap(), 0);
    // Not while somebody else does it.
    let theirs = LockFile::open(&last).unwrap();
    assert!(theirs.try_lock(lock::Mode::Exclusive).unwrap());
    assert_eq!(site.cache.expire(NOW + 6 * DAY).unwrap(), 0);
    drop(theirs);
    // A time that isn't one is long ago.
    fs::write(&last, "yesterday").unwrap();
    assert_eq!(site.cache.expire(NOW + 1).unwrap(), 2); // the fresh one, too
    assert_eq!(fs::read_to_string(&last).unwrap(), (NOW + 38).to_string());
}

#[test]
fn a_cache_that_cannot_be_written_is_an_error_and_leaves_nothing() {
    let site = Site::new();
    site.put(&item("hello"), 100, NOW);
    // Root may write anywhere; nobody may write into a deleted directory.
    fs::remove_dir_all(site.cache.directory()).unwrap();
    assert!(
        site.server
            .put(&item("other"), &answer(), 100, NOW)
            .is_err()
    );
    fs::write(site.cache.directory(), "not a directory").unwrap();
    let server = site.cache.of(&Server::new("https://example.org").unwrap());
    assert!(server.put(&item("other"), &answer(), 100, NOW).is_err());
    assert_eq!(server.get(&item("other"), NOW), None);
    assert!(site.cache.expire(NOW).is_err());
}

#[test]
fn thousands_are_read_in_their_order() {
    let site = Site::new();
    let items: Vec<_> = (0..1000)
        .map(|number| item(&format!("item-{number}")))
        .collect();
    for (number, item) in items
        .iter()
        .enumerate()
        .filter(|(number, _)| number % 3 > 0)
    {
        let text = Answer::Narinfo(number.to_string());
        site.server.put(item, &text, 100, NOW).unwrap();
    }
    let answers = site.server.get_each(&items, NOW);
    assert_eq!(answers.len(), items.len());
    for (number, answer) in answers.into_iter().enumerate() {
        let expected = (number % 3 > 0).then(|| Answer::Narinfo(number.to_string()));
        assert_eq!(answer, expected, "{number}");
    }
    let mode = fs::metadata(site.file(&items[1]))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o600, 0o600);
}
