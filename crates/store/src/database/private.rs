//! The database's files are the daemon's alone.
//!
//! Whoever can read a file can take a read lock on it, and a single one, on the right byte of
//! `db.sqlite-shm`, holds up every writer for as long as it is held. So the database is created
//! with mode 0600; SQLite gives its other files the mode of the database.
//!
//! Daemons before this one, and Guix's, created the files with mode 0644. Taking the permission
//! away is not enough, as a descriptor that somebody has opened before can still be locked. So the
//! files are replaced by copies, if no other process uses the database.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use system::lock::{LockFile, Mode};

/// What `db.sqlite` and the files beside it may be used for.
const MODE: u32 = 0o600;

/// What follows `db.sqlite` in the names of the files that hold data.
const DATA: [&str; 3] = ["", "-wal", "-journal"];

/// The index of the write-ahead log, which SQLite makes anew if it is missing.
const INDEX: &str = "-shm";

/// Makes sure that nobody else can open the files of the database `file`, which need not exist.
/// `big_lock` is held shared by every process that has the store open. Failures are logged: a
/// database that others can read is no reason to serve nobody.
pub(crate) fn make_private(file: &Path, big_lock: &LockFile) {
    if let Err(error) = create(file) {
        // Opening the database fails for the same reason, and says so.
        tracing::debug!(file = %file.display(), %error, "creating the database");
    }
    let open_to_others = |suffix| {
        fs::metadata(beside(file, suffix))
            .is_ok_and(|metadata| metadata.mode() & 0o777 & !MODE != 0)
    };
    if !DATA.into_iter().chain([INDEX]).any(open_to_others) {
        return;
    }
    if let Err(error) = restrict(file) {
        tracing::warn!(
            "warning: other users can read the database `{}', and hold up all writing: {error}",
            file.display()
        );
        return;
    }
    match replace_unused(file, big_lock) {
        Ok(true) => tracing::info!("the database `{}' is now private", file.display()),
        Ok(false) => tracing::warn!(
            "warning: the database `{}' is now private, but other processes use it; those of \
             other users that have opened it before can still hold up all writing, until they end",
            file.display()
        ),
        Err(error) => tracing::warn!(
            "warning: the database `{}' is now private, but could not be copied: {error}; \
             processes of other users that have opened it before can still hold up all writing, \
             until they end",
            file.display()
        ),
    }
}

/// Creates an empty database with the right mode, unless there is one.
fn create(file: &Path) -> io::Result<()> {
    let created = File::options()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(file);
    match created {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Takes the permissions of others away.
fn restrict(file: &Path) -> io::Result<()> {
    for suffix in DATA.into_iter().chain([INDEX]) {
        match fs::set_permissions(beside(file, suffix), fs::Permissions::from_mode(MODE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Replaces the files by copies of them, if no other process uses the database; says whether it
/// did.
fn replace_unused(file: &Path, big_lock: &LockFile) -> io::Result<bool> {
    if !big_lock.try_lock(Mode::Exclusive)? {
        return Ok(false);
    }
    let replaced = if is_used(file)? {
        Ok(false)
    } else {
        replace(file).map(|()| true)
    };
    big_lock.try_lock(Mode::Shared)?;
    replaced
}

/// Replaces the files by copies. Whenever this is interrupted, the files that are there belong
/// together: the old ones and the copies have the same contents.
fn replace(file: &Path) -> io::Result<()> {
    for suffix in DATA {
        let old = beside(file, suffix);
        let mut from = match File::open(&old) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            from => from?,
        };
        let metadata = from.metadata()?;
        let new = beside(file, &format!("{suffix}.private"));
        let copied = copy(&mut from, &metadata, &new).and_then(|()| fs::rename(&new, &old));
        if copied.is_err() {
            let _ = fs::remove_file(&new);
        }
        copied?;
    }
    match fs::remove_file(beside(file, INDEX)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy(from: &mut File, metadata: &fs::Metadata, new: &Path) -> io::Result<()> {
    // One that an interrupted attempt left.
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut to = File::options()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(new)?;
    fchown(&to, Some(metadata.uid()), Some(metadata.gid()))?;
    io::copy(from, &mut to)?;
    to.sync_all()
}

/// Whether a process that may write to the database has it open. SQLite holds a lock on the file
/// meanwhile; those of other users, who could only read, don't count.
fn is_used(file: &Path) -> io::Result<bool> {
    let metadata = fs::metadata(file)?;
    let locks = fs::read_to_string("/proc/locks")?;
    Ok(locks
        .lines()
        .filter_map(|line| holder(line, metadata.ino()))
        .any(|pid| {
            let owner = fs::metadata(format!("/proc/{pid}")).map(|process| process.uid());
            owner.is_ok_and(|uid| uid == 0 || uid == metadata.uid())
        }))
}

/// The process that, as a line of `/proc/locks` says, has a lock of the kind that SQLite takes on
/// the inode.
fn holder(line: &str, inode: u64) -> Option<i32> {
    // 1: POSIX  ADVISORY  READ 1234 08:01:5678 1073741826 1073742335
    let mut words = line.split_whitespace().skip(1);
    let (kind, pid, place) = (words.next()?, words.nth(2)?, words.next()?);
    let found: u64 = place.rsplit(':').next()?.parse().ok()?;
    (kind == "POSIX" && found == inode)
        .then(|| pid.parse().ok())
        .flatten()
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::Connection;

    fn modes(file: &Path) -> Vec<u32> {
        let files = DATA.into_iter().chain([INDEX]);
        files
            .filter_map(|suffix| fs::metadata(beside(file, suffix)).ok())
            .map(|metadata| metadata.mode() & 0o7777)
            .collect()
    }

    fn open(file: &Path) -> Connection {
        let connection = Connection::open(file).unwrap();
        connection
            .execute_batch("pragma journal_mode = wal; create table if not exists t (x)")
            .unwrap();
        connection
    }

    fn count(file: &Path) -> i64 {
        open(file)
            .query_row("select count(*) from t", [], |row| row.get(0))
            .unwrap()
    }

    #[test]
    fn files_are_private_from_the_start() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("db.sqlite");
        let lock = LockFile::open(directory.path().join("lock")).unwrap();
        make_private(&file, &lock);
        let connection = open(&file);
        connection.execute("insert into t values (1)", []).unwrap();
        assert_eq!(modes(&file), [MODE; 3]);
    }

    #[test]
    fn a_database_that_nobody_uses_is_replaced_with_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("db.sqlite");
        let lock = LockFile::open(directory.path().join("lock")).unwrap();
        // A process that was killed leaves its log.
        let killed = directory.path().join("killed.sqlite");
        let connection = open(&killed);
        connection.execute("insert into t values (1)", []).unwrap();
        for suffix in ["", "-wal", INDEX] {
            fs::copy(beside(&killed, suffix), beside(&file, suffix)).unwrap();
        }
        assert_eq!(modes(&file), [0o644; 3]);
        let inode = fs::metadata(&file).unwrap().ino();
        lock.lock(Mode::Shared).unwrap();
        make_private(&file, &lock);
        assert_ne!(fs::metadata(&file).unwrap().ino(), inode);
        assert_eq!(count(&file), 1);
        assert_eq!(modes(&file), [MODE]);
        let other = LockFile::open(lock.path()).unwrap();
        assert!(other.try_lock(Mode::Shared).unwrap(), "it is shared again");
    }

    #[test]
    fn a_database_that_is_used_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("db.sqlite");
        let lock = LockFile::open(directory.path().join("lock")).unwrap();
        let connection = open(&file);
        connection.execute("insert into t values (1)", []).unwrap();
        let inode = fs::metadata(&file).unwrap().ino();
        make_private(&file, &lock);
        assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
        assert_eq!(modes(&file), [MODE; 3]);
        connection.execute("insert into t values (2)", []).unwrap();
        assert_eq!(count(&file), 2);
    }

    #[test]
    fn locks_are_told_by_their_lines() {
        let line = "12: POSIX  ADVISORY  READ  4711 fe:01:815 1073741826 1073742335";
        assert_eq!(holder(line, 815), Some(4711));
        assert_eq!(holder(line, 816), None);
        let waiting = "12: -> POSIX  ADVISORY  WRITE 4711 fe:01:815 0 EOF";
        assert_eq!(holder(waiting, 815), None);
        assert_eq!(
            holder("13: OFDLCK ADVISORY  READ -1 fe:01:815 0 EOF", 815),
            None
        );
    }
}
