//! What hooks are sending to which machine at the moment: `<state>/offload/sending/`
//! (`doc/spec/offload.md`, section 30).
//!
//! Each file is locked by the hook that sends, from the choice of the machine until everything has arrived.
//! A file that nobody has locked means nothing, and is removed by whoever finds it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use system::clock::unix_time;
use system::lock::{LockFile, Mode};

use crate::directories::HookDirectories;
use crate::have::ItemId;
use crate::machines::Machine;

/// Sends of fewer bytes are not recorded: they are over before it matters.
const WORTH_RECORDING: u64 = 256 << 10;
/// The maximum number of items in a record: the largest ones.
const MOST_ITEMS: usize = 500;
/// The maximum size of a record, in bytes.
const RECORD_LIMIT: u64 = 64 << 10;
/// How many records are looked at.
const MOST_RECORDS: usize = 2000;

/// The contents of a file: what is being sent to a machine, or will be in a moment.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    /// `NAME:PORT`.
    machine: String,
    /// How much it is altogether, in bytes.
    bytes: u64,
    /// When this began, in seconds since the epoch.
    since: u64,
    /// The largest items.
    items: Vec<ItemId>,
}

/// A record of what this process sends; dropping it removes the record.
#[derive(Debug)]
pub struct Sending(LockFile);

impl Drop for Sending {
    fn drop(&mut self) {
        // If this fails, the lock ends anyway.
        let _ = fs::remove_file(self.0.path());
    }
}

/// Records that this process will send so many bytes to a machine, among them these items with their sizes.
/// `None` if it isn't much, or can't be recorded.
pub fn begin(
    directories: &HookDirectories,
    machine: &Machine,
    bytes: u64,
    mut items: Vec<(u64, ItemId)>,
) -> Option<Sending> {
    if bytes < WORTH_RECORDING {
        return None;
    }
    items.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    let items = items.into_iter().map(|(_, id)| id);
    let record = Record {
        machine: machine.key(),
        bytes,
        since: unix_time(),
        items: items.take(MOST_ITEMS).collect(),
    };
    write(directories, &record).ok()
}

fn write(directories: &HookDirectories, record: &Record) -> io::Result<Sending> {
    let directory = directories.state.join("sending");
    HookDirectories::make(&directory)?;
    let name = format!("{}-{:08x}", std::process::id(), rand::random::<u32>());
    let sending = Sending(LockFile::open(directory.join(name))?);
    sending.0.lock(Mode::Exclusive)?;
    sending.0.file().write_all(&serde_json::to_vec(record)?)?;
    Ok(sending)
}

/// What is being sent to one machine.
#[derive(Debug, Default, PartialEq)]
pub struct ToMachine {
    /// How much that was when it began, in bytes.
    bytes: u64,
    /// When the first of it began, in seconds since the epoch.
    since: u64,
    /// The items, as far as they are recorded.
    pub items: Vec<ItemId>,
}

impl ToMachine {
    /// How many bytes are left, if so many are sent in a second.
    pub fn left(&self, rate: f64) -> u64 {
        let elapsed = unix_time().saturating_sub(self.since) as f64;
        // It has not arrived before its record is gone.
        self.bytes.saturating_sub((elapsed * rate) as u64).max(1)
    }
}

/// What is being sent, by the key of the machine.
pub fn in_progress(directories: &HookDirectories) -> HashMap<String, ToMachine> {
    let mut found: HashMap<String, ToMachine> = HashMap::new();
    let entries = fs::read_dir(directories.state.join("sending"));
    for entry in entries.into_iter().flatten().take(MOST_RECORDS).flatten() {
        let Some(record) = read(&entry) else { continue };
        let to = found.entry(record.machine).or_default();
        to.bytes = to.bytes.saturating_add(record.bytes);
        to.since = if to.since == 0 {
            record.since
        } else {
            to.since.min(record.since)
        };
        to.items.extend(record.items);
    }
    found
}

/// The record in a file that somebody has locked; others are removed.
fn read(entry: &fs::DirEntry) -> Option<Record> {
    let path = entry.path();
    let mut options = File::options();
    let file = options.read(true).write(true).open(&path).ok()?;
    let lock = LockFile::from_file(file, &path);
    if !lock.is_locked().ok()? {
        let _ = fs::remove_file(path);
        return None;
    }
    let mut text = Vec::new();
    lock.file().take(RECORD_LIMIT).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{directories, machine};

    fn items(hashes: &[char]) -> Vec<ItemId> {
        let parse = |digit: &char| ItemId::parse(&digit.to_string().repeat(32)).unwrap();
        hashes.iter().map(parse).collect()
    }

    #[test]
    fn a_send_is_seen_while_it_lasts() {
        let (state, directories) = directories();
        assert!(in_progress(&directories).is_empty());
        let send = |name: &str, bytes, hashes: &[char]| {
            let items = items(hashes).into_iter().map(|id| (1, id)).collect();
            begin(&directories, &machine(name), bytes, items).unwrap()
        };
        let first = send("a", 1_000_000, &['1']);
        let second = send("a", 500_000, &['2', '3']);
        let other = send("b", WORTH_RECORDING, &[]);
        let found = in_progress(&directories);
        assert_eq!(found.len(), 2);
        assert_eq!(found["a:22"].items.len(), 3);
        assert_eq!(found["a:22"].left(0.0), 1_500_000);
        drop(first);
        assert_eq!(in_progress(&directories)["a:22"].items, items(&['2', '3']));
        drop((second, other));
        assert!(in_progress(&directories).is_empty());
        let left = fs::read_dir(state.path().join("sending")).unwrap();
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn the_largest_items_are_recorded() {
        let (_state, directories) = directories();
        let all = (0..MOST_ITEMS as u64 + 10).map(|number| {
            let mut hash = [0; 20];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            let id = ItemId::parse(&formats::base32::encode(&hash));
            (number, id.unwrap())
        });
        let all: Vec<(u64, ItemId)> = all.collect();
        let little = WORTH_RECORDING - 1;
        assert!(begin(&directories, &machine("a"), little, all.clone()).is_none());
        let sending = begin(&directories, &machine("a"), 1 << 40, all.clone()).unwrap();
        let recorded = &in_progress(&directories)["a:22"].items;
        assert_eq!(recorded.len(), MOST_ITEMS);
        assert!(recorded.contains(&all[MOST_ITEMS + 9].1) && !recorded.contains(&all[9].1));
        assert!(sending.0.file().metadata().unwrap().len() < RECORD_LIMIT);
    }

    #[test]
    fn what_was_sent_at_the_known_rate_is_not_left() {
        let to = |since| ToMachine {
            bytes: 100_000_000,
            since,
            items: Vec::new(),
        };
        let now = unix_time();
        let left = to(now - 10).left(1e6);
        assert!((80_000_000..=90_000_000).contains(&left), "{left}");
        assert_eq!(to(now - 1000).left(1e6), 1);
        // The clock was set back.
        assert_eq!(to(now + 1000).left(1e6), 100_000_000);
    }

    #[test]
    fn what_nobody_has_locked_or_nobody_can_read_counts_for_nothing() {
        let (state, directories) = directories();
        let sending = state.path().join("sending");
        fs::create_dir(&sending).unwrap();
        let record = r#"{"machine":"a:22","bytes":1,"since":1,"items":[]}"#;
        // A hook that was killed leaves its file.
        fs::write(sending.join("1-killed"), record).unwrap();
        fs::create_dir(sending.join("2-directory")).unwrap();
        let mut held = Vec::new();
        for (number, text) in ["", "{", "[]", &"x".repeat(100_000)]
            .into_iter()
            .enumerate()
        {
            let lock = LockFile::open(sending.join(format!("3-{number}"))).unwrap();
            assert!(lock.try_lock(Mode::Exclusive).unwrap());
            lock.file().write_all(text.as_bytes()).unwrap();
            held.push(lock);
        }
        assert!(in_progress(&directories).is_empty());
        assert!(!sending.join("1-killed").exists());
        assert!(sending.join("3-0").exists());
    }
}
