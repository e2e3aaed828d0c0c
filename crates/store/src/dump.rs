//! Writing trees of files as nars.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bstr::ByteSlice;
use formats::hash::Hash;
use formats::nar::{self, Sink};
use system::tree::{Descend, Dir, Kind, Visit, Visited, walk};

use crate::error::{Context, Error, Result, from_tree, into_io};
use crate::file_hash::{DEDUPLICATION_MINIMUM, FileHasher};
use crate::progress::{Progress, check};

/// How much of a file is read at a time, in bytes.
pub(crate) const FILE_CHUNK_SIZE: usize = 256 * 1024;

/// Writes the nar of `name` in `parent` (called `place` in messages) to `out`. The hashes of
/// files that may be deduplicated are added to `files`. It stops within a piece of a file when
/// `progress` says so.
pub(crate) fn dump_tree(
    parent: &Dir,
    name: &std::ffi::OsStr,
    place: &Path,
    out: &mut dyn Write,
    files: Option<&mut Vec<(PathBuf, Hash)>>,
    progress: &dyn Progress,
) -> Result<()> {
    let mut dumper = Dumper {
        writer: nar::Writer::new(out),
        files,
        progress,
        buffer: Vec::new(),
    };
    walk(parent, name, &mut dumper).map_err(|error| from_tree(error, place))
}

/// Opens the parent directory of `path`; links in its name are followed, but `path` itself isn't.
pub(crate) fn open_parent(path: &Path) -> Result<(Dir, &std::ffi::OsStr, &Path)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Other(format!(
            "`{}' is no name of a file",
            path.display()
        )));
    };
    // It may itself be a link, which `Dir::open` doesn't follow.
    let opened = Dir::open(parent).or_else(|error| match parent.is_absolute() {
        true => std::fs::canonicalize(parent).and_then(Dir::open),
        false => Err(error),
    });
    let dir = opened.context(|| format!("opening directory `{}'", parent.display()))?;
    Ok((dir, name, parent))
}

struct Dumper<'a> {
    writer: nar::Writer<&'a mut dyn Write>,
    files: Option<&'a mut Vec<(PathBuf, Hash)>>,
    progress: &'a dyn Progress,
    buffer: Vec<u8>,
}

impl Dumper<'_> {
    fn regular(&mut self, file: &Visited<'_>) -> io::Result<()> {
        let mut source = file.parent.open_file(file.name)?;
        let (size, executable) = (file.stat.size(), file.stat.mode() & 0o100 != 0);
        let mut hasher = (self.files.is_some() && size >= DEDUPLICATION_MINIMUM)
            .then(|| FileHasher::new(executable, size));
        let (writer, progress) = (&mut self.writer, self.progress);
        writer.begin_regular(executable, size)?;
        read_whole(&mut source, size, &mut self.buffer, |data| {
            check(progress).map_err(into_io)?;
            if let Some(hasher) = &mut hasher {
                hasher.update(data);
            }
            writer.write_contents(data)
        })?;
        writer.end_regular(size)?;
        if let (Some(files), Some(hasher)) = (&mut self.files, hasher) {
            // Relative to the item, whose own name is the first component.
            let path = file.path().components().skip(1).collect();
            files.push((path, hasher.finish().0));
        }
        Ok(())
    }
}

impl Visit for Dumper<'_> {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        check(self.progress).map_err(into_io)?;
        if file.depth > 0 {
            self.writer.entry(file.name.as_bytes().as_bstr())?;
        }
        match file.stat.kind() {
            Kind::Directory => {
                self.writer.begin_directory()?;
                return Ok(Descend::Into);
            }
            Kind::Symlink => {
                let target = file.parent.read_link(file.name)?;
                self.writer.symlink(target.as_bytes().as_bstr())?;
            }
            Kind::Regular => self.regular(file)?,
            Kind::Other => {
                let path = file.path().display().to_string();
                return Err(into_io(Error::UnsupportedType(path)));
            }
        }
        Ok(Descend::Over)
    }

    fn leave(&mut self, _directory: &Visited<'_>) -> io::Result<()> {
        self.writer.end_directory()
    }

    fn action(&self) -> &'static str {
        "read"
    }
}

/// Reads exactly `size` bytes in pieces; `buffer` is reused for the next file.
pub(crate) fn read_whole(
    source: &mut dyn Read,
    size: u64,
    buffer: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let wanted = size.min(FILE_CHUNK_SIZE as u64) as usize;
    if buffer.len() < wanted {
        buffer.resize(wanted, 0);
    }
    let mut left = size;
    while left > 0 {
        let piece = left.min(buffer.len() as u64) as usize;
        let count = match source.read(&mut buffer[..piece]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        take(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(())
}
