//! Importing items from a signed stream (`doc/spec/store-formats.md`, section 5).
//!
//! An archive is imported in batches: while several threads verify the signatures of one batch, the
//! one before it is put in place (`place.rs`), in one transaction, and the one after it is read. No
//! item is put in place before its signature has been verified.

mod arrival;
mod contents;
mod place;
mod signatures;

use std::io::Read;

use formats::export::{Fields, read_marker, read_signature};
use formats::hash::{Algorithm, HashReader};
use formats::nar;
use formats::store_path::StorePath;

use crate::error::{Error, Result, from_io, from_nar};
use crate::progress::check;
use crate::receive::Receiver;
use crate::store::Store;

use arrival::Arrival;
pub use arrival::ImportOptions;

/// How many items of an archive are verified and registered together.
pub const BATCH: usize = 64;

/// How much of a batch is kept in memory, in bytes; also the limit for the total length of its
/// references and signatures.
const MEMORY: usize = 4 << 20;

/// Some items, and the result of reading the archive if it ends after them.
type Batch<'a> = (Vec<Arrival<'a>>, Option<Result<()>>);

impl Store {
    /// Reads an archive of items (each preceded by a word 1; a 0 ends the archive), and adds them.
    ///
    /// Everything that an item refers to has to be valid or come before it. However, the items of a
    /// batch, [`BATCH`] consecutive items of the archive, may refer to each other in any order
    /// (unless their references are megabytes long). They become valid together, unless another
    /// process has locked one of them. If an item is bad, the items before it are added
    /// nevertheless.
    ///
    /// The result lists every item of the archive in order, including those that were valid before.
    pub fn import_items(
        &self,
        reader: &mut dyn Read,
        options: &ImportOptions<'_>,
    ) -> Result<Vec<StorePath>> {
        let mut imported = Vec::new();
        let mut verified = Vec::new();
        let (mut batch, mut end) = self.read_batch(reader, options);
        loop {
            imported.extend(batch.iter().map(|item| item.fields.path.clone()));
            let previous = std::mem::take(&mut verified);
            let work = || -> Result<_> {
                self.place(previous, options)?;
                Ok(end.is_none().then(|| self.read_batch(reader, options)))
            };
            let (next, verdict) = signatures::verify_during(&batch, options.authority, work);
            let next = next?;
            batch.truncate(verdict.good);
            verified = batch;
            let end_now = verdict.error.map(Err).or(end);
            match (end_now, next) {
                (None, Some(next)) => (batch, end) = next,
                (end, _) => {
                    self.place(verified, options)?;
                    return end.unwrap_or(Ok(())).map(|()| imported);
                }
            }
        }
    }

    fn read_batch<'a>(&'a self, reader: &mut dyn Read, options: &ImportOptions<'a>) -> Batch<'a> {
        let mut batch = Vec::new();
        let (mut memory, mut texts) = (0, 0);
        while batch.len() < BATCH && texts < MEMORY {
            match self.read_item(reader, options, MEMORY - memory) {
                Ok(Some(item)) => {
                    memory += item.receiver.held();
                    texts += item.texts();
                    batch.push(item);
                }
                Ok(None) => return (batch, Some(Ok(()))),
                Err(error @ (Error::Unwanted(_) | Error::WrongContents(_))) => {
                    return (Vec::new(), Some(Err(error)));
                }
                Err(error) => return (batch, Some(Err(error))),
            }
        }
        (batch, None)
    }

    /// Reads one item: nar, path, references, deriver, signature. `None` at the end of the archive.
    /// At most `memory` bytes of the item are kept in memory.
    fn read_item<'a>(
        &'a self,
        reader: &mut dyn Read,
        options: &ImportOptions<'a>,
        memory: usize,
    ) -> Result<Option<Arrival<'a>>> {
        if !read_marker(&mut &mut *reader).map_err(bad_input)? {
            return Ok(None);
        }
        check(options.progress)?;
        let mut receiver = Receiver::new(self, options.temp_roots, options.progress);
        let mut hashing = HashReader::new(&mut *reader, Algorithm::Sha256);
        let is_right = match options.fixed {
            None => nar::read(&mut hashing, &mut receiver).map(|()| true),
            Some(fixed) => contents::read_fixed(&mut hashing, &mut receiver, fixed),
        }
        .map_err(from_nar)?;
        let (hash, nar_size) = hashing.current();
        let fields = Fields::read(&mut hashing, self.dir()).map_err(bad_input)?;
        if options
            .wanted
            .is_some_and(|wanted| !wanted.contains(&fields.path))
        {
            return Err(Error::Unwanted(fields.path));
        }
        if !is_right {
            return Err(Error::WrongContents(fields.path));
        }
        let (_, signed, _) = hashing.finish();
        let signature = read_signature(&mut &mut *reader).map_err(bad_input)?;
        receiver
            .wait(memory)
            .map_err(|error| from_io(error, || "unpacking archive".to_owned()))?;
        Ok(Some(Arrival {
            receiver,
            fields,
            hash,
            nar_size,
            signature,
            signed,
        }))
    }
}

fn bad_input(error: formats::export::Error) -> Error {
    Error::BadInput(error.to_string())
}
