//! Finding permanent roots, in directories that others can change at any moment.
//!
//! Directories are opened without following links, and what is in them is looked at through their
//! descriptors: what is renamed meanwhile leads nowhere else. A root that can't be read is none,
//! and keeps no others from being found.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use formats::store_path::StorePath;
use nix::libc;
use system::tree::{Dir, Kind, look_up};
use system::{errno, ids};

use super::credentials::Credentials;
use crate::directories::canonical;
use crate::error::{Context, Error, Result};
use crate::progress::{Level, Progress, check, say};
use crate::store::Store;

/// What a root keeps.
pub(crate) struct Root {
    pub(crate) item: StorePath,
    /// Whether the asker could find the root.
    pub(crate) visible: bool,
}

/// A directory to look into.
struct Pending {
    /// Its path in the directory that is searched; empty for that one.
    path: PathBuf,
    /// Whether the asker can get to it.
    visible: bool,
}

/// A directory that is searched with all below it.
struct Start {
    dir: Dir,
    path: PathBuf,
}

impl Start {
    fn path(&self, inside: &Path) -> PathBuf {
        self.path.join(inside)
    }
}

pub(super) struct Finder<'a> {
    store: &'a Store,
    /// The user who asks, if not everything may be disclosed.
    asker: Option<&'a Credentials>,
    progress: &'a dyn Progress,
    /// Directories that have not been looked into.
    pending: Vec<Pending>,
    pub(super) roots: BTreeMap<PathBuf, Root>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(
        store: &'a Store,
        asker: Option<&'a Credentials>,
        progress: &'a dyn Progress,
    ) -> Finder<'a> {
        Finder {
            store,
            asker,
            progress,
            pending: Vec::new(),
            roots: BTreeMap::new(),
        }
    }

    /// Looks at a directory in the state directory, if it exists, and at all below it.
    pub(super) fn search(&mut self, name: &str) -> Result<()> {
        let path = self.store.directories().state.join(name);
        // Links up to here are the administrator's.
        let open = || Dir::open(std::fs::canonicalize(&path)?);
        let dir = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            dir => dir.context(|| format!("opening directory `{}'", path.display()))?,
        };
        self.pending.push(Pending {
            path: PathBuf::new(),
            visible: self.asker.is_none_or(|asker| may_search_all(asker, &path)),
        });
        let start = Start { dir, path };
        while let Some(directory) = self.pending.pop() {
            check(self.progress)?;
            let result = self.look_into(&start, &directory);
            self.tolerate(&start.path(&directory.path), directory.visible, result)?;
        }
        Ok(())
    }

    /// Goes on after an error that another attempt would give again.
    fn tolerate(&self, path: &Path, visible: bool, result: Result<()>) -> Result<()> {
        match result {
            Err(Error::Io { source, .. }) if is_permanent(&source) => {
                let reason = errno::message(&source);
                self.say(visible, || {
                    format!("cannot read potential root '{}': {reason}", path.display())
                });
                Ok(())
            }
            result => result,
        }
    }

    /// Writes a message about a root, if the asker can see it.
    fn say(&self, visible: bool, text: impl FnOnce() -> String) {
        if visible {
            say(self.progress, Level::Info, text);
        }
    }

    /// Looks at what is in a directory.
    fn look_into(&mut self, start: &Start, directory: &Pending) -> Result<()> {
        let full = start.path(&directory.path);
        let reading = || format!("reading `{}'", full.display());
        let dir = start.dir.open_beneath(Path::new(".").join(&directory.path));
        let dir = dir.context(reading)?;
        let visible = directory.visible
            && self.asker.is_none_or(|asker| {
                dir.stat()
                    .is_ok_and(|stat| asker.may_list(&stat) && asker.may_search(&stat))
            });
        let entries = dir.entries().context(reading)?;
        for entry in entries {
            let name = entry.context(reading)?.name;
            let path = directory.path.join(&name);
            let full = start.path(&path);
            let result = self.look_at(&dir, &name, path, &full, visible);
            self.tolerate(&full, visible, result)?;
        }
        Ok(())
    }

    /// Looks at one file of a directory. `path` is its path for [`Pending`], `full` its whole path.
    fn look_at(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: PathBuf,
        full: &Path,
        visible: bool,
    ) -> Result<()> {
        let reading = || format!("reading `{}'", full.display());
        match dir.stat_at(name).context(reading)?.kind() {
            Kind::Directory => self.pending.push(Pending { path, visible }),
            Kind::Symlink => {
                let target = dir.read_link(name).context(reading)?;
                self.follow(dir, name, full, Path::new(&target), visible)?;
            }
            Kind::Regular => {
                if let Some(name) = name.to_str() {
                    if let Ok(item) = self.store.dir().join(name) {
                        if self.store.is_valid(&item)? {
                            self.roots.insert(full.to_owned(), Root { item, visible });
                        }
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A link to the store is a root; so is a link to another link that points to the store.
    fn follow(
        &mut self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
        target: &Path,
        visible: bool,
    ) -> Result<()> {
        if self.in_store(target) {
            return self.found(path, target, visible);
        }
        let around = path.parent().unwrap_or(Path::new("/"));
        let target = canonical(&around.join(target))?;
        let mut may_see = visible;
        let located = look_up(&target, |directory| {
            may_see &= self.asker.is_none_or(|asker| asker.may_search(directory));
        });
        let second = located.and_then(|located| match located.stat()?.kind() {
            Kind::Symlink => located.read_link().map(Some),
            _ => Ok(None),
        });
        match second {
            Ok(Some(second)) if self.in_store(Path::new(&second)) => {
                self.found(&target, Path::new(&second), may_see)?;
            }
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
                let auto = self.store.directories().state.join("gcroots/auto");
                if path.starts_with(auto) && may_see && may_owner_see(dir, name, &target) {
                    self.say(true, || {
                        let (path, target) = (path.display(), target.display());
                        format!("removing stale link from `{path}' to `{target}'")
                    });
                    dir.remove_file(name)
                        .context(|| format!("removing `{}'", path.display()))?;
                }
            }
            Err(error) => {
                let path = target.display();
                if !is_permanent(&error) {
                    return Err(Error::io(format!("reading `{path}'"), error));
                }
                let reason = errno::message(&error);
                self.say(may_see, || {
                    format!("cannot read potential root '{path}': {reason}")
                });
            }
        }
        Ok(())
    }

    fn in_store(&self, target: &Path) -> bool {
        let store = self.store.dir().as_str().as_bytes();
        let rest = target.as_os_str().as_bytes().strip_prefix(store);
        rest.is_some_and(|rest| rest.len() > 1 && rest[0] == b'/')
    }

    fn found(&mut self, path: &Path, target: &Path, visible: bool) -> Result<()> {
        let item = self.store.dir().item_of(target.as_os_str().as_bytes());
        match item {
            Ok(item) if self.store.is_valid(&item)? => {
                self.roots.insert(path.to_owned(), Root { item, visible });
            }
            _ => self.say(visible, || {
                let (path, target) = (path.display(), target.display());
                format!("skipping invalid root from `{path}' to `{target}'")
            }),
        }
        Ok(())
    }
}

/// Whether the user can search all directories on the way to `path`, as far as they exist.
fn may_search_all(user: &Credentials, path: &Path) -> bool {
    let mut may = true;
    let located = look_up(path, |directory| may &= user.may_search(directory));
    drop(located);
    may
}

/// Whether the owner of an indirect root can see that its target is gone. If not, the link stays:
/// its removal would disclose what is in directories that the owner may not search.
fn may_owner_see(dir: &Dir, name: &OsStr, target: &Path) -> bool {
    let owner = || -> io::Result<Credentials> {
        let uid = dir.stat_at(name)?.uid();
        let gid = ids::user_by_id(uid)?.map_or(u32::MAX, |account| account.gid);
        Ok(Credentials::of_user(uid, gid))
    };
    match owner() {
        Ok(owner) => may_search_all(&owner, target),
        Err(error) => {
            tracing::debug!(%error, "looking up the owner of an indirect root");
            false
        }
    }
}

/// Whether a retry would fail in the same way: a file that can't be read isn't a root. Errors for
/// lack of resources are not permanent, because the items of a root that is not seen are deleted.
fn is_permanent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EACCES
                | libc::EPERM
                | libc::ENOENT
                | libc::ENOTDIR
                | libc::EISDIR
                | libc::EINVAL
                | libc::EXDEV
                | libc::ENXIO
                | libc::ENODEV
                | libc::ENOTCONN
                | libc::ELOOP
                | libc::ENAMETOOLONG
        )
    )
}
