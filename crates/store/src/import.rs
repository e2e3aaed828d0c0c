//! Items that arrive as a signed stream (`spec/store-formats.md`, section 5).

use std::collections::HashMap;
use std::io::Read;

use formats::export::{Fields, read_marker, read_signature};
use formats::hash::{Algorithm, HashReader};
use formats::nar;
use formats::store_path::StorePath;

use crate::add::new_path;
use crate::error::{Error, Result, from_nar};
use crate::export::Authority;
use crate::path_locks::PathLocks;
use crate::progress::{Progress, check};
use crate::receive::{Leftover, Receiver};
use crate::store::Store;
use crate::temp_roots::TempRoots;

/// What importing needs besides the stream.
pub struct ImportOptions<'a> {
    /// Where the imported items are made temporary roots.
    pub temp_roots: &'a TempRoots,
    /// Who judges signatures; `None` only for a trusted use within a program, which then takes
    /// items with any or no signature.
    pub authority: Option<&'a dyn Authority>,
    /// Paths (`NIX_HELD_LOCKS`) that the caller, or whoever started it, has locked itself.
    pub held_locks: &'a [StorePath],
    /// Hears of waiting; can interrupt.
    pub progress: &'a dyn Progress,
}

impl Store {
    /// Reads an archive of items (each announced by a word 1, the end by a 0), and adds them.
    ///
    /// The result names every item of the archive in its order, also those that were valid.
    pub fn import_items(
        &self,
        reader: &mut dyn Read,
        options: &ImportOptions<'_>,
    ) -> Result<Vec<StorePath>> {
        let mut imported = Vec::new();
        while read_marker(&mut &mut *reader).map_err(bad_input)? {
            check(options.progress)?;
            imported.push(self.import_item(reader, options)?);
        }
        Ok(imported)
    }

    /// Reads and adds one item: nar, path, references, deriver, signature.
    pub fn import_item(
        &self,
        reader: &mut dyn Read,
        options: &ImportOptions<'_>,
    ) -> Result<StorePath> {
        let mut receiver = Receiver::new(self, options.temp_roots, options.progress);
        let mut hashing = HashReader::new(&mut *reader, Algorithm::Sha256);
        nar::read(&mut hashing, &mut receiver).map_err(from_nar)?;
        let (hash, nar_size) = hashing.current();
        let fields = Fields::read(&mut hashing, self.dir()).map_err(bad_input)?;
        let (_, signed, _) = hashing.finish();
        let signature = read_signature(&mut &mut *reader).map_err(bad_input)?;
        let path = fields.path;
        if let Some(authority) = options.authority {
            let signature = signature.ok_or_else(|| Error::Unsigned(path.clone()))?;
            let verified = authority.verify(&signature).map_err(Error::Other)?;
            if !verified.eq_ignore_ascii_case(&signed.hex()) {
                return Err(Error::SignedHashMismatch);
            }
        }
        options.temp_roots.add(&path, options.progress)?;
        if self.is_valid(&path)? {
            return Ok(path);
        }
        let mut locks = PathLocks::default();
        if !options.held_locks.contains(&path) {
            locks = PathLocks::acquire(self, [&path], "", options.progress)?;
        }
        if !self.is_valid(&path)? {
            receiver.settle(&path, &hash)?;
            let mut leftover = Leftover::new(self, path.base_name().to_owned());
            let mut derivations = HashMap::new();
            if path.is_derivation() {
                derivations.insert(path.clone(), self.read_derivation(&path)?);
            }
            let mut new = new_path(&path, hash, nar_size, fields.references);
            new.deriver = match fields.deriver {
                Some(deriver) if self.is_valid(&deriver)? => Some(deriver),
                _ => None,
            };
            self.register(&[new], &derivations, options.progress)?;
            leftover.keep();
        }
        locks.set_deletion(true);
        Ok(path)
    }
}

fn bad_input(error: formats::export::Error) -> Error {
    Error::BadInput(error.to_string())
}
