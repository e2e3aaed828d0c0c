//! An item of an archive that was read and not yet put in place, and what importing it needs.

use bstr::BString;
use formats::export::Fields;
use formats::hash::Hash;
use formats::store_path::StorePath;

use crate::export::Authority;
use crate::progress::Progress;
use crate::receive::Receiver;
use crate::temp_roots::TempRoots;

/// What importing needs besides the stream.
pub struct ImportOptions<'a> {
    /// Where the imported items are made temporary roots.
    pub temp_roots: &'a TempRoots,
    /// What verifies signatures; `None` only for a trusted use within a program, which then takes
    /// items with any or no signature.
    pub authority: Option<&'a dyn Authority>,
    /// Paths (`NIX_HELD_LOCKS`) that the caller, or whoever started it, has locked itself.
    pub held_locks: &'a [StorePath],
    /// Hears of waiting; can interrupt.
    pub progress: &'a dyn Progress,
}

/// An item that was read.
pub(super) struct Arrival<'a> {
    /// Has its files.
    pub(super) receiver: Receiver<'a>,
    /// What follows the nar.
    pub(super) fields: Fields,
    /// The hash of its nar.
    pub(super) hash: Hash,
    /// The size of its nar.
    pub(super) nar_size: u64,
    /// The signature, if it has one.
    pub(super) signature: Option<BString>,
    /// What has to be signed.
    pub(super) signed: Hash,
}

impl Arrival<'_> {
    /// How long the texts are that come with it.
    pub(super) fn texts(&self) -> usize {
        let references = self.fields.references.iter();
        let signature = self
            .signature
            .as_ref()
            .map_or(0, |signature| signature.len());
        references.map(|path| path.as_str().len()).sum::<usize>() + signature
    }
}
