//! Items that arrive as a signed stream (`doc/spec/store-formats.md`, section 5).
//!
//! An archive is taken in batches: while several threads verify the signatures of one, the batch
//! before it is put in place (`place.rs`), with one transaction, and the one behind it is read.
//! Nothing is put in place before its own signature has been found good.

mod arrival;
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

/// How much of a batch is kept in memory; and how long its references and signatures may be, in
/// sum.
const MEMORY: usize = 4 << 20;

/// Some items, and how the archive ends, if it ends with them.
type Batch<'a> = (Vec<Arrival<'a>>, Option<Result<()>>);

impl Store {
    /// Reads an archive of items (each announced by a word 1, the end by a 0), and adds them.
    ///
    /// What an item refers to has to be valid or to come before it; but up to [`BATCH`] items may
    /// refer to each other in any order: the first so many of the archive, the next so many, and
    /// so on (if their references aren't megabytes). They become valid together, unless somebody
    /// has one of them locked. If one is bad, those before it are added all the same.
    ///
    /// The result names every item of the archive in its order, also those that were valid.
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
                Err(error) => return (batch, Some(Err(error))),
            }
        }
        (batch, None)
    }

    /// Reads one item: nar, path, references, deriver, signature. `None` at the archive's end.
    /// Afterwards it has at most `memory` bytes in memory.
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
        nar::read(&mut hashing, &mut receiver).map_err(from_nar)?;
        let (hash, nar_size) = hashing.current();
        let fields = Fields::read(&mut hashing, self.dir()).map_err(bad_input)?;
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
