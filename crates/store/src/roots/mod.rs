//! Permanent roots: links under `gcroots` and `profiles` (`doc/spec/store-formats.md`, section 11).

mod credentials;
mod finder;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use formats::hash::{Algorithm, Hash};
use formats::store_path::StorePath;
use system::lock::Mode;

use self::finder::{Finder, Root};
use crate::directories::canonical;
use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::store::Store;

pub use self::credentials::Credentials;

impl Store {
    /// Makes the target of the link `link` (an absolute name) a root as long as the link points to
    /// it, on behalf of the user `owner`.
    pub fn add_indirect_root(&self, link: &Path, owner: u32) -> Result<()> {
        let link = canonical(link)?;
        let name = Hash::of(Algorithm::Sha1, link.as_os_str().as_bytes()).base32();
        let root = self.directories().state.join("gcroots/auto").join(name);
        self.make_link(&root, &link, Some(owner))
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
            self.make_link(&root, path.as_path(), None)?;
            self.add_indirect_root(&root, system::ids::effective_uid())?;
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
                self.make_link(&root, path.as_path(), None)?;
            }
        }
        self.sync_with_gc(progress)?;
        Ok(root)
    }

    /// The permanent roots: each link (or file), and the valid path that it keeps. Stale indirect
    /// roots are removed. If `asker` is given, roots that this user could not find are left out.
    pub fn find_roots(
        &self,
        asker: Option<&Credentials>,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<PathBuf, StorePath>> {
        let roots = self.search_roots(asker, progress)?;
        Ok(roots
            .into_iter()
            .filter(|(_, root)| root.visible)
            .map(|(link, root)| (link, root.item))
            .collect())
    }

    /// All permanent roots. Messages name only those that `asker` could find.
    pub(crate) fn search_roots(
        &self,
        asker: Option<&Credentials>,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<PathBuf, Root>> {
        let mut finder = Finder::new(self, asker, progress);
        for directory in ["gcroots", "manifests", "profiles"] {
            finder.search(directory)?;
        }
        Ok(finder.roots)
    }

    /// Waits while a collection is running.
    pub fn sync_with_gc(&self, progress: &dyn Progress) -> Result<()> {
        self.gc_lock(Mode::Shared, progress).map(drop)
    }

    /// Makes `link` a link to `target`, replacing an existing one. A daemon that is root gives it to
    /// `owner`.
    fn make_link(&self, link: &Path, target: &Path, owner: Option<u32>) -> Result<()> {
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
        if let Some(owner) = owner {
            if system::ids::effective_uid() == 0 {
                if let Err(error) = std::os::unix::fs::lchown(&temporary, Some(owner), None) {
                    tracing::debug!(link = %link.display(), %error, owner, "giving a root to its owner");
                }
            }
        }
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
