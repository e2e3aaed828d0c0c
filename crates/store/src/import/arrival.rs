//! A received item of an archive that is not yet at its store path, and the options of an import.

use bstr::BString;
use formats::derivation::FixedHash;
use formats::export::Fields;
use formats::hash::Hash;
use formats::store_path::StorePath;

use crate::export::Authority;
use crate::progress::Progress;
use crate::receive::Receiver;
use crate::temp_roots::TempRoots;

/// The options of an import.
pub struct ImportOptions<'a> {
    /// The temporary roots to which the imported items are added.
    pub temp_roots: &'a TempRoots,
    /// Verifies signatures; `None` only for trusted uses within a program, where items with any
    /// signature or none are accepted.
    pub authority: Option<&'a dyn Authority>,
    /// Paths (`NIX_HELD_LOCKS`) that the caller, or the process that started it, has locked.
    pub held_locks: &'a [StorePath],
    /// The items that were asked for: any other is [`Error::Unwanted`](crate::Error::Unwanted). `None`: all are wanted.
    pub wanted: Option<&'a [StorePath]>,
    /// The hash of the contents of each item, if that is known: it is the output of a fixed-output
    /// derivation. Any other is [`Error::WrongContents`](crate::Error::WrongContents).
    pub fixed: Option<&'a FixedHash>,
    /// Reports waiting; can interrupt.
    pub progress: &'a dyn Progress,
}

/// A received item.
pub(super) struct Arrival<'a> {
    /// Holds its files.
    pub(super) receiver: Receiver<'a>,
    /// The fields that follow the nar.
    pub(super) fields: Fields,
    /// The hash of its nar.
    pub(super) hash: Hash,
    /// The size of its nar.
    pub(super) nar_size: u64,
    /// The signature, if it has one.
    pub(super) signature: Option<BString>,
    /// The hash that has to be signed.
    pub(super) signed: Hash,
}

impl Arrival<'_> {
    /// The length of its references and signature, in bytes.
    pub(super) fn texts(&self) -> usize {
        let references = self.fields.references.iter();
        let signature = self
            .signature
            .as_ref()
            .map_or(0, |signature| signature.len());
        references.map(|path| path.as_str().len()).sum::<usize>() + signature
    }
}
