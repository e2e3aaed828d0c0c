//! What an offload needs of a build machine, whichever way its daemon is reached.

use std::io::{Read, Write};

use formats::StorePath;
use system::lock::LockFile;

use super::build_limits::BuildLimits;
use super::error::Error;

/// The most bytes of an [`InlineArchive`].
pub const INLINE_ARCHIVE_LIMIT: usize = 12 << 10;

/// An archive so small that it is sent together with the request to build.
pub struct InlineArchive {
    /// An export stream of signed items.
    pub archive: Vec<u8>,
    /// The machine's upload lock, held until the items are there.
    pub lock: LockFile,
}

/// A build that a machine is asked for.
pub struct RemoteBuild<'a> {
    /// What is missing there, unless it has been sent ([`Transport::import`]).
    pub inline_archive: Option<InlineArchive>,
    /// What is built.
    pub derivation: &'a StorePath,
    /// Its limits.
    pub limits: &'a BuildLimits,
    /// The outputs that will be fetched ([`Transport::export`]).
    pub outputs: &'a [StorePath],
}

/// A connection to a build machine's daemon, after the handshake. Dropping it gives up what it
/// protects there, as [`Transport::finish`] does.
pub trait Transport: Send {
    /// `socket` or `commands`.
    fn kind(&self) -> &'static str;

    /// Keeps items, valid or not yet, from being collected there while this connection lasts.
    /// To be called before [`Transport::missing`].
    fn protect(&mut self, paths: &[StorePath]) -> Result<(), Error>;

    /// Those of `paths`, in their order, that aren't valid there.
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

    /// Sends an export stream of signed items. Success means that they are all valid there.
    fn import(&mut self, archive: &mut dyn Read) -> Result<(), Error>;

    /// Imports the inline archive, if there is one, and builds; `log` gets what the builder prints.
    fn build(&mut self, build: RemoteBuild<'_>, log: &mut dyn Write) -> Result<(), Error>;

    /// Writes an export stream of the items, signed there, to `sink`. References come first if
    /// `paths` has them first. An incomplete stream is an error, never a success.
    fn export(&mut self, paths: &[StorePath], sink: &mut dyn Write) -> Result<(), Error>;

    /// Gives up what is protected there, and closes.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}
