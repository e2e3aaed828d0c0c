//! Copying a tree.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::walk::{Descend, OPEN_DIRECTORIES, Visit, Visited, same, walk};
use super::{Dir, Error, Kind, Stat};

/// How much of a file is copied between two questions whether to stop.
const PIECE: u64 = 64 << 20;

/// Copies the tree (or file) `name` in `from` to `new_name` in `to`, which must not exist:
/// regular files, directories and symbolic links with their permission bits and modification
/// times (whole seconds); the copies belong to this process's user and share nothing with the
/// originals. Holes stay holes. Files of other kinds are an error. What was copied before an error
/// stays.
///
/// The originals may belong to somebody else: of a file that grows meanwhile, only the part is
/// copied that was there at first, and when `interrupted` says so, copying ends with an error of
/// kind [`io::ErrorKind::Interrupted`].
pub fn copy_tree(
    from: &Dir,
    name: impl AsRef<OsStr>,
    to: &Dir,
    new_name: impl AsRef<OsStr>,
    interrupted: &dyn Fn() -> bool,
) -> Result<(), Error> {
    let (name, new_name) = (name.as_ref(), new_name.as_ref());
    let root = to.try_clone().map_err(|source| Error {
        action: "copy",
        path: new_name.into(),
        source,
    })?;
    walk(
        from,
        name,
        &mut Copier {
            root,
            new_name,
            copies: Vec::new(),
            interrupted,
        },
    )
}

/// The copy of a directory that we are in.
struct Copied {
    stat: Stat,
    /// Open, unless it is far out, as for the originals (see [`walk`]).
    dir: Option<Dir>,
}

struct Copier<'a> {
    root: Dir,
    new_name: &'a OsStr,
    copies: Vec<Copied>,
    interrupted: &'a dyn Fn() -> bool,
}

impl Copier<'_> {
    /// Where the next copy goes.
    fn innermost(&self) -> io::Result<&Dir> {
        match self.copies.last() {
            None => Ok(&self.root),
            Some(copied) => copied
                .dir
                .as_ref()
                .ok_or_else(|| io::Error::other("its directory is not open")),
        }
    }

    /// Goes into the copy of a directory.
    fn enter(&mut self, name: &OsStr) -> io::Result<()> {
        let to = self.innermost()?;
        to.create_dir(name, 0o700)?;
        let dir = to.open_dir(name)?;
        self.copies.push(Copied {
            stat: dir.stat()?,
            dir: Some(dir),
        });
        if let Some(far) = self.copies.len().checked_sub(OPEN_DIRECTORIES + 1) {
            self.copies[far].dir = None;
        }
        Ok(())
    }

    /// Goes back to the directory around it.
    fn go_back(&mut self) -> io::Result<()> {
        let inner = self.copies.pop().and_then(|copied| copied.dir);
        if let Some(outer) = self.copies.last_mut() {
            if outer.dir.is_none() {
                if let Some(inner) = inner {
                    let up = inner.open_parent()?;
                    same(&up, &outer.stat)?;
                    outer.dir = Some(up);
                }
            }
        }
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        match (self.interrupted)() {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }

    fn regular(&self, file: &Visited<'_>, name: &OsStr) -> io::Result<()> {
        let to = self.innermost()?;
        let source = file.parent.open_file(file.name)?;
        let copy = to.create_new(name, 0o600)?;
        let size = file.stat.size();
        if file.stat.blocks() * 512 >= size {
            self.part(&source, &copy, size)?;
        } else {
            self.sparse(&source, &copy, size)?;
        }
        drop(copy);
        to.chmod_at(name, file.stat.mode())
    }

    /// Copies the parts of a file that are no holes.
    fn sparse(&self, mut source: &File, mut copy: &File, size: u64) -> io::Result<()> {
        copy.set_len(size)?;
        let mut offset = 0;
        while let Some(data) = next(source, offset, Whence::SeekData)?.filter(|at| *at < size) {
            self.check()?;
            let hole = next(source, data, Whence::SeekHole)?.unwrap_or(size);
            offset = hole.min(size);
            source.seek(SeekFrom::Start(data))?;
            copy.seek(SeekFrom::Start(data))?;
            self.part(source, copy, offset.saturating_sub(data))?;
        }
        Ok(())
    }

    /// Copies at most `length` bytes from where the two files are.
    fn part(&self, source: &File, mut copy: &File, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            self.check()?;
            let piece = left.min(PIECE);
            if io::copy(&mut source.take(piece), &mut copy)? < piece {
                break;
            }
            left -= piece;
        }
        Ok(())
    }
}

/// The next data or hole in a file from `offset` on; `None` if there is none.
fn next(file: &File, offset: u64, what: Whence) -> io::Result<Option<u64>> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    match lseek(file, offset, what) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl Visit for Copier<'_> {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        self.check()?;
        let name = if file.depth == 0 {
            self.new_name
        } else {
            file.name
        };
        match file.stat.kind() {
            Kind::Directory => {
                self.enter(name)?;
                return Ok(Descend::Into);
            }
            Kind::Regular => self.regular(file, name)?,
            Kind::Symlink => {
                let target = file.parent.read_link(file.name)?;
                self.innermost()?.symlink(target, name)?;
            }
            Kind::Other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it has an unsupported type",
                ));
            }
        }
        let to = self.innermost()?;
        to.set_times_at(name, None, file.stat.mtime().0)?;
        Ok(Descend::Over)
    }

    fn leave(&mut self, directory: &Visited<'_>) -> io::Result<()> {
        let name = if directory.depth == 0 {
            self.new_name
        } else {
            directory.name
        };
        self.go_back()?;
        let to = self.innermost()?;
        to.set_times_at(name, None, directory.stat.mtime().0)?;
        to.chmod_at(name, directory.stat.mode())
    }

    fn action(&self) -> &'static str {
        "copy"
    }
}
