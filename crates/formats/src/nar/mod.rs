//! Normalized archives ("nar"): a file tree as a stream of bytes that is always the same for the
//! same tree.
//!
//! Documented in Guix's `nix/libutil/archive.hh`. Reading accepts only the canonical form of a
//! tree: entries strictly sorted, valid names, no field repeated or out of order, so that writing
//! the tree gives the same bytes again. It is iterative and limits depth and the length of names;
//! memory use doesn't depend on the size of files or the number of entries.

use std::io::{self, Read, Write};

use bstr::{BStr, BString, ByteSlice};

use crate::wire::{self, ReadExt};

mod extent;
mod writer;

pub use extent::Extent;
pub use writer::{Writer, of_file};

/// The first string of every nar.
pub const MAGIC: &[u8] = b"nix-archive-1";
/// The longest name of a directory entry.
const MAX_NAME: usize = 255;
/// The longest target of a symbolic link.
pub const MAX_TARGET: usize = 4095;
/// The deepest nesting of directories: deeper file names would exceed `PATH_MAX`.
pub const MAX_DEPTH: usize = 2048;

/// Why a nar could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read, ended too early, or its encoding is wrong.
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// It doesn't start with [`MAGIC`].
    #[error("bad archive: input doesn't look like a normalized archive")]
    Magic,
    /// A token that isn't allowed here.
    #[error("bad archive: expected `{expected}' but found `{found}'")]
    Unexpected {
        /// What the format allows here.
        expected: &'static str,
        /// What was found.
        found: BString,
    },
    /// A name that isn't allowed for a directory entry.
    #[error("NAR contains invalid file name `{0}'")]
    Name(BString),
    /// An entry that repeats or precedes the one before it.
    #[error("NAR directory is not sorted: `{0}' follows `{1}'")]
    Unsorted(BString, BString),
    /// The target of a symbolic link is empty or contains a NUL.
    #[error("NAR contains invalid symbolic link target `{0}'")]
    Target(BString),
    /// Deeper than [`MAX_DEPTH`].
    #[error("NAR has directories nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// The sink failed.
    #[error(transparent)]
    Sink(io::Error),
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        match error {
            Error::Wire(error) => error.into(),
            Error::Sink(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// Receives a tree, node by node, in the order of the archive.
///
/// The tree is one node; a directory is `begin_directory`, then for each of its entries `entry`
/// followed by one node, then `end_directory`.
pub trait Sink {
    /// A directory begins.
    fn begin_directory(&mut self) -> io::Result<()>;
    /// The next node is the entry `name` of the innermost directory. `name` is valid: not empty,
    /// not `.` or `..`, without slash and NUL, and greater than the name before it.
    fn entry(&mut self, name: &BStr) -> io::Result<()>;
    /// The innermost directory ends.
    fn end_directory(&mut self) -> io::Result<()>;
    /// A symbolic link.
    fn symlink(&mut self, target: &BStr) -> io::Result<()>;
    /// A regular file of `size` bytes, which `contents` yields; bytes that the sink doesn't read
    /// are skipped.
    fn regular(&mut self, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()>;
}

/// A sink that discards everything, to check an archive.
impl Sink for io::Sink {
    fn begin_directory(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn entry(&mut self, _: &BStr) -> io::Result<()> {
        Ok(())
    }
    fn end_directory(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn symlink(&mut self, _: &BStr) -> io::Result<()> {
        Ok(())
    }
    fn regular(&mut self, _: bool, _: u64, _: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }
}

/// The contents of one file: yields exactly its size, and an error, not the end of file, if the
/// archive is truncated.
struct Contents<'a, R> {
    source: &'a mut R,
    left: u64,
    failure: Option<io::Error>,
}

impl<R: Read> Read for Contents<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = self.left.min(buffer.len() as u64) as usize;
        match self.source.read(&mut buffer[..most]) {
            Ok(count) if count > 0 => {
                self.left -= count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            failed => {
                let error = failed.err().unwrap_or(io::ErrorKind::UnexpectedEof.into());
                let shown = io::Error::new(error.kind(), error.to_string());
                self.failure = Some(error);
                Err(shown)
            }
        }
    }
}

/// Room for the longest keyword, with some to spare to show an unexpected word in an error.
type Keyword = [u8; 32];

/// The state of reading.
struct Reader<'a, R, S: ?Sized> {
    source: &'a mut R,
    sink: &'a mut S,
    /// The last name read in each open directory.
    open: Vec<Option<BString>>,
    keyword: Keyword,
}

/// Reads one nar from `source`, and no byte more, and passes its contents to `sink`.
pub fn read<R: Read, S: Sink + ?Sized>(source: &mut R, sink: &mut S) -> Result<(), Error> {
    let mut keyword = [0; 32];
    match source.read_token(&mut keyword) {
        Ok(MAGIC) => {}
        Err(wire::Error::Io(error)) => return Err(wire::Error::Io(error).into()),
        Ok(_) | Err(_) => return Err(Error::Magic),
    }
    Reader {
        source,
        sink,
        open: Vec::new(),
        keyword,
    }
    .tree()
}

impl<R: Read, S: Sink + ?Sized> Reader<'_, R, S> {
    fn tree(&mut self) -> Result<(), Error> {
        loop {
            // At a node; it opens at most one directory.
            let directory = self.node()?;
            if !directory && !self.open.is_empty() {
                self.expect(")")?;
            }
            // After a node or at the beginning of a directory: the next entry, or the end.
            loop {
                match self.open.len() {
                    0 => return Ok(()),
                    _ if self.entry_or_end()? => break,
                    _ => {}
                }
            }
        }
    }

    /// Reads a node (of a directory, only its start) and returns whether it is a directory.
    fn node(&mut self) -> Result<bool, Error> {
        self.expect("(")?;
        self.expect("type")?;
        match self.keyword()? {
            b"regular" => self.regular()?,
            b"symlink" => {
                self.expect("target")?;
                let target = self.source.read_bytes(MAX_TARGET as u64)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(Error::Target(target));
                }
                self.expect(")")?;
                self.sink.symlink(target.as_bstr()).map_err(Error::Sink)?;
            }
            b"directory" => {
                if self.open.len() == MAX_DEPTH {
                    return Err(Error::TooDeep);
                }
                self.open.push(None);
                self.sink.begin_directory().map_err(Error::Sink)?;
                return Ok(true);
            }
            found => {
                let expected = "regular, symlink or directory";
                return Err(Error::Unexpected {
                    expected,
                    found: found.into(),
                });
            }
        }
        Ok(false)
    }

    fn regular(&mut self) -> Result<(), Error> {
        let executable = match self.keyword()? {
            b"contents" => false,
            b"executable" => {
                self.expect("")?;
                self.expect("contents")?;
                true
            }
            found => {
                return Err(Error::Unexpected {
                    expected: "contents",
                    found: found.into(),
                });
            }
        };
        let size = self.source.read_u64()?;
        let mut contents = Contents {
            source: &mut *self.source,
            left: size,
            failure: None,
        };
        let taken = self.sink.regular(executable, size, &mut contents);
        if let Some(failure) = contents.failure {
            return Err(wire::Error::Io(failure).into());
        }
        taken.map_err(Error::Sink)?;
        let left = contents.left;
        let skipped = io::copy(&mut self.source.take(left), &mut io::sink());
        if skipped.map_err(wire::Error::Io)? < left {
            return Err(wire::Error::Io(io::ErrorKind::UnexpectedEof.into()).into());
        }
        self.source.read_padding(size)?;
        self.expect(")")
    }

    /// Reads the start of the next entry of the innermost directory and returns `true`; or the end
    /// of the directory, and of the entry that it is in, if any, and returns `false`.
    fn entry_or_end(&mut self) -> Result<bool, Error> {
        match self.keyword()? {
            b")" => {
                self.open.pop();
                self.sink.end_directory().map_err(Error::Sink)?;
                if !self.open.is_empty() {
                    self.expect(")")?;
                }
                return Ok(false);
            }
            b"entry" => {}
            found => {
                return Err(Error::Unexpected {
                    expected: "entry",
                    found: found.into(),
                });
            }
        }
        self.expect("(")?;
        self.expect("name")?;
        let mut buffer = [0; MAX_NAME];
        let name = match self.source.read_token(&mut buffer) {
            Ok(name) => name.as_bstr(),
            Err(wire::Error::TooLong { length, .. }) => {
                return Err(Error::Name(format!("({length} bytes)").into()));
            }
            Err(error) => return Err(error.into()),
        };
        if matches!(name.as_bytes(), b"" | b"." | b"..") || name.find_byteset(b"/\0").is_some() {
            return Err(Error::Name(name.into()));
        }
        if let Some(previous) = self.open.last_mut() {
            match previous {
                Some(previous) if name <= previous.as_bstr() => {
                    return Err(Error::Unsorted(name.into(), previous.clone()));
                }
                Some(previous) => {
                    previous.clear();
                    previous.extend_from_slice(name);
                }
                None => *previous = Some(name.into()),
            }
        }
        self.sink.entry(name).map_err(Error::Sink)?;
        self.expect("node")?;
        Ok(true)
    }

    fn keyword(&mut self) -> Result<&[u8], Error> {
        match self.source.read_token(&mut self.keyword) {
            Err(wire::Error::TooLong { length, .. }) => Err(Error::Unexpected {
                expected: "a keyword",
                found: format!("({length} bytes)").into(),
            }),
            other => Ok(other?),
        }
    }

    fn expect(&mut self, expected: &'static str) -> Result<(), Error> {
        match self.keyword()? {
            found if found == expected.as_bytes() => Ok(()),
            found => Err(Error::Unexpected {
                expected,
                found: found.into(),
            }),
        }
    }
}

/// Copies one nar from `source` to `target`, byte for byte, and checks it. `target` gets small
/// writes and should be buffered.
pub fn copy<R: Read, W: Write>(source: &mut R, target: &mut W) -> Result<(), Error> {
    read(&mut Tee { source, target }, &mut io::sink())
}

/// A reader that writes what it reads to `target`.
struct Tee<'a, R, W> {
    source: &'a mut R,
    target: &'a mut W,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.target.write_all(&buffer[..count])?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
