//! Exporting items as a signed stream (`doc/spec/store-formats.md`, section 5).

use std::io::{BufWriter, Write};

use formats::export::{Fields, write_signature};
use formats::hash::{Algorithm, Hash, HashWriter};
use formats::store_path::StorePath;
use formats::wire::WriteExt;

use crate::dump::{FILE_CHUNK_SIZE, dump_tree};
use crate::error::{Context, Error, Result};
use crate::progress::{Level, Progress, Quiet, check, say};
use crate::store::Store;

/// Signs exports and verifies the signatures of imports. Errors are messages for users.
pub trait Authority: Send + Sync {
    /// Signs `hash`; returns the signature's text.
    fn sign(&self, hash: &Hash) -> std::result::Result<Vec<u8>, String>;

    /// The hash that was signed, if `signature` is valid and its key authorised.
    fn verify(&self, signature: &[u8]) -> std::result::Result<Hash, String>;
}

impl Store {
    /// Writes one item in the export format: nar, path, references, deriver and, with an
    /// `authority`, a signature (without the words before and after items). Fails after the nar if
    /// its hash isn't the registered one.
    pub fn export_item(
        &self,
        path: &StorePath,
        authority: Option<&dyn Authority>,
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<()> {
        let mut out = BufWriter::with_capacity(FILE_CHUNK_SIZE, out);
        self.export_to(path, authority, &mut out, progress)?;
        out.flush().context(|| "writing archive")
    }

    /// Writes the whole archive of `paths`, in this order.
    pub fn export_items(
        &self,
        paths: &[StorePath],
        authority: Option<&dyn Authority>,
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<()> {
        let writing = || "writing archive";
        let mut out = BufWriter::with_capacity(FILE_CHUNK_SIZE, out);
        for path in paths {
            check(progress)?;
            out.write_u64(formats::export::ITEM).context(writing)?;
            self.export_to(path, authority, &mut out, progress)?;
        }
        out.write_u64(formats::export::END).context(writing)?;
        out.flush().context(writing)
    }

    /// Writes the nar of an item, without any checks, and returns its hash and size.
    pub fn dump(&self, path: &StorePath, out: &mut dyn Write) -> Result<(Hash, u64)> {
        let out = BufWriter::with_capacity(FILE_CHUNK_SIZE, out);
        let mut out = HashWriter::new(out, Algorithm::Sha256);
        let name = path.base_name().as_ref();
        let store = self.dir().as_path();
        dump_tree(&self.inner.root, name, store, &mut out, None, &Quiet)?;
        out.flush().context(|| "writing archive")?;
        let (_, hash, size) = out.finish();
        Ok((hash, size))
    }

    fn export_to(
        &self,
        path: &StorePath,
        authority: Option<&dyn Authority>,
        out: &mut dyn Write,
        progress: &dyn Progress,
    ) -> Result<()> {
        say(progress, Level::Info, || format!("exporting path `{path}'"));
        let info = self.path_info(path)?;
        let writing = || "writing archive";
        let mut out = HashWriter::new(out, Algorithm::Sha256);
        let name = path.base_name().as_ref();
        let store = self.dir().as_path();
        dump_tree(&self.inner.root, name, store, &mut out, None, progress)?;
        let (hash, _) = out.current();
        // A hash of zeros means that nobody computed it.
        if hash != info.hash && info.hash.bytes().iter().any(|byte| *byte != 0) {
            return Err(Error::HashChanged {
                path: path.clone(),
                expected: info.hash.hex(),
                actual: hash.hex(),
            });
        }
        let (path, references, deriver) = (info.path, info.references, info.deriver);
        Fields {
            path,
            references,
            deriver,
        }
        .write(&mut out)
        .context(writing)?;
        let (out, hash, _) = out.finish();
        let signature = match authority {
            Some(authority) => Some(authority.sign(&hash).map_err(Error::Other)?),
            None => None,
        };
        write_signature(&mut &mut *out, signature.as_deref()).context(writing)
    }
}
