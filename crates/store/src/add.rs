//! Adding what a client sends.
//!
//! The order is Guix's: the path is made a temporary root before its validity is checked, it is
//! locked while it is written, it is registered when it is complete, and its lock file is deleted
//! once it is valid.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};

use bstr::BStr;
use formats::derivation::Derivation;
use formats::hash::{Algorithm, Hash, HashReader, Hasher};
use formats::nar::{self, Sink};
use formats::store_path::StorePath;

use crate::error::{Error, Result, from_nar, into_io};
use crate::file_hash::FileHasher;
use crate::path_locks::PathLocks;
use crate::progress::Progress;
use crate::receive::{Leftover, Receiver, remove_leftover};
use crate::registration::NewPath;
use crate::restore::{link_item, write_text};
use crate::store::Store;
use crate::temp_roots::TempRoots;

/// Options for adding.
pub struct AddOptions<'a> {
    /// The temporary roots to which the new item is added.
    pub temp_roots: &'a TempRoots,
    /// Whether to replace an item that is already valid.
    pub repair: bool,
    /// Reports waiting; can interrupt.
    pub progress: &'a dyn Progress,
}

impl Store {
    /// Adds a text file (`AddTextToStore`). Its path is computed from its contents, `name` and
    /// `references`, which have to be valid. Derivations are checked.
    pub fn add_text(
        &self,
        name: &str,
        contents: &[u8],
        references: &BTreeSet<StorePath>,
        options: &AddOptions<'_>,
    ) -> Result<StorePath> {
        let path = self
            .dir()
            .text_path(name, &Hash::sha256(contents), references)
            .map_err(|error| Error::BadInput(error.to_string()))?;
        self.add_at(&path, options, || {
            let mut derivations = HashMap::new();
            if path.is_derivation() {
                let derivation = Derivation::parse(contents, self.dir()).map_err(|error| {
                    Error::BadInput(format!("error parsing derivation `{path}': {error}"))
                })?;
                derivations.insert(path.clone(), derivation);
            }
            let (hash, nar_size) = FileHasher::of(false, contents);
            let leftover = self.write_item(&path, contents, options)?;
            if self.options().deduplicate {
                link_item(self, path.base_name(), &hash, nar_size)?;
            }
            let references = references.clone();
            let new = new_path(&path, hash, nar_size, references);
            self.register(&[new], &derivations, options.progress)?;
            if let Some(mut leftover) = leftover {
                leftover.keep();
            }
            Ok(())
        })?;
        Ok(path)
    }

    /// Adds a tree of files (`AddToStore`), received as a nar. Its path is computed from `name` and
    /// the `algorithm` hash of the nar or, unless `recursive`, of the contents of the single
    /// regular file that it then has to contain.
    ///
    /// Exactly the nar is read from `reader`, which should be buffered. It is streamed: memory use
    /// does not depend on its size.
    pub fn add_nar(
        &self,
        name: &str,
        recursive: bool,
        algorithm: Algorithm,
        reader: &mut dyn Read,
        options: &AddOptions<'_>,
    ) -> Result<StorePath> {
        let checked = self.dir().check_name(name);
        checked.map_err(|error| Error::BadInput(error.to_string()))?;
        let receiver = Receiver::new(self, options.temp_roots, options.progress);
        let (receiver, named_by, hash, nar_size) = if recursive {
            receive_tree(receiver, algorithm, reader)?
        } else {
            receive_file(receiver, algorithm, reader)?
        };
        let path = self
            .dir()
            .fixed_output_path(name, recursive, &named_by)
            .map_err(|error| Error::BadInput(error.to_string()))?;
        self.add_at(&path, options, || {
            let valid = self.is_valid(&path)?;
            receiver.settle(&path, &hash, nar_size)?;
            let mut leftover = Leftover::new(self, path.base_name().to_owned());
            // A valid item must not be deleted, whatever happens.
            if valid {
                leftover.keep();
            }
            let mut derivations = HashMap::new();
            if path.is_derivation() {
                derivations.insert(path.clone(), self.read_derivation(&path)?);
            }
            let new = new_path(&path, hash, nar_size, BTreeSet::new());
            self.register(&[new], &derivations, options.progress)?;
            leftover.keep();
            Ok(())
        })?;
        Ok(path)
    }

    /// Runs `add` with the path locked, unless the path is valid and not to be repaired.
    fn add_at(
        &self,
        path: &StorePath,
        options: &AddOptions<'_>,
        add: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        options.temp_roots.add(path, options.progress)?;
        if !options.repair && self.is_valid(path)? {
            return Ok(());
        }
        let mut locks = PathLocks::acquire(self, [path], "", options.progress)?;
        if options.repair || !self.is_valid(path)? {
            add()?;
        }
        locks.set_deletion(true);
        Ok(())
    }

    /// Writes a text item to its path, replacing what is there. Returns what to delete if
    /// registration fails, or `None` if the path was valid before.
    fn write_item(
        &self,
        path: &StorePath,
        contents: &[u8],
        options: &AddOptions<'_>,
    ) -> Result<Option<Leftover>> {
        let failed = |error| Error::io(format!("writing file `{path}'"), error);
        let name = path.base_name();
        let root = &self.inner.root;
        match write_text(self, name, contents) {
            Ok(()) => return Ok(Some(Leftover::new(self, name.to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                remove_leftover(self, name)?;
                return Err(failed(error));
            }
        }
        // Left by a process that died, or to be repaired.
        let temporary = self.unique_name("nix");
        let temporary_path = self
            .dir()
            .join(&temporary)
            .map_err(|error| Error::Other(error.to_string()))?;
        options.temp_roots.add(&temporary_path, options.progress)?;
        let mut leftover = Leftover::new(self, temporary.clone());
        write_text(self, &temporary, contents).map_err(failed)?;
        let is_file = root.stat_at(name).is_ok_and(|stat| !stat.is_dir());
        if !is_file {
            remove_leftover(self, name)?;
        }
        root.rename(&temporary, root, name).map_err(failed)?;
        leftover.keep();
        let valid = self.is_valid(path)?;
        Ok((!valid).then(|| Leftover::new(self, name.to_owned())))
    }
}

/// A path to register, without a deriver.
pub(crate) fn new_path(
    path: &StorePath,
    hash: Hash,
    nar_size: u64,
    references: BTreeSet<StorePath>,
) -> NewPath {
    let (path, deriver, registration_time) = (path.clone(), None, None);
    NewPath {
        path,
        hash,
        nar_size,
        references,
        deriver,
        registration_time,
    }
}

/// A received nar: the hash that names it, its SHA-256, and its size.
type Received<'a> = (Receiver<'a>, Hash, Hash, u64);

/// Receives a nar that names the item by its own hash.
fn receive_tree<'a>(
    mut receiver: Receiver<'a>,
    algorithm: Algorithm,
    reader: &mut dyn Read,
) -> Result<Received<'a>> {
    let mut reader = HashReader::new(reader, Algorithm::Sha256);
    if algorithm == Algorithm::Sha256 {
        nar::read(&mut reader, &mut receiver).map_err(from_nar)?;
        let (_, hash, size) = reader.finish();
        return Ok((receiver, hash, hash, size));
    }
    let mut outer = HashReader::new(&mut reader, algorithm);
    nar::read(&mut outer, &mut receiver).map_err(from_nar)?;
    let (_, named_by, _) = outer.finish();
    let (_, hash, size) = reader.finish();
    Ok((receiver, named_by, hash, size))
}

/// Receives the nar of a regular file that names the item by the hash of its contents. It won't be
/// executable, even if it is in the nar.
fn receive_file<'a>(
    receiver: Receiver<'a>,
    algorithm: Algorithm,
    reader: &mut dyn Read,
) -> Result<Received<'a>> {
    let mut sink = FlatSink {
        receiver,
        algorithm,
        hashes: None,
    };
    nar::read(&mut &mut *reader, &mut sink).map_err(from_nar)?;
    match sink.hashes {
        Some((named_by, hash, size)) => Ok((sink.receiver, named_by, hash, size)),
        None => Err(not_regular()),
    }
}

fn not_regular() -> Error {
    Error::BadInput("regular file expected".to_owned())
}

/// Accepts only a single regular file, and hashes its contents.
struct FlatSink<'a> {
    receiver: Receiver<'a>,
    algorithm: Algorithm,
    hashes: Option<(Hash, Hash, u64)>,
}

impl Sink for FlatSink<'_> {
    fn begin_directory(&mut self) -> io::Result<()> {
        Err(into_io(not_regular()))
    }

    fn entry(&mut self, _name: &BStr) -> io::Result<()> {
        Err(into_io(not_regular()))
    }

    fn end_directory(&mut self) -> io::Result<()> {
        Err(into_io(not_regular()))
    }

    fn symlink(&mut self, _target: &BStr) -> io::Result<()> {
        Err(into_io(not_regular()))
    }

    fn regular(&mut self, _: bool, size: u64, contents: &mut dyn Read) -> io::Result<()> {
        let mut tee = FlatReader {
            contents,
            flat: Hasher::new(self.algorithm),
            nar: FileHasher::new(false, size),
        };
        self.receiver.regular(false, size, &mut tee)?;
        let (hash, nar_size) = tee.nar.finish();
        self.hashes = Some((tee.flat.finish().0, hash, nar_size));
        Ok(())
    }
}

/// Hashes a file's contents both as they are and as a nar.
struct FlatReader<'a> {
    contents: &'a mut dyn Read,
    flat: Hasher,
    nar: FileHasher,
}

impl Read for FlatReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.contents.read(buffer)?;
        self.flat.update(&buffer[..count]);
        self.nar.update(&buffer[..count]);
        Ok(count)
    }
}
