//! Deleting answers that no longer hold.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use formats::store_path::HASH_LENGTH;
use nix::fcntl::OFlag;
use system::lock::{LockFile, Mode};
use system::tree::{Dir, Kind};

use super::{Cache, entry, open_cache};

/// How often the cache is searched for them, in seconds.
const PERIOD: u64 = 5 * 24 * 3600;

/// An answer is deleted at this age even if it still holds, in seconds: a cache that only grows gets
/// slow.
const MAX_AGE: u64 = 2 * 24 * 3600;

/// A file that is being written isn't older than this, in seconds.
const ABANDONED: u64 = 24 * 3600;

/// How much of a file is read to learn its age: longer than the longest URL with escapes.
const START: u64 = 32 << 10;

/// The file that has the time of the last search, and is locked during one.
const LAST_EXPIRY: &str = "last-expiry-cleanup";

impl Cache {
    /// Deletes the answers that no longer hold at the Unix time `now`, if nobody has done so for
    /// five days and nobody is doing it; returns how many. Files that aren't answers, but have the
    /// name of one, are deleted too; nothing else is touched.
    ///
    /// # Errors
    /// The cache can't be read or changed. A cache that doesn't exist is no error.
    pub fn expire(&self, now: u64) -> io::Result<u64> {
        let cache = match open_cache(self.directory()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            cache => cache?,
        };
        let Some(mut last) = LastExpiry::lock(self)? else {
            return Ok(0);
        };
        if last.time()?.saturating_add(PERIOD) >= now {
            return Ok(0);
        }
        let mut deleted = 0;
        for entry in cache.entries()? {
            // A name that isn't a directory, or a link to one, is none of ours.
            let Ok(server) = cache.open_dir(entry?.name) else {
                continue;
            };
            for entry in server.entries()? {
                let name = entry?.name;
                let expired = match name.to_str() {
                    Some(name) if name.len() == HASH_LENGTH => has_expired(&server, name, now),
                    Some(name) if name.as_bytes().get(HASH_LENGTH) == Some(&b'.') => {
                        is_abandoned(&server, name, now)
                    }
                    _ => false,
                };
                if expired && server.remove_file(&name).is_ok() {
                    deleted += 1;
                }
            }
        }
        last.set(now)?;
        Ok(deleted)
    }
}

/// Whether an answer is to be deleted.
fn has_expired(server: &Dir, name: &str, now: u64) -> bool {
    let mut start = Vec::new();
    let read = server
        .open_file(name)
        .and_then(|file| file.take(START).read_to_end(&mut start));
    match entry::read_age(&start) {
        Some(age) if read.is_ok() => age.date.saturating_add(age.ttl.min(MAX_AGE)) <= now,
        _ => true,
    }
}

/// Whether a file was left by a program that died while it wrote it.
fn is_abandoned(server: &Dir, name: &str, now: u64) -> bool {
    server.stat_at(name).is_ok_and(|stat| {
        let written = u64::try_from(stat.mtime().0).unwrap_or(0);
        stat.kind() != Kind::Directory && written.saturating_add(ABANDONED) < now
    })
}

/// The file with the time of the last search, locked.
struct LastExpiry(LockFile);

impl LastExpiry {
    /// `None` if somebody else has it.
    fn lock(cache: &Cache) -> io::Result<Option<LastExpiry>> {
        let path = cache.directory().join(LAST_EXPIRY);
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(flags.bits())
            .open(&path)?;
        let file = LockFile::from_file(file, path);
        Ok(file.try_lock(Mode::Exclusive)?.then_some(LastExpiry(file)))
    }

    /// The Unix time of the last search; 0 if there was none.
    fn time(&mut self) -> io::Result<u64> {
        let mut text = Vec::new();
        let file = self.0.file();
        file.take(64).read_to_end(&mut text)?;
        Ok(entry::read_time(&text).unwrap_or(0))
    }

    fn set(&mut self, now: u64) -> io::Result<()> {
        let mut file = self.0.file();
        file.rewind()?;
        file.set_len(0)?;
        file.write_all(entry::write_time(now).as_bytes())
    }
}
