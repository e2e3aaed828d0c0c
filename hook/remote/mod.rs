//! A build machine, as the hook uses it: asking how it is ([`probe`]), connecting to its daemon
//! ([`connect`]), and then everything that an offload needs ([`Transport`]).
//!
//! OpenSSH is the engine. One connection per machine is shared by all hooks and outlives them
//! (`master.rs`); sshd forwards the daemon's socket over it (`socket.rs`), or, where it may not,
//! runs Guix's commands (`commands.rs`). The other ideas: `error.rs` whose fault a failure is,
//! `link.rs` file names and the options of `ssh`, `session.rs` a remote command, `probe.rs` the vitals,
//! `check.rs` everything that must hold for a machine to work.

mod auto;
mod check;
mod commands;
mod error;
mod flow;
mod link;
mod log;
mod master;
mod probe;
mod roots;
mod session;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use formats::{StoreDir, StorePath};
use system::lock::LockFile;

use crate::machines::Machine;
use link::Link;

pub use check::{Check, test};
pub use error::{Error, Obstacle};

/// Where the hook keeps its own state, and for which store.
#[derive(Debug, Clone)]
pub struct Home {
    /// `<state>/offload`; `ssh/` in it has the control sockets. Made with mode 0700 if missing.
    pub directory: PathBuf,
    /// The store, here and on the build machines.
    pub store: StoreDir,
    /// The home directory of our user according to the password file.
    pub user_home: PathBuf,
}

/// Limits of a build.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    /// Seconds of silence; 0 for none.
    pub max_silent_time: u64,
    /// Seconds in all; 0 for none.
    pub timeout: u64,
    /// The daemon that asks wants `@` lines.
    pub print_build_trace: bool,
}

/// What a machine says about itself.
#[derive(Debug, Clone)]
pub struct Vitals {
    /// Load of the last minute, as the kernel has it.
    pub load: f64,
    /// Processors.
    pub cores: u32,
    /// Free space on the file system of the store.
    pub free_bytes: u64,
    /// From a question to its answer, over the connection that is there.
    pub round_trip: Duration,
    /// Seconds that its clock is ahead of ours.
    pub clock_offset: f64,
    /// Kernel and its release.
    pub kernel: String,
    /// Architecture.
    pub architecture: String,
    /// What it calls itself.
    pub host_name: String,
}

/// The most bytes of a [`Parcel`].
pub const PARCEL: usize = 12 << 10;

/// An archive of so few bytes that a build can be ordered with it, and the right to send it.
pub struct Parcel {
    /// An export stream of signed items.
    pub archive: Vec<u8>,
    /// Given up when the items are there.
    pub lock: LockFile,
}

/// A build that is ordered.
pub struct Order<'a> {
    /// What is missing there, unless it has been sent ([`Transport::import`]).
    pub parcel: Option<Parcel>,
    /// What is built.
    pub derivation: &'a StorePath,
    /// Its limits.
    pub limits: &'a Limits,
    /// What will be wanted of the outputs ([`Transport::export`]).
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

    /// Keeps `kept`, and then tells those of `paths` that aren't valid there.
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

    /// Takes in the parcel, if there is one, and builds; `log` gets what the builder prints.
    fn build(&mut self, order: Order<'_>, log: &mut dyn Write) -> Result<(), Error>;

    /// Writes an export stream of the items, signed there, to `sink`, those that others refer to
    /// first if `paths` has them first. An incomplete stream is an error, never a success.
    fn export(&mut self, paths: &[StorePath], sink: &mut dyn Write) -> Result<(), Error>;

    /// Gives up what is protected there, and closes.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// How the machine is. Uses and, if need be, makes the shared connection.
pub fn probe(machine: &Machine, home: &Home, deadline: Instant) -> Result<Vitals, Error> {
    let link = Link::new(machine, home)?;
    match probe::probe(&link, deadline) {
        // The connection that stood may have ended just now; another one may do.
        Err(Error::Lost { .. }) if Instant::now() < deadline => probe::probe(&link, deadline),
        result => result,
    }
}

/// A connection to its daemon, after the handshake, by the way that the machine's entry asks for.
/// Refuses a machine whose store is this very store.
pub fn connect(
    machine: &Machine,
    home: &Home,
    deadline: Instant,
) -> Result<Box<dyn Transport>, Error> {
    auto::connect(&Link::new(machine, home)?, deadline)
}

/// Ends the shared connections to a machine, for instance before it is shut down.
pub fn disconnect(machine: &Machine, home: &Home) -> Result<(), Error> {
    let link = Link::new(machine, home)?;
    master::end_all(&link).map_err(|source| Error::Local {
        doing: format!("ending the connections to '{}'", link.name()),
        source,
    })
}
