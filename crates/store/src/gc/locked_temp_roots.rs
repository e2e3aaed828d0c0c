//! The temporary roots of all sessions, locked so that none can be added.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};

use formats::store_path::StorePath;
use system::lock::{LockFile, Mode};

use crate::error::{Context, Error, Result};
use crate::progress::{Level, Progress};
use crate::store::Store;

/// The temporary roots of all sessions, with the locks that keep sessions from adding to them.
pub(super) struct LockedTempRoots {
    pub(super) roots: HashSet<StorePath>,
    _locks: Vec<LockFile>,
}

impl LockedTempRoots {
    /// Reads all temporary roots; removes the files of dead sessions.
    pub(super) fn read(store: &Store, progress: &dyn Progress) -> Result<LockedTempRoots> {
        let directory = store.temp_roots_directory();
        let reading = || format!("reading directory `{}'", directory.display());
        let (mut roots, mut locks) = (HashSet::new(), Vec::new());
        for entry in fs::read_dir(&directory).context(reading)? {
            let path = entry.context(reading)?.path();
            let opening = || format!("opening temporary roots file `{}'", path.display());
            let file = match File::options().read(true).write(true).open(&path) {
                // Its session has ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => LockFile::from_file(file.context(opening)?, &path),
            };
            let locking = || format!("acquiring/releasing lock on `{}'", path.display());
            if file.try_lock(Mode::Exclusive).context(locking)? {
                progress.message(
                    Level::Error,
                    &format!("removing stale temporary roots file `{}'", path.display()),
                );
                let _ = fs::remove_file(&path);
                file.file().write_all(b"d").context(opening)?;
                continue;
            }
            let taken = file
                .lock_unless(Mode::Shared, || progress.interrupted())
                .context(locking)?;
            if !taken {
                return Err(Error::Interrupted);
            }
            let mut contents = Vec::new();
            file.file().read_to_end(&mut contents).context(opening)?;
            let names = contents.split_inclusive(|byte| *byte == 0);
            roots
                .extend(names.filter_map(|name| store.dir().parse(name.strip_suffix(b"\0")?).ok()));
            locks.push(file);
        }
        Ok(LockedTempRoots {
            roots,
            _locks: locks,
        })
    }

    /// Whether the path is a temporary root's lock file or build root directory.
    pub(super) fn is_in_use(&self, store: &Store, path: &StorePath) -> bool {
        [".lock", ".chroot"].iter().any(|suffix| {
            let base = path.base_name().strip_suffix(suffix);
            base.and_then(|base| store.dir().join(base).ok())
                .is_some_and(|base| self.roots.contains(&base))
        })
    }
}
