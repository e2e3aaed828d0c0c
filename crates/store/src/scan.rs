//! Scanning a tree in one pass: nar hash, references, and the file hashes for deduplication.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use formats::hash::{Hash, Hasher};
use formats::references::Scanner;
use formats::store_path::StorePath;
use system::tree::Visited;

use crate::dump::{dump_tree, open_parent, read_whole};
use crate::error::{Result, into_io};
use crate::file_hash::FileHasher;
use crate::progress::{Progress, check};
use crate::store::Store;

/// The hashes of the files in a tree that are large enough to be deduplicated.
#[derive(Clone, Debug, Default)]
pub struct FileHashes {
    /// File names relative to the item (empty for the item itself), and the hashes of their nars.
    pub(crate) files: Vec<(PathBuf, Hash)>,
}

/// The result of scanning a tree.
#[derive(Clone, Debug)]
pub struct Scan {
    /// SHA-256 of the nar.
    pub hash: Hash,
    /// The size of the nar in bytes.
    pub nar_size: u64,
    /// The candidates that it refers to.
    pub references: BTreeSet<StorePath>,
    /// For [`Store::deduplicate`].
    pub files: FileHashes,
}

impl Store {
    /// Reads the tree at `path` (anywhere) once; returns its hash, and which of `candidates` it
    /// mentions.
    /// A file may be a hole of any size, so that this can take as long as its maker likes, unless
    /// `progress` stops it.
    pub fn scan_and_hash<'a>(
        &self,
        path: &Path,
        candidates: impl IntoIterator<Item = &'a StorePath>,
        progress: &dyn Progress,
    ) -> Result<Scan> {
        let (parent, name, place) = open_parent(path)?;
        let mut files = self.options().deduplicate.then(Vec::new);
        let mut out = ScanWriter {
            hasher: Hasher::sha256(),
            scanner: Scanner::new(candidates.into_iter().cloned()),
        };
        dump_tree(&parent, name, place, &mut out, files.as_mut(), progress)?;
        let (hash, nar_size) = out.hasher.finish();
        Ok(Scan {
            hash,
            nar_size,
            references: out.scanner.finish(),
            files: FileHashes {
                files: files.unwrap_or_default(),
            },
        })
    }

    /// Writes the nar of the tree at `path` (anywhere).
    pub fn dump_tree(
        &self,
        path: &Path,
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<()> {
        let (parent, name, place) = open_parent(path)?;
        dump_tree(&parent, name, place, out, None, progress)
    }

    /// The SHA-256 and the size of the nar of the tree at `path` (anywhere).
    pub fn hash_path(&self, path: &Path, progress: &dyn Progress) -> Result<(Hash, u64)> {
        let (parent, name, place) = open_parent(path)?;
        let mut hasher = Hasher::sha256();
        dump_tree(&parent, name, place, &mut hasher, None, progress)?;
        Ok(hasher.finish())
    }

    /// The SHA-256 and the size of the nar of an item.
    pub(crate) fn hash_item(
        &self,
        path: &StorePath,
        progress: &dyn Progress,
    ) -> Result<(Hash, u64)> {
        let mut hasher = Hasher::sha256();
        let name = path.base_name().as_ref();
        dump_tree(
            &self.inner.root,
            name,
            self.dir().as_path(),
            &mut hasher,
            None,
            progress,
        )?;
        Ok(hasher.finish())
    }
}

/// The hash of the nar of one regular file.
pub(crate) fn hash_file(
    file: &Visited<'_>,
    buffer: &mut Vec<u8>,
    progress: &dyn Progress,
) -> io::Result<Hash> {
    let size = file.stat.size();
    let mut hasher = FileHasher::new(file.stat.mode() & 0o100 != 0, size);
    let mut source = file.parent.open_file(file.name)?;
    read_whole(&mut source, size, buffer, |data| {
        check(progress).map_err(into_io)?;
        hasher.update(data);
        Ok(())
    })?;
    Ok(hasher.finish().0)
}

struct ScanWriter {
    hasher: Hasher,
    scanner: Scanner,
}

impl Write for ScanWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.hasher.update(data);
        self.scanner.update(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
