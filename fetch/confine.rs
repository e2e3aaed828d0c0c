//! What the program that touches the network gives up before it listens to anybody.
//!
//! Where it is root, it becomes a user that nobody else is. In any case it can't gain privileges, start
//! programs or processes, write to any file, read more than name services, TLS and the C library
//! need, be traced, or have more memory than it should. What the kernel doesn't support (Landlock
//! before Linux 5.13, filters of system calls on some processors) is left out: the other protections
//! remain.

use std::path::{Path, PathBuf};

use anyhow::Context;
use system::{caps, ids, landlock, limits, runtime_files, seccomp};

/// The most memory, in bytes: far more than all decoders together are given (`network/budget.rs`).
const MEMORY: u64 = 2 << 30;

/// Gives up, for this process, everything that the network doesn't need. To be called before there are
/// other threads. Returns whether access to files is restricted, for which the kernel needs Landlock.
pub fn confine() -> anyhow::Result<bool> {
    runtime_files::load_name_services();
    let mut readable = runtime_files::libraries();
    limits::forbid_files().context("cannot limit files")?;
    limits::limit_memory(MEMORY).context("cannot limit memory")?;
    caps::drop_bounding();
    let is_own_user = match ids::effective_uid() {
        0 => ids::become_nobody_else().context("cannot change the user")?,
        _ => false,
    };
    caps::drop_all().context("cannot drop capabilities")?;
    limits::hide().context("cannot hide the process")?;
    limits::die_with_parent().context("cannot be tied to the parent")?;
    readable.extend(configuration(is_own_user));
    let readable: Vec<&Path> = readable.iter().map(PathBuf::as_path).collect();
    let has_landlock =
        landlock::confine_to_reading(&readable).context("cannot restrict access to files")?;
    seccomp::restrict_network_program().context("cannot restrict system calls")?;
    Ok(has_landlock)
}

/// What may be read below `/etc`. With a user of its own, all that everybody may read. The daemon's
/// own user has keys there, so then only what is needed; a file that is replaced later can't be read
/// any more, and whoever started this program starts it anew when that happens to `resolv.conf`.
fn configuration(is_own_user: bool) -> Vec<PathBuf> {
    match is_own_user {
        true => vec!["/etc".into()],
        false => runtime_files::configuration(),
    }
}

#[cfg(test)]
#[path = "confine_tests.rs"]
mod tests;
