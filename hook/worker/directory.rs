//! The directories of workers on a node: one for all of a user's (`guix-worker-UID@HOST`), which has one for
//! each worker, `NAME`, and beside it a file, `NAME.lock`, whose lock the worker holds as long as it
//! lives. A worker that was killed leaves both; the next one sweeps them.
//!
//! The host's name is in there because a temporary directory may be on a network file system, where locks
//! of other nodes may not be seen. A lock on the file `lock` is held while directories are made or
//! looked at. Nothing here follows links, and nothing is put into a directory of somebody else: whoever has
//! taken the name only has a worker use another one, `guix-worker-UID@HOST.RANDOM`, for itself alone.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::sys::statvfs::{FsFlags, statvfs};
use system::lock::{LockFile, Mode};
use system::tree::{Dir, remove_tree};

use crate::frames::{Class, Failure};

/// The lock of the directory of all.
const LOCK: &str = "lock";
/// What the names of locks of workers end with.
const LOCK_SUFFIX: &str = ".lock";
/// How often to begin anew when the last worker removes the directory of all meanwhile.
const ATTEMPTS: u32 = 100;
/// How often to try again to remove a directory, and after how long.
const SWEEPS: u32 = 20;
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// A worker's directory.
pub(super) struct WorkerDirectory {
    all: PathBuf,
    name: String,
    /// Held as long as this lives, and by the processes forked from this one.
    lock: LockFile,
}

/// A failure with a file or directory: of the class `disk` if there is no space left.
pub(super) fn disk(doing: &str, path: &Path, error: &io::Error) -> Failure {
    let text = format!("cannot {doing} `{}': {error}", path.display());
    let class = match is_full(error) {
        true => Class::Disk,
        false => Class::Other,
    };
    Failure::new(class, text)
}

/// Whether an error is that there is no space left.
pub(super) fn is_full(error: &io::Error) -> bool {
    let full = [libc::ENOSPC, libc::EDQUOT].map(Some);
    full.contains(&error.raw_os_error())
}

impl WorkerDirectory {
    /// Makes one in `within`. Other users may enter it if `open`, but not see what there is beside it.
    pub fn make(within: &Path, open: bool) -> Result<WorkerDirectory, Failure> {
        forbid_noexec(within)?;
        let uid = system::ids::effective_uid();
        let all = within.join(name_of_all(uid));
        let failed = |error: io::Error| disk("make a worker's directory in", &all, &error);
        let mut path = all.clone();
        for _ in 0..ATTEMPTS {
            match try_to_make(&path, uid, open)? {
                Attempt::Made(made) => return Ok(made),
                Attempt::Gone => {}
                Attempt::Foreign => {
                    let mut name = all.clone().into_os_string();
                    name.push(format!(".{}", random_name()));
                    path = name.into();
                }
            }
        }
        Err(failed(io::ErrorKind::ResourceBusy.into()))
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.all.join(&self.name)
    }

    /// The directory in which the directory of all workers is.
    pub fn within(&self) -> PathBuf {
        self.all.parent().unwrap_or(&self.all).to_owned()
    }

    /// Removes it with all that is in it, and the directory of all if nobody else has anything there.
    pub fn remove(self) -> io::Result<()> {
        let all = Dir::open(&self.all)?;
        remove(&all, &self.name, &self.lock)?;
        remove_unused(&self.all, &all)
    }
}

/// Removes a directory of all if nobody has anything there.
fn remove_unused(path: &Path, all: &Dir) -> io::Result<()> {
    let Some(lock) = lock_all(path)? else {
        return Ok(());
    };
    if all.names()? == [LOCK] {
        lock.delete()?;
        match fs::remove_dir(path) {
            // A worker that comes just then has made a lock anew, and may have gone again.
            Err(error) if !is_in_use_or_gone(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The name of the directory of all workers of a user.
fn name_of_all(uid: u32) -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let host: String = host.to_string_lossy().chars().filter(is_plain).collect();
    format!("guix-worker-{uid}@{host}")
}

/// No builder could be run there; every build would fail.
fn forbid_noexec(within: &Path) -> Result<(), Failure> {
    match statvfs(within) {
        Ok(status) if status.flags().contains(FsFlags::ST_NOEXEC) => {
            let text = format!(
                "no program may be run in `{}', which is mounted with `noexec': give workers another \
                 directory by TMPDIR, or `--directory=DIR'",
                within.display()
            );
            Err(Failure::new(Class::Other, text))
        }
        _ => Ok(()),
    }
}

fn is_in_use_or_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
    )
}

fn is_plain(character: &char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_')
}

/// What has become of an attempt to make a worker's directory.
enum Attempt {
    /// It is there.
    Made(WorkerDirectory),
    /// The directory of all was removed meanwhile.
    Gone,
    /// The directory of all belongs to another user, or is something else.
    Foreign,
}

fn try_to_make(all: &Path, uid: u32, open: bool) -> Result<Attempt, Failure> {
    let failed = |error: io::Error| disk("make a worker's directory in", all, &error);
    match fs::create_dir(all) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    let there = match fs::symlink_metadata(all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Attempt::Gone),
        metadata => metadata.map_err(failed)?,
    };
    if !there.is_dir() || there.uid() != uid {
        return Ok(Attempt::Foreign);
    }
    let directory = match Dir::open(all) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Attempt::Gone),
        opened => opened.map_err(failed)?,
    };
    let status = directory.stat().map_err(failed)?;
    if status.uid() != uid {
        return Ok(Attempt::Foreign);
    }
    directory
        .chmod(if open { 0o711 } else { 0o700 })
        .map_err(failed)?;
    let Some(_lock) = lock_all(all).map_err(failed)? else {
        return Ok(Attempt::Gone);
    };
    // The lock may be in another one that has been made since.
    let there = fs::symlink_metadata(all).map_err(failed)?;
    if (there.dev(), there.ino()) != status.identity() {
        return Ok(Attempt::Gone);
    }
    let name = random_name();
    let lock = LockFile::open(all.join(format!("{name}{LOCK_SUFFIX}"))).map_err(failed)?;
    if !lock.try_lock(Mode::Exclusive).map_err(failed)? {
        return Ok(Attempt::Gone); // a name that exists
    }
    directory.create_dir(&name, 0o755).map_err(failed)?;
    let own = directory.open_dir(&name).map_err(failed)?;
    own.chmod(0o755).map_err(failed)?;
    Ok(Attempt::Made(WorkerDirectory {
        all: all.to_owned(),
        name,
        lock,
    }))
}

/// Locks the directory of all; `None` if it was removed meanwhile.
fn lock_all(all: &Path) -> io::Result<Option<LockFile>> {
    let lock = match LockFile::open(all.join(LOCK)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    lock.lock(Mode::Exclusive)?;
    Ok((!lock.is_stale()?).then_some(lock))
}

fn remove(all: &Dir, name: &str, lock: &LockFile) -> io::Result<()> {
    match remove_tree(all, name) {
        Err(error) if all.try_stat_at(name)?.is_some() => {
            return Err(io::Error::other(error.to_string()));
        }
        _ => {}
    }
    lock.delete()
}

/// Removes what workers of this user that were killed have left. What can't be removed is left to the next.
pub(super) fn sweep(within: &Path) -> io::Result<()> {
    let uid = system::ids::effective_uid();
    let usual = name_of_all(uid);
    for entry in fs::read_dir(within)? {
        let entry = entry?;
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(&usual));
        let is_ours = |rest: &str| rest.is_empty() || rest.strip_prefix('.').is_some_and(is_random);
        if rest.is_some_and(is_ours) {
            // Another one may be in order.
            let _ = sweep_all_in(&entry.path(), uid);
        }
    }
    Ok(())
}

/// The same in a directory of all, if it belongs to this user.
fn sweep_all_in(all: &Path, uid: u32) -> io::Result<()> {
    let directory = Dir::open(all)?;
    if directory.stat()?.uid() != uid {
        return Ok(());
    }
    let mut left = Vec::new();
    {
        let Some(_lock) = lock_all(all)? else {
            return Ok(());
        };
        for name in directory.names()? {
            let Some(worker) = worker_of(&name) else {
                continue;
            };
            if let Ok(lock) = LockFile::open(all.join(&name)) {
                if lock.try_lock(Mode::Exclusive)? {
                    left.push((worker, lock));
                }
            }
        }
    }
    for (worker, lock) in left {
        let mut attempts = 0..SWEEPS;
        // Its builders may be about to end, and still write.
        while remove(&directory, &worker, &lock).is_err() && attempts.next().is_some() {
            thread::sleep(SWEEP_INTERVAL);
        }
    }
    remove_unused(all, &directory)
}

/// The worker that the lock file with this name is of.
fn worker_of(name: &OsString) -> Option<String> {
    let name = std::str::from_utf8(name.as_bytes()).ok()?;
    let worker = name.strip_suffix(LOCK_SUFFIX)?;
    is_random(worker).then(|| worker.to_owned())
}

/// A name that nobody has.
fn random_name() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Whether it is a name that was chosen at random.
fn is_random(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_a_dead_worker_leaves_is_swept_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let within = scratch.path();
        let living = WorkerDirectory::make(within, false).unwrap();
        let dead = WorkerDirectory::make(within, false).unwrap();
        let precious = within.join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "x").unwrap();
        fs::create_dir_all(dead.path().join("store/x")).unwrap();
        symlink(&precious, dead.path().join("store/link")).unwrap();
        let all = dead.all.clone();
        let foreign = all.join("notes");
        fs::write(&foreign, "").unwrap();
        // Its process has ended.
        let path = dead.path();
        drop(dead);
        sweep(within).unwrap();
        assert!(!path.exists() && !path.with_extension("lock").exists());
        assert!(living.path().exists() && foreign.exists());
        assert!(precious.join("file").exists());
        fs::remove_file(&foreign).unwrap();
        living.remove().unwrap();
        assert!(!all.exists());
        WorkerDirectory::make(within, false)
            .unwrap()
            .remove()
            .unwrap();
    }

    #[test]
    fn a_directory_that_is_a_link_is_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let made = WorkerDirectory::make(scratch.path(), false).unwrap();
        let all = made.all.clone();
        made.remove().unwrap();
        let elsewhere = scratch.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, &all).unwrap();
        uses_another_name(scratch.path(), &all);
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    /// Whether a worker does without the name of this directory, and leaves nothing behind.
    #[track_caller]
    fn uses_another_name(within: &Path, taken: &Path) {
        let before = fs::read_dir(within).unwrap().count();
        let made = [(); 2].map(|()| WorkerDirectory::make(within, false).unwrap());
        assert_ne!(made[0].all, made[1].all);
        for made in made {
            assert!(made.path().is_dir() && !made.path().starts_with(taken));
            let metadata = fs::symlink_metadata(&made.all).unwrap();
            assert_eq!(metadata.mode() & 0o777, 0o700);
            made.remove().unwrap();
        }
        // What is left of one that was killed is found all the same.
        drop(WorkerDirectory::make(within, false).unwrap());
        assert_eq!(fs::read_dir(within).unwrap().count(), before + 1);
        sweep(within).unwrap();
        assert_eq!(fs::read_dir(within).unwrap().count(), before);
    }

    #[test]
    fn somebody_who_takes_the_name_keeps_no_worker_away() {
        if system::ids::effective_uid() != 0 {
            crate::skip::skip("only root can make another user's directory");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let made = WorkerDirectory::make(scratch.path(), false).unwrap();
        let all = made.all.clone();
        made.remove().unwrap();
        fs::create_dir(&all).unwrap();
        std::os::unix::fs::chown(&all, Some(65_534), None).unwrap();
        uses_another_name(scratch.path(), &all);
        assert_eq!(fs::read_dir(&all).unwrap().count(), 0);
        fs::remove_dir(&all).unwrap();
        fs::write(&all, "").unwrap();
        uses_another_name(scratch.path(), &all);
    }

    #[test]
    fn many_workers_come_and_go_at_the_same_time() {
        let scratch = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let made = WorkerDirectory::make(scratch.path(), false).unwrap();
                        let _ = sweep(scratch.path());
                        assert!(made.path().exists());
                        made.remove().unwrap();
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}
