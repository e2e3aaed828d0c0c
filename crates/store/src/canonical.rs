//! Canonical metadata for builders' outputs (`doc/spec/store-formats.md`, section 9).

use std::collections::HashSet;
use std::io;
use std::path::Path;

use formats::nar::MAX_DEPTH;
use system::ids::{effective_gid, effective_uid};
use system::tree::{Descend, Kind, Visit, Visited, walk};

use crate::dump::open_parent;
use crate::error::{Error, Result, from_tree, into_io};
use crate::progress::{Progress, check};
use crate::store::Store;

/// Files (by device and inode number) that were already made canonical: a file may have several
/// links among the outputs of one build.
pub type InodesSeen = HashSet<(u64, u64)>;

/// The modification time of everything in the store: one second after the epoch.
pub(crate) const MTIME: i64 = 1;

impl Store {
    /// Gives `path` (anywhere; not followed if it is a link) and everything below it the metadata
    /// of store items: mode 0444 or 0555, modification time 1, owned by this process's user, no
    /// access control list and no extended attributes but those that the system itself sets.
    ///
    /// With `owner`, every file has to belong to that user or be in `seen`. Without this check, a
    /// builder could link another user's file into its output to have it made readable.
    /// And the tree has to be one that [`nar::Reader`](formats::nar) can read again, elsewhere.
    ///
    /// When `progress` says so, it stops at the next file.
    pub fn canonicalise(
        &self,
        path: &Path,
        owner: Option<u32>,
        seen: &mut InodesSeen,
        progress: &dyn Progress,
    ) -> Result<()> {
        let (parent, name, place) = open_parent(path)?;
        let mut visitor = Canonicaliser {
            owner,
            seen,
            progress,
            place,
            us: (effective_uid(), effective_gid()),
        };
        walk(&parent, name, &mut visitor).map_err(|error| from_tree(error, place))
    }
}

struct Canonicaliser<'a> {
    owner: Option<u32>,
    seen: &'a mut InodesSeen,
    progress: &'a dyn Progress,
    place: &'a Path,
    us: (u32, u32),
}

impl Canonicaliser<'_> {
    fn name(&self, file: &Visited<'_>) -> String {
        self.place.join(file.path()).display().to_string()
    }
}

impl Visit for Canonicaliser<'_> {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        check(self.progress).map_err(into_io)?;
        let (parent, name, stat) = (file.parent, file.name, file.stat);
        if stat.kind() == Kind::Other {
            return Err(into_io(Error::UnsupportedType(self.name(file))));
        }
        if self.owner.is_some() && stat.is_dir() && file.depth >= MAX_DEPTH {
            let path = file.path();
            let root = path.components().next().map(|name| self.place.join(name));
            let root = root.unwrap_or_default().display().to_string();
            return Err(into_io(Error::TooDeep(root)));
        }
        if self.owner.is_some_and(|owner| owner != stat.uid()) {
            if stat.is_dir() || !self.seen.contains(&stat.identity()) {
                return Err(into_io(Error::InvalidOwnership(self.name(file))));
            }
            return Ok(Descend::Over);
        }
        self.seen.insert(stat.identity());
        // The owner first: only some systems clear the setuid bit of a file that changes owner.
        // A builder can give what it makes to another group that the daemon is in.
        if stat.uid() != self.us.0 || (self.owner.is_some() && stat.gid() != self.us.1) {
            parent.chown_at(name, Some(self.us.0), Some(self.us.1))?;
        }
        // An access control list would survive the change of mode and, through deduplication, reach
        // other users' items.
        parent.remove_foreign_attributes_at(name)?;
        if stat.kind() != Kind::Symlink && !matches!(stat.mode(), 0o444 | 0o555) {
            let mode = if stat.mode() & 0o100 != 0 {
                0o555
            } else {
                0o444
            };
            parent.chmod_at(name, mode)?;
        }
        if stat.mtime() != (MTIME, 0) {
            parent.set_times_at(name, Some(stat.atime().0), MTIME)?;
        }
        Ok(Descend::Into)
    }

    fn action(&self) -> &'static str {
        "make canonical"
    }
}
