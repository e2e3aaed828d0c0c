//! Temporary roots: what a session works with stays while the session lives.
//!
//! Each session has a file under `<state>/temproots`, with the names of its roots, each ended by
//! a NUL (`doc/spec/store-formats.md`, section 11). While it lives it holds a shared lock on the
//! file, and an exclusive one while it adds a root. The collector, Guix's or ours, holds shared
//! locks on all these files while it decides and deletes, so that no root is added unseen; a file
//! that it can lock exclusively is one that a dead session left.
//!
//! Guix names the file after the process, and removes one of that name which it finds when it
//! starts; the collector reads files of any name. Ours are named `PID-RANDOM`, so that sessions of
//! one process have each their own and no process of Guix's takes one for its own.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use formats::store_path::StorePath;
use system::lock::{LockFile, Mode};
use system::sync::Mutex;

use crate::error::{Context, Error, Result};
use crate::progress::{Level, Progress};
use crate::store::{Store, unique};

/// The temporary roots of one session: a file under `temproots`, removed on drop. Shared by
/// threads.
pub struct TempRoots {
    store: Store,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<LockFile>,
    /// How long the file is.
    length: u64,
    /// What is in the file.
    known: HashSet<StorePath>,
}

impl Store {
    /// Temporary roots for a new session. The file comes into being with the first root.
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
    /// Keeps `path` (valid or not) from the collector. Waits while a collection deletes; after
    /// it returns, ask again whether the path is valid.
    pub fn add(&self, path: &StorePath, progress: &dyn Progress) -> Result<()> {
        self.add_all([path], progress)
    }

    /// Keeps several paths, for little more than the cost of one.
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
            // Half a name would be a root that is no path.
            let _ = file.file().set_len(state.length);
        }
        file.lock(Mode::Shared).context(failed)?;
        written.context(|| format!("writing to `{}'", file.path().display()))?;
        state.length += text.len() as u64;
        state.known.extend(added);
        Ok(())
    }

    /// Gives up all roots; the next one begins a new file.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        state.known.clear();
        if let Some(file) = state.file.take() {
            remove(&file);
        }
    }

    /// A new file, locked.
    fn create(&self, progress: &dyn Progress) -> Result<LockFile> {
        let directory = self.store.temp_roots_directory();
        fs::create_dir_all(&directory)
            .context(|| format!("creating directory `{}'", directory.display()))?;
        loop {
            let path = directory.join(unique());
            // While a collection reads these files, none may be added.
            let gc_lock = self.store.gc_lock(Mode::Shared, progress)?;
            let file = LockFile::open(&path)
                .context(|| format!("opening lock file `{}'", path.display()))?;
            drop(gc_lock);
            file.lock(Mode::Shared)
                .context(|| format!("acquiring/releasing lock on `{}'", path.display()))?;
            // A collector may have taken it for a dead session's before it was locked.
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

/// Removes the file of a session that ends; failing that, the next collector does.
fn remove(file: &LockFile) {
    if let Err(error) = fs::remove_file(file.path()) {
        tracing::debug!(path = %file.path().display(), %error, "removing temporary roots");
    }
}
