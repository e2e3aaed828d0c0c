//! Temporary roots: they protect the items that a session uses while the session lives.
//!
//! Each session has a file under `<state>/temproots` with the names of its roots, each terminated
//! by a NUL (`doc/spec/store-formats.md`, section 11). The session holds a shared lock on the file,
//! and an exclusive one while it adds a root. The collector, Guix's or ours, holds shared locks on
//! all these files while it marks and deletes, so that no root is added unseen; if it can lock a
//! file exclusively, the file's session is dead.
//!
//! Guix names the file after the process, and at startup removes an existing file with that name;
//! the collector reads files with any name. Ours are named `PID-RANDOM`, so that each session of a
//! process has its own and no process of Guix's mistakes it for its own.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use formats::store_path::StorePath;
use system::lock::{LockFile, Mode};
use system::quota::Quota;
use system::sync::Mutex;

use crate::error::{Context, Error, Result};
use crate::progress::{Level, Progress};
use crate::store::{Store, unique};

/// The temporary roots of one session: a file under `temproots`, which is removed on drop. Shared
/// by threads.
pub struct TempRoots {
    store: Store,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<LockFile>,
    /// The length of the file.
    length: u64,
    /// The roots in the file.
    known: HashSet<StorePath>,
    /// How many there may be.
    quota: Option<Box<dyn Quota>>,
}

impl Store {
    /// Temporary roots for a new session. The file is created with the first root.
    pub fn temp_roots(&self) -> TempRoots {
        TempRoots {
            store: self.clone(),
            state: Mutex::default(),
        }
    }

    /// The directory of the sessions' files.
    pub(crate) fn temp_roots_directory(&self) -> PathBuf {
        self.directories().state.join("temproots")
    }

    /// Takes the collector's lock: exclusively to collect, shared to wait for a collection.
    pub(crate) fn gc_lock(&self, mode: Mode, progress: &dyn Progress) -> Result<LockFile> {
        let path = self.directories().state.join("gc.lock");
        let file = LockFile::open(&path)
            .context(|| format!("opening global GC lock `{}'", path.display()))?;
        let failed = || format!("acquiring/releasing lock on `{}'", path.display());
        if !file.try_lock(mode).context(failed)? {
            progress.message(
                Level::Error,
                "waiting for the big garbage collector lock...",
            );
            let taken = file
                .lock_unless(mode, || progress.interrupted())
                .context(failed)?;
            if !taken {
                return Err(Error::Interrupted);
            }
        }
        Ok(file)
    }
}

impl TempRoots {
    /// Counts the roots in somebody's share.
    pub fn limited_by(self, quota: Box<dyn Quota>) -> TempRoots {
        self.state.lock().quota = Some(quota);
        self
    }

    /// Protects `path` (valid or not) from the collector. Waits while a collection deletes; check
    /// again afterwards whether the path is valid.
    pub fn add(&self, path: &StorePath, progress: &dyn Progress) -> Result<()> {
        self.add_all([path], progress)
    }

    /// Protects several paths, at little more than the cost of one.
    pub fn add_all<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut state = self.state.lock();
        let mut text = Vec::new();
        let mut added = Vec::new();
        for path in paths {
            if !state.known.contains(path) {
                text.extend_from_slice(path.as_str().as_bytes());
                text.push(0);
                added.push(path.clone());
            }
        }
        if added.is_empty() {
            return Ok(());
        }
        if let Some(quota) = &mut state.quota {
            quota.take(added.len() as u64)?;
        }
        if state.file.is_none() {
            state.file = Some(self.create(progress)?);
            state.length = 0;
        }
        let Some(file) = &state.file else {
            return Ok(());
        };
        let failed = || format!("acquiring/releasing lock on `{}'", file.path().display());
        let taken = file
            .lock_unless(Mode::Exclusive, || progress.interrupted())
            .context(failed)?;
        if !taken {
            return Err(Error::Interrupted);
        }
        let written = file.file().write_all_at(&text, state.length);
        if written.is_err() {
            // A partial name would be an invalid root.
            let _ = file.file().set_len(state.length);
        }
        file.lock(Mode::Shared).context(failed)?;
        written.context(|| format!("writing to `{}'", file.path().display()))?;
        state.length += text.len() as u64;
        state.known.extend(added);
        Ok(())
    }

    /// Drops all roots; the next one creates a new file.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        state.known.clear();
        if let Some(quota) = &mut state.quota {
            quota.give_back();
        }
        if let Some(file) = state.file.take() {
            remove(&file);
        }
    }

    /// Creates a new file and locks it.
    fn create(&self, progress: &dyn Progress) -> Result<LockFile> {
        let directory = self.store.temp_roots_directory();
        fs::create_dir_all(&directory)
            .context(|| format!("creating directory `{}'", directory.display()))?;
        loop {
            let path = directory.join(unique());
            // No file may be added while a collection reads them.
            let gc_lock = self.store.gc_lock(Mode::Shared, progress)?;
            let file = LockFile::open(&path)
                .context(|| format!("opening lock file `{}'", path.display()))?;
            drop(gc_lock);
            file.lock(Mode::Shared)
                .context(|| format!("acquiring/releasing lock on `{}'", path.display()))?;
            // A collector may have mistaken it for a dead session's file before it was locked.
            let stale = file
                .is_stale()
                .context(|| format!("statting `{}'", path.display()))?;
            if !stale {
                return Ok(file);
            }
        }
    }
}

impl Drop for TempRoots {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Removes the file of a session that ends; if that fails, the next collector does.
fn remove(file: &LockFile) {
    if let Err(error) = fs::remove_file(file.path()) {
        tracing::debug!(path = %file.path().display(), %error, "removing temporary roots");
    }
}
