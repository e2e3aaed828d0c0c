//! Locks on paths of the store: `PATH.lock`, as Guix takes them (`doc/spec/store-formats.md`,
//! section 6).
//!
//! A lock file is locked as a whole, for writing. Who deletes one writes a byte to it, so that
//! those who had it open already know that they hold a lock on nothing.

use std::path::PathBuf;

use formats::store_path::StorePath;
use system::lock::{LockFile, Mode};

use crate::error::{Context, Error, Result};
use crate::progress::{Level, Progress, check};
use crate::store::Store;

/// Exclusive locks on some paths, against all processes and all threads of this one. Dropping
/// releases them.
#[derive(Debug, Default)]
pub struct PathLocks {
    files: Vec<LockFile>,
    delete: bool,
}

impl PathLocks {
    /// Locks all `paths`; waits for whoever has them (and says `message`, if not empty).
    ///
    /// Locks are taken in sorted order, so that no two holders wait for each other, as long as
    /// nobody asks for more while holding some.
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

    /// Locks all `paths`, or none of them if one is locked: then `None`.
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

    /// Whether the lock files are deleted at release: only once the paths are valid, since a lock
    /// file that others wait for has to stay.
    pub fn set_deletion(&mut self, delete: bool) {
        self.delete = delete;
    }
}

impl Drop for PathLocks {
    fn drop(&mut self) {
        for file in self.files.drain(..) {
            // A lock file that stays is in nobody's way; the collector takes it.
            if self.delete
                && let Err(error) = file.delete()
            {
                tracing::debug!(path = %file.path().display(), %error, "deleting lock file");
            }
        }
    }
}

/// The lock files of `paths`, sorted, each once.
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

fn is_stale(file: &LockFile) -> Result<bool> {
    file.is_stale()
        .context(|| format!("statting lock file `{}'", file.path().display()))
}
