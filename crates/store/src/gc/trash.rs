//! Deleting directories, with several threads.

use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use system::ids::effective_uid;
use system::sync::Mutex;
use system::tree::{Descend, Dir, Visit, Visited, walk};

use crate::error::{Context, Error, Result, from_tree};
use crate::progress::{Progress, check};
use crate::store::Store;

/// The directory, in the store directory, that holds directories to be deleted.
pub(crate) const TRASH: &str = "trash";

/// The maximum number of threads that delete.
const THREADS: usize = 4;

/// The bytes that deleting files has freed, or will free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    /// Of files that had no other link.
    certain: u64,
    /// Of files with one more link, presumably in `.links`: they are freed when that is removed.
    linked: u64,
}

impl Freed {
    /// What deleting a file with so many links and bytes frees.
    pub(super) fn by_file(store: &Store, links: u64, bytes: u64) -> Freed {
        match links {
            0 | 1 => Freed {
                certain: bytes,
                linked: 0,
            },
            2 if store.options().deduplicate => Freed {
                certain: 0,
                linked: bytes,
            },
            _ => Freed::default(),
        }
    }

    /// Adds. A few sparse files can exceed the largest number.
    pub(super) fn add(&mut self, other: Freed) {
        self.certain = self.certain.saturating_add(other.certain);
        self.linked = self.linked.saturating_add(other.linked);
    }

    /// What is free once unused links are removed.
    pub(super) fn expected(self) -> u64 {
        self.certain.saturating_add(self.linked)
    }

    /// What is free without the links.
    pub(super) fn certain(self) -> u64 {
        self.certain
    }
}

/// Deletes the trash, if it exists, and everything in it.
pub(super) fn remove(store: &Store, progress: &dyn Progress) -> Result<Freed> {
    let root = &store.inner.root;
    let reading = || format!("reading directory `{}/{TRASH}'", store.dir());
    let trash = match root.open_dir(TRASH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Freed::default()),
        trash => trash.context(reading)?,
    };
    let names = trash.names().context(reading)?;
    let freed = Mutex::new(Freed::default());
    let failure = Mutex::new(None);
    in_parallel(&names, |name| {
        let removed = check(progress).and_then(|()| remove_tree(store, &trash, name));
        match removed {
            Ok(bytes) => {
                freed.lock().add(bytes);
                true
            }
            Err(error) => {
                failure.lock().get_or_insert(error);
                false
            }
        }
    });
    if let Some(error) = failure.lock().take() {
        return Err(error);
    }
    match root.remove_dir(TRASH) {
        // Another collector is using it, or has removed it.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(Error::io(
                format!("cannot unlink `{}/{TRASH}'", store.dir()),
                error,
            ))
        }
        _ => Ok(freed.into_inner()),
    }
}

/// Calls `work` for all of `items`, from several threads, until it returns false.
pub(super) fn in_parallel<T: Sync>(items: &[T], work: impl Fn(&T) -> bool + Sync) {
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS);
    let next = AtomicU64::new(0);
    let run = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            if !work(item) {
                break;
            }
        }
    };
    if items.len() < 64 || threads == 1 {
        return run();
    }
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(run);
        }
    });
}

/// Deletes the tree `name` in `dir`. If it vanishes meanwhile (two collectors may empty the same
/// trash), that isn't an error.
pub(super) fn remove_tree(store: &Store, dir: &Dir, name: &OsStr) -> Result<Freed> {
    let mut remover = Remover {
        store,
        freed: Freed::default(),
        privileged: effective_uid() == 0,
    };
    let mut result = walk(dir, name, &mut remover);
    let denied = |error: &system::tree::Error| {
        matches!(
            error.source.raw_os_error(),
            Some(nix::libc::EACCES | nix::libc::EPERM)
        )
    };
    if remover.privileged && result.as_ref().is_err_and(denied) {
        // Root without the capability to ignore file modes.
        remover.privileged = false;
        result = walk(dir, name, &mut remover);
    }
    match result {
        Err(error) if error.source.kind() != io::ErrorKind::NotFound => {
            Err(from_tree(error, store.dir().as_path()))
        }
        _ => Ok(remover.freed),
    }
}

struct Remover<'a> {
    store: &'a Store,
    freed: Freed,
    /// Whether we can ignore the modes of directories.
    privileged: bool,
}

impl Visit for Remover<'_> {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        if file.stat.is_dir() {
            let mode = file.stat.mode();
            if !self.privileged && mode & 0o700 != 0o700 {
                file.parent.chmod_at(file.name, mode | 0o700)?;
            }
            return Ok(Descend::Into);
        }
        file.parent.remove_file(file.name)?;
        let (links, size) = (file.stat.links(), file.stat.size());
        self.freed.add(Freed::by_file(self.store, links, size));
        Ok(Descend::Over)
    }

    fn leave(&mut self, directory: &Visited<'_>) -> io::Result<()> {
        directory.parent.remove_dir(directory.name)
    }

    fn action(&self) -> &'static str {
        "unlink"
    }
}
