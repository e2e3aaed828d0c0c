//! Locks on store paths: `PATH.lock`, as Guix takes them (`doc/spec/store-formats.md`, section 6).
//!
//! Lock files are locked as a whole, for writing. A process that deletes one first writes a byte to
//! it, so that those that already have it open know that their lock is on a deleted file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use formats::store_path::StorePath;
use system::lock::{LockFile, Mode};

use crate::error::{Context, Error, Result};
use crate::progress::{Level, Progress, check};
use crate::store::Store;

/// Exclusive locks on some paths, against all processes and all other threads. They are released on
/// drop.
#[derive(Debug, Default)]
pub struct PathLocks {
    files: Vec<LockFile>,
    delete: bool,
}

impl PathLocks {
    /// Locks all `paths`; waits while they are locked (and prints `message`, if not empty).
    ///
    /// Locks are taken in sorted order, so that holders can't wait for each other in a cycle, as
    /// long as none takes more locks while it holds some.
    pub fn acquire<'a>(
        store: &Store,
        paths: impl IntoIterator<Item = &'a StorePath>,
        message: &str,
        progress: &dyn Progress,
    ) -> Result<PathLocks> {
        let mut locks = PathLocks::default();
        for path in lock_names(store, paths) {
            check(progress)?;
            let failed = || format!("acquiring/releasing lock on `{}'", path.display());
            locks.files.push(loop {
                let file = open(&path)?;
                if !file.try_lock(Mode::Exclusive).context(failed)? {
                    if !message.is_empty() {
                        progress.message(Level::Error, message);
                    }
                    let taken = file
                        .lock_unless(Mode::Exclusive, || progress.interrupted())
                        .context(failed)?;
                    if !taken {
                        return Err(Error::Interrupted);
                    }
                }
                if !is_stale(&file)? {
                    break file;
                }
            });
        }
        Ok(locks)
    }

    /// Locks all `paths`, or none and returns `None` if one is locked.
    pub fn try_acquire<'a>(
        store: &Store,
        paths: impl IntoIterator<Item = &'a StorePath>,
    ) -> Result<Option<PathLocks>> {
        let mut locks = PathLocks::default();
        for path in lock_names(store, paths) {
            locks.files.push(loop {
                let file = open(&path)?;
                let taken = file
                    .try_lock(Mode::Exclusive)
                    .context(|| format!("acquiring/releasing lock on `{}'", path.display()))?;
                if !taken {
                    return Ok(None);
                }
                if !is_stale(&file)? {
                    break file;
                }
            });
        }
        Ok(Some(locks))
    }

    /// Sets whether the lock files are deleted on release. Only allowed once the paths are valid,
    /// since other processes may be waiting for the lock file.
    pub fn set_deletion(&mut self, delete: bool) {
        self.delete = delete;
    }
}

impl Drop for PathLocks {
    fn drop(&mut self) {
        for file in self.files.drain(..) {
            // A remaining lock file does no harm; the collector deletes it.
            if self.delete {
                if let Err(error) = file.delete() {
                    tracing::debug!(path = %file.path().display(), %error, "deleting lock file");
                }
            }
        }
    }
}

/// The lock files of `paths`, sorted, without duplicates.
fn lock_names<'a>(store: &Store, paths: impl IntoIterator<Item = &'a StorePath>) -> Vec<PathBuf> {
    let mut names: Vec<PathBuf> = paths
        .into_iter()
        .map(|path| {
            store
                .dir()
                .as_path()
                .join(format!("{}.lock", path.base_name()))
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn open(path: &std::path::Path) -> Result<LockFile> {
    LockFile::open(path).context(|| format!("opening lock file `{}'", path.display()))
}

/// Whether the file, locked just now, is no lock any more. One that isn't empty and still has its
/// name was not written to by who deleted it, but by a builder that can write to the store
/// directory: it is removed, as everybody would go on opening it.
fn is_stale(file: &LockFile) -> Result<bool> {
    let stale = || -> io::Result<bool> {
        let own = file.file().metadata()?;
        if own.size() == 0 {
            return Ok(false);
        }
        match fs::symlink_metadata(file.path()) {
            Ok(named) if (named.dev(), named.ino()) == (own.dev(), own.ino()) => {
                fs::remove_file(file.path())?;
            }
            _ => {}
        }
        Ok(true)
    };
    stale().context(|| format!("statting lock file `{}'", file.path().display()))
}
