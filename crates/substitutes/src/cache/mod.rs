//! What servers said earlier, in the place and form in which Guix keeps it
//! (`doc/spec/substitutes.md`, section 4): either's programs read what the other's wrote.
//!
//! An answer is kept under the name of the item that was asked for, whatever the server answered.
//! What is read is not believed more than what a server says: it is parsed and judged again. A file
//! that isn't what it should be counts as missing, and is replaced.

pub mod entry;
mod expiry;

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::BASE32_NOPAD;
use formats::{Hash, StorePath};
use system::tree::Dir;

use crate::servers::Server;

use entry::Age;

/// How long an answer holds if the server doesn't say, in seconds.
const TTL: u64 = 36 * 3600;
/// How long a narinfo holds at least. Guix's daemon asks one process about an item, and has another
/// fetch it, which asks again if the answer no longer holds: with another answer, it would register
/// the contents of one with the references of the other.
const MIN_TTL: u64 = 300;
/// How long it holds that a server doesn't have the item, if the server doesn't say.
const NEGATIVE_TTL: u64 = 120;
/// How long any other answer holds.
const TRANSIENT_TTL: u64 = 60;

/// What a server said of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It doesn't have it.
    Absent,
    /// The text of its narinfo, not yet parsed.
    Narinfo(String),
}

/// Whether an HTTP `status` says that the server can't answer now: nothing is known thereby, and
/// nothing is kept.
pub fn is_temporary(status: u32) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

/// How long an answer with this HTTP `status` holds, in seconds; `max_age` is that of its header
/// `Cache-Control`.
pub fn time_to_live(status: u32, max_age: Option<u64>) -> u64 {
    match status {
        200 => max_age.unwrap_or(TTL).max(MIN_TTL),
        404 | 202 => max_age.unwrap_or(NEGATIVE_TTL),
        _ => TRANSIENT_TTL,
    }
}

/// The cache: a directory with a directory for each server.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The cache in `directory`, which is made when something is kept.
    pub fn new(directory: impl Into<PathBuf>) -> Cache {
        Cache {
            directory: directory.into(),
        }
    }

    /// Where a daemon with the state directory `state` has its cache: there, unless
    /// `xdg_cache_home` (`XDG_CACHE_HOME`) is set.
    pub fn place(state: &Path, xdg_cache_home: Option<&OsStr>) -> PathBuf {
        match xdg_cache_home {
            Some(home) => Path::new(home).join("guix/substitute"),
            None => state.join("substitute/cache"),
        }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What is known from `server`.
    pub fn of(&self, server: &Server) -> ServerCache {
        let name = BASE32_NOPAD.encode(Hash::sha256(server.url()).bytes());
        ServerCache {
            cache: self.directory.clone(),
            name: name.to_ascii_lowercase(),
            url: server.url().to_owned(),
            opened: OnceLock::new(),
        }
    }
}

/// The part of the cache that has the answers of one server.
#[derive(Debug)]
pub struct ServerCache {
    cache: PathBuf,
    name: String,
    url: String,
    opened: OnceLock<Dir>,
}

impl ServerCache {
    /// What the server said of `wanted`, if that is known and still holds at the Unix time `now`.
    pub fn get(&self, wanted: &StorePath, now: u64) -> Option<Answer> {
        read_answer(self.directory()?, &self.url, wanted, now)
    }

    /// [`ServerCache::get`] of many, in their order. It takes about 20 µs each.
    pub fn get_each(&self, wanted: &[StorePath], now: u64) -> Vec<Option<Answer>> {
        let mut answers = vec![None; wanted.len()];
        let Some(directory) = self.directory() else {
            return answers;
        };
        for (wanted, answer) in wanted.iter().zip(&mut answers) {
            *answer = read_answer(directory, &self.url, wanted, now);
        }
        answers
    }

    /// Keeps what the server said of `wanted` at the Unix time `now`, for `ttl` seconds; see
    /// [`time_to_live`].
    ///
    /// # Errors
    /// It can't be written. The answer is as good without.
    pub fn put(&self, wanted: &StorePath, answer: &Answer, ttl: u64, now: u64) -> io::Result<()> {
        if !wanted.is_well_formed() {
            return Ok(());
        }
        let text = match answer {
            Answer::Absent => None,
            Answer::Narinfo(text) => Some(text.as_str()),
        };
        let file = entry::write(&self.url, Age { date: now, ttl }, text);
        let directory = self.create_directory()?;
        let name = wanted.hash_part();
        let temporary = temporary_name(name);
        let written = directory
            .create_new(&temporary, 0o644)
            .and_then(|mut new| new.write_all(file.as_bytes()))
            .and_then(|()| directory.rename(&temporary, directory, name));
        if written.is_err() {
            let _ = directory.remove_file(&temporary);
        }
        written
    }

    /// The directory, if it exists. Links in its place are not followed.
    fn directory(&self) -> Option<&Dir> {
        if let Some(directory) = self.opened.get() {
            return Some(directory);
        }
        let cache = open_cache(&self.cache).ok()?;
        let directory = cache.open_dir(&self.name).ok()?;
        Some(self.opened.get_or_init(|| directory))
    }

    fn create_directory(&self) -> io::Result<&Dir> {
        if let Some(directory) = self.directory() {
            return Ok(directory);
        }
        std::fs::create_dir_all(&self.cache)?;
        let cache = open_cache(&self.cache)?;
        match cache.create_dir(&self.name, 0o755) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let directory = cache.open_dir(&self.name)?;
        Ok(self.opened.get_or_init(|| directory))
    }
}

/// Opens the cache. An administrator may have put a link to another disk in its place; links in it
/// are not followed.
fn open_cache(directory: &Path) -> io::Result<Dir> {
    Dir::open(directory.join("."))
}

fn read_answer(directory: &Dir, url: &str, wanted: &StorePath, now: u64) -> Option<Answer> {
    if !wanted.is_well_formed() {
        return None;
    }
    let file = directory.open_file(wanted.hash_part()).ok()?;
    let mut text = Vec::with_capacity(4096);
    let length = file.take(entry::MAX_FILE + 1).read_to_end(&mut text).ok()?;
    if length as u64 > entry::MAX_FILE {
        return None;
    }
    let (age, text) = entry::read(&text, url)?;
    age.is_fresh(now)
        .then(|| text.map_or(Answer::Absent, Answer::Narinfo))
}

/// A name for a file that will get the name `name`: no other thread's or process's.
fn temporary_name(name: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{name}.{}-{count}", std::process::id())
}
