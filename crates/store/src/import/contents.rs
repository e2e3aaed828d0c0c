//! Checking, while an item is read, that it has the contents that a fixed output must have.

use std::io::{self, Read};

use bstr::BStr;
use formats::derivation::FixedHash;
use formats::hash::{Hash, Hasher};
use formats::nar::{self, Sink};

/// A source that is hashed as it is read.
struct Hashed<'a> {
    source: &'a mut dyn Read,
    hasher: Hasher,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// A sink that hashes the contents of a single file.
struct FileHash<'a, S> {
    sink: &'a mut S,
    fixed: &'a FixedHash,
    /// That of the last file.
    hash: Option<Hash>,
    /// Whether there is anything but a file that is not executable.
    is_other: bool,
}

impl<S: Sink> Sink for FileHash<'_, S> {
    fn begin_directory(&mut self) -> io::Result<()> {
        self.is_other = true;
        self.sink.begin_directory()
    }

    fn entry(&mut self, name: &BStr) -> io::Result<()> {
        self.sink.entry(name)
    }

    fn end_directory(&mut self) -> io::Result<()> {
        self.sink.end_directory()
    }

    fn symlink(&mut self, target: &BStr) -> io::Result<()> {
        self.is_other = true;
        self.sink.symlink(target)
    }

    fn regular(&mut self, executable: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        self.is_other |= executable;
        let mut hashed = Hashed {
            source: contents,
            hasher: Hasher::new(self.fixed.hash.algorithm()),
        };
        self.sink.regular(executable, size, &mut hashed)?;
        self.hash = Some(hashed.hasher.finish().0);
        Ok(())
    }
}

/// Reads a nar. Returns whether it has the contents that are fixed.
pub(super) fn read_fixed(
    source: &mut dyn Read,
    sink: &mut impl Sink,
    fixed: &FixedHash,
) -> Result<bool, nar::Error> {
    if fixed.recursive {
        let hasher = Hasher::new(fixed.hash.algorithm());
        let mut hashed = Hashed { source, hasher };
        nar::read(&mut hashed, sink)?;
        return Ok(hashed.hasher.finish().0 == fixed.hash);
    }
    let mut file = FileHash {
        sink,
        fixed,
        hash: None,
        is_other: false,
    };
    nar::read(&mut &mut *source, &mut file)?;
    Ok(!file.is_other && file.hash.as_ref() == Some(&fixed.hash))
}
