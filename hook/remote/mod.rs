//! A build machine, as the hook uses it: probing it ([`probe`]), connecting to its daemon
//! ([`connect`]), and everything that an offload needs ([`Transport`]).
//!
//! It is based on OpenSSH. One connection per machine is shared by all hooks and outlives them
//! (`master.rs`); sshd forwards the daemon's socket over it (`socket_transport.rs`), or, if that is
//! forbidden, runs Guix's commands (`commands_transport.rs`).
//!
//! From the ground up:
//!
//! | file | |
//! |---|---|
//! | `error.rs` | what can go wrong, and whether the machine is to blame |
//! | `build_limits.rs`, `transport.rs` | the interface of both transports, and its data |
//! | `shell.rs` | quoting |
//! | `timed_stream.rs` | a socket with timeouts |
//! | `destination.rs` | file names and `ssh` options of one machine |
//! | `master.rs` | the shared connection |
//! | `session_slots.rs` | how many sessions a connection may have |
//! | `remote_command.rs` | a command that runs there |
//! | `probe.rs` | load, space and clock |
//! | `archive_stream.rs`, `guix_commands.rs` | archives through `guix archive` |
//! | `root_links.rs` | GC roots without a connection to the daemon |
//! | `daemon_log.rs`, `command_log.rs`, `build_output.rs` | builder output, told apart from the daemon's own messages |
//! | `route.rs` | by SSH, or through the keeper of a pool |
//! | `daemon_connection.rs` | a connection to the daemon's socket |
//! | `pool_connection.rs` | a connection to the daemon of a pool's worker |
//! | `fetching.rs`, `fetch_progress.rs` | items that the machine gets from substitute servers |
//! | `commands_transport.rs`, `socket_transport.rs` | the two transports |
//! | `connect.rs` | which of them a machine gets |
//! | `check.rs`, `check_archive.rs` | everything that must hold for a machine to work |
//! | `check_pool.rs` | the same for a pool |
//! | `signing_keys.rs` | authorising each other's keys |

mod archive_stream;
mod build_limits;
mod build_output;
mod check;
mod check_archive;
mod check_pool;
mod command_log;
mod commands_transport;
mod connect;
mod daemon_connection;
mod daemon_log;
mod destination;
mod error;
mod fetch_progress;
mod fetching;
mod guix_commands;
mod master;
mod pool_connection;
mod probe;
mod remote_command;
mod root_links;
mod route;
mod session_slots;
mod shell;
mod signing_keys;
mod socket_transport;
#[cfg(test)]
mod tests;
mod timed_stream;
mod transport;

use std::time::Instant;

use crate::directories::HookDirectories;
use crate::machines::{Machine, Pool};
use crate::pool::Wanted;
use destination::Destination;

pub use build_limits::BuildLimits;
pub use check::{Check, Verdict, check};
pub use check_pool::check_pool;
pub use error::{Error, KeyFault, SshFailure, on_one_line};
pub use probe::{PROBE_TIMEOUT, REQUIRED_FREE_BYTES, Vitals};
pub use transport::{Fetched, INLINE_ARCHIVE_LIMIT, InlineArchive, RemoteBuild, Transport};

/// Probes a machine, over the shared connection, which is opened if necessary.
pub fn probe(
    machine: &Machine,
    directories: &HookDirectories,
    deadline: Instant,
) -> Result<Vitals, Error> {
    let destination = Destination::new(machine, directories)?;
    match probe::probe(&destination, deadline) {
        // The existing connection may have just been lost; a new one may work.
        Err(Error::Lost { .. }) if Instant::now() < deadline => {
            probe::probe(&destination, deadline)
        }
        result => result,
    }
}

/// Connects to a machine's daemon and performs the handshake, using the transport in the machine's
/// entry. Refuses a machine whose store is our own.
pub fn connect(
    machine: &Machine,
    directories: &HookDirectories,
    deadline: Instant,
) -> Result<Box<dyn Transport>, Error> {
    connect::connect(&Destination::new(machine, directories)?, deadline)
}

/// Gets a job in a slot of a pool that the caller holds, and connects to the daemon of its worker. Waits
/// for it as long as the pool's entry says; `report` gets the reasons.
pub fn connect_to_pool(
    machine: &Machine,
    pool: &Pool,
    directories: &HookDirectories,
    slot: u32,
    wanted: &Wanted<'_>,
    report: &mut crate::pool::Report<'_>,
) -> Result<Box<dyn Transport>, Error> {
    pool_connection::connect(machine, pool, directories, slot, wanted, report)
}

/// The public key that a machine signs with.
pub fn signing_key(
    machine: &Machine,
    directories: &HookDirectories,
    deadline: Instant,
) -> Result<Vec<u8>, Error> {
    signing_keys::ask(&Destination::new(machine, directories)?, deadline)
}

/// Has a machine accept what is signed by a public key, if the account there may do that.
pub fn authorize(
    machine: &Machine,
    directories: &HookDirectories,
    key: &[u8],
    deadline: Instant,
) -> Result<(), Error> {
    signing_keys::authorize(&Destination::new(machine, directories)?, key, deadline)
}

/// Ends the shared connections to a machine, for example before it is shut down.
pub fn disconnect(machine: &Machine, directories: &HookDirectories) -> Result<(), Error> {
    let destination = Destination::new(machine, directories)?;
    master::end_all(&destination).map_err(|source| Error::Local {
        doing: format!("ending the connections to '{}'", destination.name()),
        source,
    })
}
