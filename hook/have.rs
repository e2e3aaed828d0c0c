//! What a build machine has, as far as hooks have learnt: `<state>/offload/NAME:PORT/have`
//! (`doc/spec/offload.md`, section 30).
//!
//! Nobody relies on it: it only helps to choose a machine, and a record that is wrong costs nothing but
//! sending what was thought to be there. Whatever is not as it should be in the file counts as nothing known.

use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::{BuildHasherDefault, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use formats::{StorePath, base32};
use serde::{Deserialize, Serialize};
use system::lock::{LockFile, Mode};

use crate::directories::HookDirectories;
use crate::machines::Machine;

/// The beginning of the file. Another version of it has another one.
const BEGINNING: &[u8; ID_SIZE] = b"have 1\n\n";
/// The size of an item's id in the file, in bytes.
const ID_SIZE: usize = 8;
/// The maximum number of items in the file.
const MOST: usize = 200_000;
/// How many bytes are read between two looks at the clock.
const READ_AT_ONCE: u64 = 128 << 10;
/// How many of the last ones are kept when that is exceeded.
const KEPT: usize = 150_000;
/// If this fraction of what should have been there is missing, nothing else is believed either: garbage was
/// collected there.
const WRONG_FRACTION: usize = 4;

/// A store item, by the first eight bytes of the hash in its name. (Two items with the same id would cost a
/// wrong choice.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ItemId(u64);

impl ItemId {
    /// That of an item; none if it isn't of a computed name, or is a derivation: those are small and many.
    pub fn of(path: &StorePath) -> Option<ItemId> {
        if path.is_derivation() {
            return None;
        }
        ItemId::parse(path.hash_part())
    }

    /// That of an item with this hash part.
    pub fn parse(hash_part: &str) -> Option<ItemId> {
        let hash = base32::decode(hash_part)?;
        let bytes = hash.get(..ID_SIZE)?.try_into().ok()?;
        Some(ItemId(u64::from_be_bytes(bytes)))
    }

    fn bytes(self) -> [u8; ID_SIZE] {
        self.0.to_be_bytes()
    }
}

/// Ids are hashes already.
#[derive(Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// How maps and sets of ids hash.
pub type HashIds = BuildHasherDefault<IdHasher>;

type Ids = HashSet<ItemId, HashIds>;

/// What is known to be on a machine, perhaps with repetitions; nothing if nothing is known, or it takes
/// longer than this to find out.
pub fn items(directories: &HookDirectories, machine: &Machine, deadline: Instant) -> Vec<ItemId> {
    read_until(
        &directories.of_machine(machine).join("have"),
        Some(deadline),
    )
    .unwrap_or_default()
}

/// The items in a file; an error if it isn't such a file.
fn read(path: &Path) -> io::Result<Vec<ItemId>> {
    read_until(path, None)
}

fn read_until(path: &Path, deadline: Option<Instant>) -> io::Result<Vec<ItemId>> {
    // (Nobody waits at a FIFO.)
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    let (size, limit) = (metadata.len(), (ID_SIZE * (MOST + 1)) as u64);
    if size > limit || !metadata.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::with_capacity(size as usize);
    let mut rest = file.take(limit);
    // A disk may be slow, and there are many machines.
    while rest.by_ref().take(READ_AT_ONCE).read_to_end(&mut bytes)? > 0 {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    let ids = bytes
        .strip_prefix(BEGINNING)
        .ok_or(io::ErrorKind::InvalidData)?;
    if ids.len() % ID_SIZE != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let id = |bytes: &[u8]| Some(ItemId(u64::from_be_bytes(bytes.try_into().ok()?)));
    Ok(ids.chunks_exact(ID_SIZE).filter_map(id).collect())
}

/// Notes what a machine has, in the course of a build there.
pub struct Notes {
    /// The machine's directory; `None` for a pool, whose machines change.
    directory: Option<PathBuf>,
    /// The thread that compares the machine's answer with what was known.
    learning: Option<JoinHandle<()>>,
}

impl Notes {
    /// Those of a machine.
    pub fn of(directories: &HookDirectories, machine: &Machine) -> Notes {
        let is_fixed = machine.pool.is_none();
        Notes {
            directory: is_fixed.then(|| directories.of_machine(machine)),
            learning: None,
        }
    }

    /// Notes what a machine has answered: of `asked`, it has all but `missing`. This is done while the caller
    /// goes on.
    pub fn answered(&mut self, asked: &[StorePath], missing: &[StorePath]) {
        self.finish();
        let Some(directory) = self.directory.clone() else {
            return;
        };
        let missing: Ids = missing.iter().filter_map(ItemId::of).collect();
        let present = asked.iter().filter_map(ItemId::of);
        let present: Vec<ItemId> = present.filter(|id| !missing.contains(id)).collect();
        let learn = move || {
            // That nothing can be noted is the next build's loss, not this one's.
            let _ = change(&directory, |known| compare(known, &present, &missing));
        };
        self.learning = std::thread::Builder::new().spawn(learn).ok();
    }

    /// Notes what has arrived on the machine, or was built there.
    pub fn arrived<'a>(&mut self, items: impl IntoIterator<Item = &'a StorePath>) {
        let items: Vec<ItemId> = items.into_iter().filter_map(ItemId::of).collect();
        if let (Some(directory), false) = (self.directory.clone(), items.is_empty()) {
            self.finish();
            let _ = append(&directory, &items);
        }
    }

    fn finish(&mut self) {
        if let Some(thread) = self.learning.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.finish();
    }
}

/// How a list of known items changes.
enum Change {
    /// These are added to it.
    Add(Vec<ItemId>),
    /// These replace it.
    Replace(Vec<ItemId>),
}

/// Compares what was known with a machine's answer.
fn compare(known: &[ItemId], present: &[ItemId], missing: &Ids) -> Change {
    let unique: Ids = known.iter().copied().collect();
    let new = present.iter().copied().filter(|id| !unique.contains(id));
    let wrong = missing.iter().filter(|id| unique.contains(id)).count();
    if wrong == 0 {
        return Change::Add(new.collect());
    }
    let right = present.iter().filter(|id| unique.contains(id)).count();
    if wrong * WRONG_FRACTION >= wrong + right {
        return Change::Replace(present.to_vec());
    }
    let believed = known.iter().copied().filter(|id| !missing.contains(id));
    Change::Replace(believed.chain(new).collect())
}

/// Changes what is known about the machine with this directory.
fn change(directory: &Path, make: impl FnOnce(&[ItemId]) -> Change) -> io::Result<()> {
    let _lock = lock(directory)?;
    let path = directory.join("have");
    // One that can't be read is replaced.
    let known = read(&path);
    let is_sound = known.is_ok();
    let known = known.unwrap_or_default();
    let items = match make(&known) {
        Change::Add(items) if is_sound && known.len() + items.len() <= MOST => {
            return write_to_end(&path, &items);
        }
        Change::Add(items) => [known, items].concat(),
        Change::Replace(items) => items,
    };
    replace(&path, &items)
}

/// Adds items that the machine was just sent, or has built, without reading what was known.
fn append(directory: &Path, items: &[ItemId]) -> io::Result<()> {
    let _lock = lock(directory)?;
    let path = directory.join("have");
    let size = fs::metadata(&path).map_or(0, |metadata| metadata.len()) as usize;
    let fits = size / ID_SIZE + items.len() <= MOST;
    if size % ID_SIZE == 0 && fits && has_beginning(&path) {
        return write_to_end(&path, items);
    }
    let mut known = read(&path).unwrap_or_default();
    known.extend(items);
    replace(&path, &known)
}

/// Whether a file is of this version.
fn has_beginning(path: &Path) -> bool {
    let mut beginning = [0; ID_SIZE];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut beginning));
    read.is_ok() && beginning == *BEGINNING
}

fn lock(directory: &Path) -> io::Result<LockFile> {
    HookDirectories::make(directory)?;
    let lock = LockFile::open(directory.join("have.lock"))?;
    lock.lock(Mode::Exclusive)?;
    Ok(lock)
}

fn write_to_end(path: &Path, items: &[ItemId]) -> io::Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    let bytes: Vec<u8> = items.iter().flat_map(|id| id.bytes()).collect();
    File::options().append(true).open(path)?.write_all(&bytes)
}

fn replace(path: &Path, items: &[ItemId]) -> io::Result<()> {
    let first = match items.len() > MOST {
        true => items.len() - KEPT,
        false => 0,
    };
    let mut bytes = BEGINNING.to_vec();
    bytes.extend(items[first..].iter().flat_map(|id| id.bytes()));
    let new = path.with_extension("new");
    let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(new);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::test_data::{directories, machine, pool};

    fn path(number: u64) -> StorePath {
        let mut hash = [0; 20];
        hash[12..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        hash[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let name = format!("/gnu/store/{}-item", base32::encode(&hash));
        formats::StoreDir::new("/gnu/store")
            .unwrap()
            .parse(name)
            .unwrap()
    }

    fn paths(numbers: std::ops::Range<u64>) -> Vec<StorePath> {
        numbers.map(path).collect()
    }

    /// All that is known to be there.
    fn noted(directories: &HookDirectories, machine: &Machine) -> Vec<ItemId> {
        items(
            directories,
            machine,
            Instant::now() + Duration::from_secs(600),
        )
    }

    /// How many of these are known to be there.
    fn known(directories: &HookDirectories, machine: &Machine, paths: &[StorePath]) -> usize {
        let items: Ids = noted(directories, machine).into_iter().collect();
        let ids = paths.iter().filter_map(ItemId::of);
        ids.filter(|id| items.contains(id)).count()
    }

    #[test]
    fn what_arrived_is_known() {
        let (_state, directories) = directories();
        let machine = machine("m");
        assert!(noted(&directories, &machine).is_empty());
        Notes::of(&directories, &machine).arrived(&paths(0..3));
        Notes::of(&directories, &machine).arrived(&paths(3..5));
        assert_eq!(noted(&directories, &machine).len(), 5);
        assert_eq!(known(&directories, &machine, &paths(0..9)), 5);
    }

    #[test]
    fn an_answer_adds_what_is_new() {
        let (_state, directories) = directories();
        let machine = machine("m");
        Notes::of(&directories, &machine).arrived(&paths(0..3));
        Notes::of(&directories, &machine).answered(&paths(0..6), &paths(5..6));
        assert_eq!(noted(&directories, &machine).len(), 5);
        assert_eq!(known(&directories, &machine, &paths(5..6)), 0);
        // What nobody asked about stays.
        Notes::of(&directories, &machine).answered(&paths(4..8), &[]);
        assert_eq!(known(&directories, &machine, &paths(0..8)), 8);
    }

    #[test]
    fn what_turns_out_wrong_is_forgotten() {
        let (_state, directories) = directories();
        let machine = machine("m");
        let mut notes = Notes::of(&directories, &machine);
        notes.arrived(&paths(0..100));
        // One of many: somebody has deleted it.
        notes.answered(&paths(0..20), &paths(7..8));
        notes.finish();
        assert_eq!(known(&directories, &machine, &paths(0..100)), 99);
        // A quarter of what was asked: there, garbage was collected.
        notes.answered(&paths(20..40), &paths(20..25));
        notes.finish();
        assert_eq!(known(&directories, &machine, &paths(0..100)), 15);
        assert_eq!(known(&directories, &machine, &paths(25..40)), 15);
        // They are sent again.
        notes.arrived(&paths(20..25));
        assert_eq!(known(&directories, &machine, &paths(20..40)), 20);
    }

    #[test]
    fn a_file_that_is_no_such_file_is_replaced() {
        let (state, directories) = directories();
        let machine = machine("m");
        let file = state.path().join("m:22/have");
        fs::create_dir(state.path().join("m:22")).unwrap();
        let huge = vec![7; ID_SIZE * (MOST + 9)];
        let torn = [BEGINNING.as_slice(), &[1, 2, 3]].concat();
        let other = b"have 2\n\n12345678".to_vec();
        for contents in [Vec::new(), b"x".to_vec(), huge, torn, other] {
            for add in [false, true] {
                fs::write(&file, &contents).unwrap();
                assert!(noted(&directories, &machine).is_empty());
                let mut notes = Notes::of(&directories, &machine);
                match add {
                    true => notes.arrived(&paths(0..2)),
                    false => notes.answered(&paths(0..2), &[]),
                }
                drop(notes);
                assert_eq!(noted(&directories, &machine).len(), 2, "{}", contents.len());
            }
        }
    }

    #[test]
    fn a_file_that_takes_too_long_to_read_counts_as_nothing() {
        let (_state, directories) = directories();
        let machine = machine("m");
        Notes::of(&directories, &machine).arrived(&paths(0..3));
        assert!(items(&directories, &machine, Instant::now()).is_empty());
        // Nor does anybody wait for a writer that never comes.
        let file = directories.of_machine(&machine).join("have");
        fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(noted(&directories, &machine).is_empty());
    }

    #[test]
    fn what_cannot_be_written_is_no_error() {
        let (state, directories) = directories();
        let machine = machine("m");
        fs::create_dir_all(state.path().join("m:22/have/x")).unwrap();
        let mut notes = Notes::of(&directories, &machine);
        notes.answered(&paths(0..2), &[]);
        notes.arrived(&paths(2..4));
        drop(notes);
        assert!(noted(&directories, &machine).is_empty());
        assert!(!state.path().join("m:22/have.new").exists());
    }

    #[test]
    fn the_file_is_bounded() {
        let (_state, directories) = directories();
        let machine = machine("m");
        let mut notes = Notes::of(&directories, &machine);
        notes.arrived(&paths(0..MOST as u64 - 1));
        notes.arrived(&paths(1_000_000..1_000_002));
        assert_eq!(noted(&directories, &machine).len(), KEPT);
        assert_eq!(
            known(&directories, &machine, &paths(1_000_000..1_000_002)),
            2
        );
        assert_eq!(known(&directories, &machine, &paths(0..10)), 0);
    }

    #[test]
    fn derivations_and_pools_are_not_noted() {
        let (state, directories) = directories();
        let machine = machine("m");
        let name = path(1).as_str().to_owned() + ".drv";
        let derivation = directories.store.parse(name).unwrap();
        Notes::of(&directories, &machine).arrived([&derivation]);
        let (pool, _) = pool("p", &["true"]);
        Notes::of(&directories, &pool).arrived(&paths(0..2));
        assert!(fs::read_dir(state.path()).unwrap().next().is_none());
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let (_state, directories) = directories();
        let machine = machine("m");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (directories, machine) = (&directories, &machine);
                scope.spawn(move || {
                    for round in 0..20 {
                        let mut notes = Notes::of(directories, machine);
                        let own = paths(number * 100 + round..number * 100 + round + 1);
                        notes.answered(&paths(9000..9020), &[]);
                        notes.arrived(&own);
                    }
                });
            }
        });
        assert_eq!(known(&directories, &machine, &paths(0..9020)), 8 * 20 + 20);
    }
}
