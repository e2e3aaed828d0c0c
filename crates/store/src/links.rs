//! Deduplication: hard links to files in `.links` (`doc/spec/store-formats.md`, section 10).
//!
//! A file in `.links` is named by the hash of its nar, which covers the contents and the executable
//! bit. A file of an item is either linked there, or atomically replaced by a link to the existing
//! one.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::path::Path;

use formats::hash::Hash;
use formats::store_path::StorePath;
use nix::libc;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use system::errno;
use system::tree::{Descend, Dir, Kind, Stat, Visit, Visited, walk};

use crate::error::{Context, Error, Result, from_tree, into_io};
use crate::file_hash::DEDUPLICATION_MINIMUM;
use crate::progress::{Level, Progress, check, say};
use crate::scan::{FileHashes, hash_file};
use crate::store::Store;
use crate::temp_roots::TempRoots;

/// What deduplication saved.
#[derive(Clone, Copy, Debug, Default)]
pub struct OptimiseStats {
    /// Files replaced by links.
    pub files_linked: u64,
    /// The bytes of those files.
    pub bytes_freed: u64,
    /// The disk blocks (of 512 bytes) of those files.
    pub blocks_freed: u64,
}

/// A file that may be replaced by a link.
pub(crate) struct Candidate<'a> {
    /// The directory that contains it.
    pub(crate) dir: &'a Dir,
    /// Its name in that directory.
    pub(crate) name: &'a OsStr,
    /// Its metadata.
    pub(crate) stat: Stat,
    /// Whether the directory is a finished part of an item, so that it has to be made writable, and
    /// then canonical again.
    pub(crate) finished: bool,
}

impl Store {
    /// Replaces the files of an item by links to identical files elsewhere in the store, if the
    /// store is opened with deduplication. If `hashes` are known, the files aren't read again.
    pub fn deduplicate(
        &self,
        path: &StorePath,
        hashes: Option<&FileHashes>,
        progress: &dyn Progress,
    ) -> Result<OptimiseStats> {
        let mut stats = OptimiseStats::default();
        if !self.options().deduplicate {
            return Ok(stats);
        }
        match hashes {
            None => self.link_tree(path, &mut HashSet::new(), &mut stats, progress)?,
            Some(hashes) => {
                let mut current: Option<(&Path, Dir)> = None;
                for (file, hash) in &hashes.files {
                    self.link_known(path, file, hash, &mut current, &mut stats, progress)?;
                }
            }
        }
        Ok(stats)
    }

    /// Deduplicates the whole store, regardless of the option.
    pub fn optimise(
        &self,
        temp_roots: &TempRoots,
        progress: &dyn Progress,
    ) -> Result<OptimiseStats> {
        let mut stats = OptimiseStats::default();
        let mut linked = HashSet::new();
        let reading = || format!("reading directory `{}/.links'", self.dir());
        for entry in self.links_dir()?.entries().context(reading)? {
            linked.insert(entry.context(reading)?.inode);
        }
        for path in self.query_all_valid_paths()? {
            check(progress)?;
            temp_roots.add(&path, progress)?;
            // It may have been collected before it became a root.
            if self.is_valid(&path)? {
                say(progress, Level::Chatty, || {
                    format!("hashing files in `{path}'")
                });
                self.link_tree(&path, &mut linked, &mut stats, progress)?;
            }
        }
        Ok(stats)
    }

    /// Deduplicates one item, except files whose inodes are in `linked`.
    fn link_tree(
        &self,
        path: &StorePath,
        linked: &mut HashSet<u64>,
        stats: &mut OptimiseStats,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut linker = Linker {
            store: self,
            linked,
            stats,
            progress,
            buffer: Vec::new(),
        };
        walk(&self.inner.root, path.base_name(), &mut linker)
            .map_err(|error| from_tree(error, self.dir().as_path()))
    }

    /// Deduplicates the file `file` (relative to the item; empty for the item itself), whose hash
    /// is known. `current` is the directory that was open for the previous file.
    fn link_known<'a>(
        &self,
        item: &StorePath,
        file: &'a Path,
        hash: &Hash,
        current: &mut Option<(&'a Path, Dir)>,
        stats: &mut OptimiseStats,
        progress: &dyn Progress,
    ) -> Result<()> {
        check(progress)?;
        let opening = || {
            format!(
                "opening directory of `{}'",
                item.as_path().join(file).display()
            )
        };
        let (Some(name), Some(parent)) = (file.file_name(), file.parent()) else {
            let name = OsStr::new(item.base_name());
            let stat = self.inner.root.stat_at(name).context(opening)?;
            let dir = &self.inner.root;
            return self.link(
                &Candidate {
                    dir,
                    name,
                    stat,
                    finished: false,
                },
                hash,
                stats,
                progress,
            );
        };
        if !matches!(current, Some((path, _)) if *path == parent) {
            let mut dir = self
                .inner
                .root
                .open_dir(item.base_name())
                .context(opening)?;
            for name in parent.iter() {
                dir = dir.open_dir(name).context(opening)?;
            }
            *current = Some((parent, dir));
        }
        let Some((_, dir)) = current else {
            return Ok(());
        };
        let stat = dir.stat_at(name).context(opening)?;
        self.link(
            &Candidate {
                dir,
                name,
                stat,
                finished: true,
            },
            hash,
            stats,
            progress,
        )
    }

    /// Makes the file a link to the one in `.links` with this `hash`.
    pub(crate) fn link(
        &self,
        file: &Candidate<'_>,
        hash: &Hash,
        stats: &mut OptimiseStats,
        progress: &dyn Progress,
    ) -> Result<()> {
        let links = self.links_dir()?;
        let link = hash.base32();
        loop {
            let found = links
                .try_stat_at(&link)
                .context(|| self.about_link(&link))?;
            let Some(found) = found else {
                match file.dir.hard_link(file.name, links, &link) {
                    Ok(()) => return Ok(()),
                    // Another process has just created it.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    // Usually a directory whose index is full, or a file with too many links.
                    Err(error) if given_up(&error) => {
                        say(progress, Level::Info, || {
                            let name = Path::new(&file.name).display();
                            let link = self.link_name(&link);
                            format!(
                                "cannot link `{link}' to `{name}': {}",
                                errno::message(&error)
                            )
                        });
                        return Ok(());
                    }
                    Err(error) => return Err(Error::io(self.about_link(&link), error)),
                }
            };
            if found.identity() == file.stat.identity() {
                return Ok(());
            }
            if found.size() != file.stat.size() {
                let link = self.link_name(&link);
                progress.message(Level::Error, &format!("removing corrupted link '{link}'"));
                remove_if_there(links, hash).context(|| self.about_link(&link))?;
                continue;
            }
            match self.replace(file, &link) {
                Ok(()) => {
                    stats.files_linked += 1;
                    stats.bytes_freed = stats.bytes_freed.saturating_add(file.stat.size());
                    stats.blocks_freed = stats.blocks_freed.saturating_add(file.stat.blocks());
                    return Ok(());
                }
                // The collector has just removed the link.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if file
                        .dir
                        .try_stat_at(file.name)
                        .context(|| self.about_link(&link))?
                        .is_none()
                    {
                        return Err(Error::io(self.about_link(&link), error));
                    }
                }
                Err(error) if given_up(&error) => {
                    say(progress, Level::Info, || {
                        format!("`{}' has maximum number of links", self.link_name(&link))
                    });
                    return Ok(());
                }
                Err(error) => return Err(Error::io(self.about_link(&link), error)),
            }
        }
    }

    /// Replaces the file by a link to `link`, atomically.
    fn replace(&self, file: &Candidate<'_>, link: &str) -> io::Result<()> {
        let links = self.links_dir().map_err(into_io)?;
        let root = &self.inner.root;
        let temporary = self.unique_name(".tmp-link");
        links.hard_link(link, root, &temporary)?;
        let renamed = if file.finished {
            writable(file.dir, || root.rename(&temporary, file.dir, file.name))
        } else {
            root.rename(&temporary, file.dir, file.name)
        };
        if renamed.is_err() {
            let _ = root.remove_file(&temporary);
        }
        renamed
    }

    /// Makes `name` in `dir` a link to the file in `.links` with this hash and size, if it exists.
    pub(crate) fn link_existing(
        &self,
        hash: &Hash,
        size: u64,
        dir: &Dir,
        name: &OsStr,
    ) -> io::Result<bool> {
        let Ok(links) = self.links_dir() else {
            return Ok(false);
        };
        let link = hash.base32();
        match links.try_stat_at(&link)? {
            Some(stat) if stat.kind() == Kind::Regular && stat.size() == size => {}
            _ => return Ok(false),
        }
        match links.hard_link(&link, dir, name) {
            Ok(()) => Ok(true),
            Err(error) if given_up(&error) || error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn link_name(&self, link: &str) -> String {
        format!("{}/.links/{link}", self.dir())
    }

    fn about_link(&self, link: &str) -> String {
        format!("cannot link `{}'", self.link_name(link))
    }
}

/// Deduplicates files during a walk through a tree.
struct Linker<'a> {
    store: &'a Store,
    linked: &'a mut HashSet<u64>,
    stats: &'a mut OptimiseStats,
    progress: &'a dyn Progress,
    buffer: Vec<u8>,
}

impl Visit for Linker<'_> {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        check(self.progress).map_err(into_io)?;
        let stat = file.stat;
        if stat.kind() != Kind::Regular
            || stat.size() < DEDUPLICATION_MINIMUM
            || self.linked.contains(&stat.identity().1)
        {
            return Ok(Descend::Into);
        }
        if stat.mode() & 0o200 != 0 {
            let path = self.store.dir().as_path().join(file.path());
            self.progress.message(
                Level::Error,
                &format!("skipping suspicious writable file `{}'", path.display()),
            );
            return Ok(Descend::Over);
        }
        let hash = hash_file(file, &mut self.buffer, self.progress)?;
        let candidate = Candidate {
            dir: file.parent,
            name: file.name,
            stat,
            finished: file.depth > 0,
        };
        self.store
            .link(&candidate, &hash, self.stats, self.progress)
            .map_err(into_io)?;
        if let Ok(stat) = file.parent.stat_at(file.name) {
            self.linked.insert(stat.identity().1);
        }
        Ok(Descend::Over)
    }

    fn action(&self) -> &'static str {
        "deduplicate"
    }
}

/// Runs `change` with the directory writable, and then makes it canonical again.
fn writable(dir: &Dir, change: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let mode = dir.stat()?.mode();
    if mode & 0o200 == 0 {
        dir.chmod(mode | 0o200)?;
    }
    let result = change();
    if mode & 0o200 == 0 {
        dir.chmod(mode)?;
    }
    set_own_time(dir)?;
    result
}

/// Gives a directory the modification time of store items.
pub(crate) fn set_own_time(dir: &Dir) -> io::Result<()> {
    let times = (TimeSpec::UTIME_OMIT, TimeSpec::new(1, 0));
    Ok(utimensat(
        dir,
        ".",
        &times.0,
        &times.1,
        UtimensatFlags::NoFollowSymlink,
    )?)
}

/// Whether linking should be given up without an error: because the directory has no room, or
/// because the file has the maximum number of links.
fn given_up(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EMLINK))
}

fn remove_if_there(links: &Dir, hash: &Hash) -> io::Result<()> {
    match links.remove_file(hash.base32()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
