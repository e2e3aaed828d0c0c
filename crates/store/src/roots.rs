//! Permanent roots: links under `gcroots` and `profiles` (`doc/spec/store-formats.md`, section 11).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use formats::hash::{Algorithm, Hash};
use formats::store_path::StorePath;
use nix::libc;
use system::lock::Mode;

use crate::directories::canonical;
use crate::error::{Context, Error, Result};
use crate::progress::{Level, Progress, check, say};
use crate::store::Store;

impl Store {
    /// Makes the target of the link `link` (an absolute name) a root as long as the link points to
    /// it.
    pub fn add_indirect_root(&self, link: &Path) -> Result<()> {
        let link = canonical(link)?;
        let name = Hash::of(Algorithm::Sha1, link.as_os_str().as_bytes()).base32();
        let root = self.directories().state.join("gcroots/auto").join(name);
        self.make_link(&root, &link)
    }

    /// Makes `path` a root with the name `root`: directly (then `root` has to be in `gcroots`
    /// unless `outside` is allowed), or as an indirect root.
    pub fn add_permanent_root(
        &self,
        path: &StorePath,
        root: &Path,
        indirect: bool,
        outside: bool,
        progress: &dyn Progress,
    ) -> Result<PathBuf> {
        let root = canonical(root)?;
        if root.starts_with(self.dir().as_path()) {
            return Err(Error::Other(format!(
                "creating a garbage collector root ({}) in the store is forbidden \
                 (are you running nix-build inside the store?)",
                root.display()
            )));
        }
        if indirect {
            let ours = match fs::read_link(&root) {
                Ok(target) => target.starts_with(self.dir().as_path()),
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            if !ours {
                let root = root.display();
                return Err(Error::Other(format!(
                    "cannot create symlink `{root}'; already exists"
                )));
            }
            self.make_link(&root, path.as_path())?;
            self.add_indirect_root(&root)?;
        } else {
            let roots = self.directories().state.join("gcroots");
            if !outside && !root.starts_with(&roots) {
                return Err(Error::Other(format!(
                    "path `{}' is not a valid garbage collector root; it's not in the directory \
                     `{}'",
                    root.display(),
                    roots.display()
                )));
            }
            if root
                .file_name()
                .is_some_and(|name| name == path.base_name())
            {
                fs::write(&root, "").context(|| format!("writing file `{}'", root.display()))?;
            } else {
                self.make_link(&root, path.as_path())?;
            }
        }
        self.sync_with_gc(progress)?;
        Ok(root)
    }

    /// The permanent roots: each link (or file), and the valid path that it keeps. Stale indirect
    /// roots are removed.
    pub fn find_roots(&self, progress: &dyn Progress) -> Result<BTreeMap<PathBuf, StorePath>> {
        let state = &self.directories().state;
        let mut finder = Finder {
            store: self,
            progress,
            roots: BTreeMap::new(),
        };
        finder.search(state.join("gcroots"))?;
        let manifests = state.join("manifests");
        if manifests.exists() {
            finder.search(manifests)?;
        }
        finder.search(state.join("profiles"))?;
        Ok(finder.roots)
    }

    /// Waits while a collection is running.
    pub fn sync_with_gc(&self, progress: &dyn Progress) -> Result<()> {
        self.gc_lock(Mode::Shared, progress).map(drop)
    }

    /// Makes `link` a link to `target`, replacing an existing one.
    fn make_link(&self, link: &Path, target: &Path) -> Result<()> {
        if let Some(parent) = link.parent() {
            fs::create_dir_all(parent)
                .context(|| format!("creating directory `{}'", parent.display()))?;
        }
        let mut temporary = link.as_os_str().to_owned();
        temporary.push(self.unique_name(".tmp"));
        let temporary = PathBuf::from(temporary);
        let created = std::os::unix::fs::symlink(target, &temporary);
        created.context(|| {
            format!(
                "creating symlink from `{}' to `{}'",
                temporary.display(),
                target.display()
            )
        })?;
        let renamed = fs::rename(&temporary, link);
        if renamed.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        renamed.context(|| {
            format!(
                "cannot rename `{}' to `{}'",
                temporary.display(),
                link.display()
            )
        })
    }
}

struct Finder<'a> {
    store: &'a Store,
    progress: &'a dyn Progress,
    roots: BTreeMap<PathBuf, StorePath>,
}

impl Finder<'_> {
    /// Searches `start` and everything below it.
    fn search(&mut self, start: PathBuf) -> Result<()> {
        let mut pending = vec![start];
        while let Some(path) = pending.pop() {
            check(self.progress)?;
            match self.look(&path, &mut pending) {
                Err(error) if is_permanent(&error) => say(self.progress, Level::Info, || {
                    format!("cannot read potential root `{}'", path.display())
                }),
                result => result?,
            }
        }
        Ok(())
    }

    /// Checks one file; the contents of a directory are added to `pending`.
    fn look(&mut self, path: &Path, pending: &mut Vec<PathBuf>) -> Result<()> {
        let reading = || format!("reading `{}'", path.display());
        let kind = fs::symlink_metadata(path).context(reading)?.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(path).context(reading)? {
                pending.push(entry.context(reading)?.path());
            }
        } else if kind.is_symlink() {
            self.follow(path, fs::read_link(path).context(reading)?)?;
        } else if kind.is_file()
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Ok(item) = self.store.dir().join(name)
            && self.store.is_valid(&item)?
        {
            self.roots.insert(path.to_owned(), item);
        }
        Ok(())
    }

    /// A link to the store is a root; so is a link to another link that points to the store.
    fn follow(&mut self, path: &Path, target: PathBuf) -> Result<()> {
        if self.in_store(&target) {
            return self.found(path, &target);
        }
        let around = path.parent().unwrap_or(Path::new("/"));
        let target = canonical(&around.join(target))?;
        let reading = || format!("reading `{}'", target.display());
        match fs::symlink_metadata(&target) {
            Ok(metadata) if metadata.is_symlink() => {
                let second = fs::read_link(&target).context(reading)?;
                if self.in_store(&second) {
                    self.found(&target, &second)?;
                }
            }
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                let auto = self.store.directories().state.join("gcroots/auto");
                if path.starts_with(auto) {
                    say(self.progress, Level::Info, || {
                        let (path, target) = (path.display(), target.display());
                        format!("removing stale link from `{path}' to `{target}'")
                    });
                    fs::remove_file(path).context(|| format!("removing `{}'", path.display()))?;
                }
            }
            Err(error) => return Err(Error::io(reading(), error)),
        }
        Ok(())
    }

    fn in_store(&self, target: &Path) -> bool {
        let store = self.store.dir().as_str().as_bytes();
        let rest = target.as_os_str().as_bytes().strip_prefix(store);
        rest.is_some_and(|rest| rest.len() > 1 && rest[0] == b'/')
    }

    fn found(&mut self, path: &Path, target: &Path) -> Result<()> {
        let item = self.store.dir().item_of(target.as_os_str().as_bytes());
        match item {
            Ok(item) if self.store.is_valid(&item)? => {
                self.roots.insert(path.to_owned(), item);
            }
            _ => say(self.progress, Level::Info, || {
                let (path, target) = (path.display(), target.display());
                format!("skipping invalid root from `{path}' to `{target}'")
            }),
        }
        Ok(())
    }
}

/// Whether a retry would fail in the same way: a file that can't be read isn't a root.
fn is_permanent(error: &Error) -> bool {
    matches!(
        error.errno(),
        Some(libc::EACCES | libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG)
    )
}
