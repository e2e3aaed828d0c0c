//! Detecting whether the database has changed, without taking a lock.
//!
//! The index of the write-ahead log, `db.sqlite-shm`, begins with a header, two copies of the same
//! 48 bytes (<https://sqlite.org/walformat.html>, "The WAL-Index File Format"). It contains a
//! counter of transactions, and every commit, by any process, updates it before it is acknowledged.
//! So as long as it is unchanged since before a snapshot of the database was taken, that snapshot
//! is current.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;

use system::sync::Mutex;

/// The size of one copy of the header, in bytes.
const SIZE: usize = 48;

/// The header of the index at some point in time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Header([u8; SIZE]);

impl Header {
    /// The number of pages in the log.
    pub(super) fn frames(&self) -> u32 {
        let [.., a, b, c, d] = *self.0.first_chunk::<20>().expect("it is longer");
        u32::from_ne_bytes([a, b, c, d])
    }
}

/// The index of a database that this process has open.
#[derive(Clone, Copy)]
pub(super) struct LogIndex(&'static File);

impl LogIndex {
    /// Opens the index of `database`, which has to be open and have a write-ahead log.
    pub(super) fn open(database: &Path) -> io::Result<LogIndex> {
        // SQLite holds locks on the file, and the kernel drops a process's locks when it closes any
        // descriptor of the file. So it is opened once and never closed.
        static OPEN: OnceLock<Mutex<HashMap<(u64, u64), LogIndex>>> = OnceLock::new();
        let mut path = database.as_os_str().to_owned();
        path.push("-shm");
        let mut open = OPEN.get_or_init(Mutex::default).lock();
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        if let Some(index) = open.get(&identity(fs::metadata(&path)?)) {
            return Ok(*index);
        }
        let file: &File = Box::leak(Box::new(File::open(&path)?));
        let index = LogIndex(file);
        open.insert(identity(file.metadata()?), index);
        Ok(index)
    }

    /// The header; `None` if it is being written or can't be read.
    pub(super) fn header(self) -> Option<Header> {
        // Reading a file returns what other processes have written to their mappings of it.
        let mut both = [0; 2 * SIZE];
        self.0.read_exact_at(&mut both, 0).ok()?;
        let (first, second) = both.split_at(SIZE);
        (first == second).then(|| Header(*both.first_chunk().expect("it is longer")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    #[test]
    fn every_commit_changes_the_header_and_reading_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.sqlite");
        let open = || Connection::open(&path).unwrap();
        let (writer, reader) = (open(), open());
        writer
            .execute_batch("pragma journal_mode = wal; create table t (x)")
            .unwrap();
        let index = LogIndex::open(&path).unwrap();
        let mut seen = index.header().unwrap();
        for commit in 0..100 {
            writer.execute("insert into t values (1)", []).unwrap();
            let header = index.header().unwrap();
            assert!(
                header != seen && header.frames() > seen.frames(),
                "{commit}"
            );
            let count: i64 = reader
                .query_row("select count(*) from t", [], |row| row.get(0))
                .unwrap();
            assert_eq!(count, commit + 1);
            assert!(index.header().unwrap() == header);
            seen = header;
        }
        writer
            .execute_batch("pragma wal_checkpoint(restart)")
            .unwrap();
        writer.execute("insert into t values (1)", []).unwrap();
        let header = index.header().unwrap();
        assert!(header != seen && header.frames() < seen.frames());
    }

    #[test]
    fn it_is_opened_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.sqlite");
        let writer = Connection::open(&path).unwrap();
        writer
            .execute_batch("pragma journal_mode = wal; create table t (x)")
            .unwrap();
        let first = LogIndex::open(&path).unwrap();
        let second = LogIndex::open(&path).unwrap();
        assert!(std::ptr::eq(first.0, second.0));
    }
}
