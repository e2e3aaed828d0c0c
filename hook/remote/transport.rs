//! What an offload needs from a build machine, whatever the transport to its daemon.

use std::io::{Read, Write};

use formats::StorePath;
use store::PathInfo;
use system::lock::LockFile;

use super::build_limits::BuildLimits;
use super::error::Error;

/// The maximum size of an [`InlineArchive`], in bytes.
pub const INLINE_ARCHIVE_LIMIT: usize = 12 << 10;

/// An archive that is small enough to be sent together with the request to build.
pub struct InlineArchive {
    /// An export stream of signed items.
    pub archive: Vec<u8>,
    /// The machine's upload lock, held until the items have arrived.
    pub lock: LockFile,
}

/// A build on a machine.
pub struct RemoteBuild<'a> {
    /// The missing items, unless they were sent before ([`Transport::import`]).
    pub inline_archive: Option<InlineArchive>,
    /// What is built.
    pub derivation: &'a StorePath,
    /// Its limits.
    pub limits: &'a BuildLimits,
    /// The outputs that will be fetched ([`Transport::export`]).
    pub outputs: &'a [StorePath],
}

/// Receives messages about what happens on the machine.
pub type Report<'a> = dyn FnMut(&str) + 'a;

/// What a machine did when it was to fetch items from its substitute servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing has changed there.
    Nothing,
    /// Some items may be there now that were missing.
    Some,
    /// Items were there that were not ours, and had to be removed. Nothing is protected there any
    /// more ([`Transport::protect`]).
    Removed,
}

/// A connection to a build machine's daemon, after the handshake. Dropping it releases what it
/// protects there, as does [`Transport::finish`].
pub trait Transport: Send {
    /// `socket`, `commands` or `command`.
    fn kind(&self) -> &'static str;

    /// The public key by which the machine signs, if it was made for this connection and is to be
    /// trusted because of it.
    fn key(&self) -> Option<&str> {
        None
    }

    /// Where the build is, if the machine is one of many that a scheduler lends: `job 12 on node-3`.
    fn place(&self) -> Option<String> {
        None
    }

    /// Protects items, whether valid or not, from garbage collection there while this connection
    /// lasts. To be called before [`Transport::missing`].
    fn protect(&mut self, paths: &[StorePath]) -> Result<(), Error>;

    /// Returns those of `paths`, in order, that aren't valid there.
    fn missing(&mut self, paths: &[StorePath]) -> Result<Vec<StorePath>, Error>;

    /// Protects `kept`, and then returns those of `paths` that aren't valid there.
    fn protect_and_ask(
        &mut self,
        kept: &[StorePath],
        paths: &[StorePath],
    ) -> Result<Vec<StorePath>, Error> {
        self.protect(kept)?;
        self.missing(paths)
    }

    /// Has the daemon there fetch those of `items`, which are missing there and sorted with references
    /// first, for which its substitute servers have the same: same size and references beforehand,
    /// same hash afterwards. `items` is what this host's store has.
    ///
    /// That nothing can be fetched, for whatever reason, is no error, but reported.
    fn fetch(
        &mut self,
        items: &[PathInfo],
        limits: &BuildLimits,
        report: &mut Report<'_>,
    ) -> Result<Fetched, Error> {
        let _ = (items, limits, report);
        Ok(Fetched::Nothing)
    }

    /// Sends an export stream of signed items. Success means that they are all valid there.
    fn import(&mut self, archive: &mut dyn Read) -> Result<(), Error>;

    /// Imports the inline archive, if there is one, and builds; builder output is written to `log`.
    fn build(&mut self, build: RemoteBuild<'_>, log: &mut dyn Write) -> Result<(), Error>;

    /// Writes an export stream of the items, signed there, to `sink`. References come first if
    /// `paths` has them first. An incomplete stream is an error, never a success.
    fn export(&mut self, paths: &[StorePath], sink: &mut dyn Write) -> Result<(), Error>;

    /// Releases what is protected there, and closes the connection.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}
