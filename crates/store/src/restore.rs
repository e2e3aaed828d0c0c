//! Unpacking a nar to files of the store, with canonical metadata from the start.
//!
//! Files get their final mode and times when they are written, and are deduplicated at the same
//! time, so that no second pass is needed. Everything is below a new name in the store directory
//! and accessed through directory descriptors.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use bstr::{BStr, ByteSlice};
use formats::hash::Hash;
use formats::nar::Sink;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use system::tree::{Dir, Kind, has_attributes};

use crate::canonical::MTIME;
use crate::dump::{FILE_CHUNK_SIZE, read_whole};
use crate::error::{Error, into_io};
use crate::file_hash::{DEDUPLICATION_MINIMUM, FileHasher};
use crate::links::{Candidate, OptimiseStats, set_own_time};
use crate::progress::Quiet;
use crate::store::Store;

/// How many of the outermost and of the innermost directories are kept open.
const OPEN_AT_EACH_END: usize = 32;

/// Unpacks one tree.
pub(crate) struct Restorer {
    store: Store,
    /// The directories on the way to the current node, outermost first.
    levels: Vec<OpenLevel>,
    /// The name of the next node in the innermost directory, or in the store.
    next: OsString,
    deduplicate: bool,
    /// Set once the root node is known to be a regular file: whether it is executable. Such an item
    /// is not deduplicated here: the hash for that is the one of the whole nar, which is known
    /// later.
    root_file: bool,
    /// Whether plain and executable files are known to be created with the requested mode.
    exact: [bool; 2],
    buffer: Vec<u8>,
}

struct OpenLevel {
    /// Open, unless it is far from both ends.
    dir: Option<Dir>,
    name: OsString,
}

impl Restorer {
    /// Unpacks to `name` in the store directory, which must not exist. If `deduplicate`, files are
    /// linked with equal ones.
    pub(crate) fn new(store: &Store, name: &str, deduplicate: bool) -> Restorer {
        Restorer {
            deduplicate,
            store: store.clone(),
            levels: Vec::new(),
            next: name.into(),
            root_file: false,
            exact: [false; 2],
            buffer: Vec::new(),
        }
    }

    /// Whether the item is a single regular file.
    pub(crate) fn is_file(&self) -> bool {
        self.root_file
    }

    fn parent(&self) -> io::Result<&Dir> {
        match self.levels.last() {
            None => Ok(&self.store.inner.root),
            Some(level) => level
                .dir
                .as_ref()
                .ok_or_else(|| io::Error::other("directory closed")),
        }
    }

    /// Adds what was attempted to an error.
    fn failed(&self, action: &str, error: io::Error) -> io::Error {
        let mut path = self.store.dir().as_path().to_path_buf();
        path.extend(self.levels.iter().map(|level| &level.name));
        path.push(&self.next);
        into_io(Error::io(format!("{action} `{}'", path.display()), error))
    }

    /// Reopens the innermost directory, if it was closed.
    fn reopen(&mut self) -> io::Result<()> {
        let Some(last) = self.levels.len().checked_sub(1) else {
            return Ok(());
        };
        if self.levels[last].dir.is_some() {
            return Ok(());
        }
        let nearest = self.levels.iter().rposition(|level| level.dir.is_some());
        let mut at = match nearest.and_then(|index| self.levels[index].dir.as_ref()) {
            Some(dir) => dir.try_clone()?,
            None => self.store.inner.root.try_clone()?,
        };
        for index in nearest.map_or(0, |index| index + 1)..=last {
            at = at.open_dir(&self.levels[index].name)?;
            if index + OPEN_AT_EACH_END > last {
                self.levels[index].dir = Some(at.try_clone()?);
            }
        }
        Ok(())
    }

    fn write_file(
        &mut self,
        executable: bool,
        size: u64,
        contents: &mut dyn Read,
    ) -> io::Result<()> {
        let mode = if executable { 0o555 } else { 0o444 };
        let linkable = self.deduplicate && size >= DEDUPLICATION_MINIMUM && !self.levels.is_empty();
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = if size <= FILE_CHUNK_SIZE as u64 {
            self.write_small(mode, size, contents, linkable, &mut buffer)
        } else {
            self.write_large(mode, size, contents, linkable, &mut buffer)
        };
        self.buffer = buffer;
        result
    }

    /// Writes a file that is read as a whole, so that nothing is written if it can be linked.
    fn write_small(
        &mut self,
        mode: u32,
        size: u64,
        contents: &mut dyn Read,
        linkable: bool,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        let size = size as usize;
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        let data = &mut buffer[..size];
        contents.read_exact(data)?;
        let hash = linkable.then(|| FileHasher::of(mode == 0o555, data).0);
        let parent = self.parent()?;
        if let Some(hash) = &hash {
            if self
                .store
                .link_existing(hash, size as u64, parent, &self.next)?
            {
                return Ok(());
            }
        }
        let mut file = parent.create_new(&self.next, mode)?;
        self.disinherit(parent, &file)?;
        file.write_all(data)?;
        self.finish(&file, mode)?;
        self.link(hash)
    }

    /// Writes a file through the buffer.
    fn write_large(
        &mut self,
        mode: u32,
        size: u64,
        contents: &mut dyn Read,
        linkable: bool,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        let parent = self.parent()?;
        let mut file = parent.create_new(&self.next, mode)?;
        self.disinherit(parent, &file)?;
        let mut hasher = linkable.then(|| FileHasher::new(mode == 0o555, size));
        read_whole(contents, size, buffer, |data| {
            if let Some(hasher) = &mut hasher {
                hasher.update(data);
            }
            file.write_all(data)
        })?;
        self.finish(&file, mode)?;
        self.link(hasher.map(|hasher| hasher.finish().0))
    }

    /// Removes what the new item inherited from `parent`: a store directory may have a default
    /// access control list. Files that are created in the item then inherit nothing.
    fn disinherit(&self, parent: &Dir, new: &impl AsFd) -> io::Result<()> {
        if self.levels.is_empty() && has_attributes(new)? {
            parent.remove_foreign_attributes_at(&self.next)?;
        }
        Ok(())
    }

    /// Gives a new file its final metadata.
    fn finish(&mut self, file: &File, mode: u32) -> io::Result<()> {
        // If one file has the right mode, so do those created after it: the umask doesn't change,
        // and the directories are our own.
        let exact = &mut self.exact[usize::from(mode == 0o555)];
        if !*exact {
            *exact = set_mode(file, mode)?;
        }
        set_time(file)
    }

    /// Deduplicates the new file, if its hash is wanted and known.
    fn link(&self, hash: Option<Hash>) -> io::Result<()> {
        let Some(hash) = hash else { return Ok(()) };
        let dir = self.parent()?;
        let stat = dir.stat_at(&self.next)?;
        let file = Candidate {
            dir,
            name: &self.next,
            stat,
            finished: false,
        };
        self.store
            .link(&file, &hash, &mut OptimiseStats::default(), &Quiet)
            .map_err(into_io)
    }
}

impl Sink for Restorer {
    fn begin_directory(&mut self) -> io::Result<()> {
        let make = || -> io::Result<Dir> {
            let parent = self.parent()?;
            parent.create_dir(&self.next, 0o755)?;
            let dir = parent.open_dir(&self.next)?;
            self.disinherit(parent, &dir)?;
            Ok(dir)
        };
        let dir = make().map_err(|error| self.failed("creating directory", error))?;
        let name = std::mem::take(&mut self.next);
        self.levels.push(OpenLevel {
            dir: Some(dir),
            name,
        });
        // Keep both ends open: the outer ones to return through, the inner ones to work in.
        if let Some(far) = self.levels.len().checked_sub(OPEN_AT_EACH_END + 1) {
            if far >= OPEN_AT_EACH_END {
                self.levels[far].dir = None;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &BStr) -> io::Result<()> {
        self.next.clear();
        self.next.push(OsStr::from_bytes(name.as_bytes()));
        Ok(())
    }

    fn end_directory(&mut self) -> io::Result<()> {
        let Some(level) = self.levels.pop() else {
            return Ok(());
        };
        self.next = level.name;
        if let Some(dir) = level.dir {
            dir.chmod(0o555)
                .and_then(|()| set_own_time(&dir))
                .map_err(|error| self.failed("making canonical", error))?;
        }
        self.reopen()
            .map_err(|error| self.failed("opening directory around", error))
    }

    fn symlink(&mut self, target: &BStr) -> io::Result<()> {
        let make = || -> io::Result<()> {
            let parent = self.parent()?;
            parent.symlink(OsStr::from_bytes(target.as_bytes()), &self.next)?;
            parent.set_times_at(&self.next, None, MTIME)
        };
        make().map_err(|error| self.failed("creating symlink", error))
    }

    fn regular(&mut self, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        self.root_file = self.levels.is_empty();
        self.write_file(executable, size, contents)
            .map_err(|error| self.failed("writing file", error))
    }
}

/// Gives a new file its final mode. Returns whether it already had it: the umask, or a default
/// access control list of the store, may have removed permissions.
fn set_mode(file: &File, mode: u32) -> io::Result<bool> {
    let right = file.metadata()?.permissions().mode() & 0o7777 == mode;
    if !right {
        file.set_permissions(PermissionsExt::from_mode(mode))?;
    }
    Ok(right)
}

/// Gives a new file its final modification time.
fn set_time(file: &File) -> io::Result<()> {
    let (access, change) = (TimeSpec::UTIME_OMIT, TimeSpec::new(MTIME, 0));
    Ok(futimens(file, &access, &change)?)
}

/// Writes a regular file with canonical metadata to a new name in the store directory.
pub(crate) fn write_text(store: &Store, name: &str, contents: &[u8]) -> io::Result<()> {
    let mut file = store.inner.root.create_new(name, 0o444)?;
    if has_attributes(&file)? {
        store.inner.root.remove_foreign_attributes_at(name)?;
    }
    file.write_all(contents)?;
    set_mode(&file, 0o444)?;
    set_time(&file)
}

/// Deduplicates an item that is a single file, whose nar has this hash and size.
pub(crate) fn link_item(
    store: &Store,
    name: &str,
    hash: &Hash,
    nar_size: u64,
) -> crate::error::Result<()> {
    // The file is smaller than its nar.
    if nar_size < DEDUPLICATION_MINIMUM {
        return Ok(());
    }
    let dir = &store.inner.root;
    let stat = dir
        .stat_at(name)
        .map_err(|error| Error::io(format!("getting attributes of path `{name}'"), error))?;
    if stat.kind() != Kind::Regular || stat.size() < DEDUPLICATION_MINIMUM {
        return Ok(());
    }
    let file = Candidate {
        dir,
        name: name.as_ref(),
        stat,
        finished: false,
    };
    store.link(&file, hash, &mut OptimiseStats::default(), &Quiet)
}
