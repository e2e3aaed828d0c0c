//! Locks that the hooks of this host share (`doc/spec/offload.md`, sections 5, 15 and 24).
//!
//! They are lock files in `<state>/offload`: `NAME:PORT.upload.lock` and `NAME:PORT.download.lock`
//! for transfers, `machine-choice.lock` for choosing. The kernel releases them when the process
//! ends, for whatever reason.

use std::fs;
use std::io;

use system::lock::{LockFile, Mode};

use crate::directories::HookDirectories;
use crate::machines::Machine;
use crate::remote;

/// The direction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the machine.
    Upload,
    /// From the machine.
    Download,
}

impl Direction {
    /// As in the lock's name.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Upload => "upload",
            Direction::Download => "download",
        }
    }
}

/// Takes the machine-choice lock.
pub fn lock_choice(directories: &HookDirectories) -> io::Result<LockFile> {
    wait_for(directories, "machine-choice.lock")
}

/// Takes the lock for sending items to a machine, or for fetching items from it.
pub fn lock_transfer(
    directories: &HookDirectories,
    machine: &Machine,
    direction: Direction,
) -> io::Result<LockFile> {
    wait_for(directories, &transfer_lock_name(machine, direction))
}

fn wait_for(directories: &HookDirectories, name: &str) -> io::Result<LockFile> {
    fs::create_dir_all(&directories.state)?;
    let file = LockFile::open(directories.state.join(name))?;
    file.lock(Mode::Exclusive)?;
    Ok(file)
}

fn transfer_lock_name(machine: &Machine, direction: Direction) -> String {
    format!("{}.{}.lock", machine.key(), direction.name())
}

/// Whether a hook is currently sending items to a machine, or fetching some.
fn is_transferring(directories: &HookDirectories, machine: &Machine) -> bool {
    [Direction::Upload, Direction::Download]
        .into_iter()
        .any(|direction| {
            let path = directories
                .state
                .join(transfer_lock_name(machine, direction));
            let locked = |path| LockFile::open(path)?.is_locked();
            path.exists() && locked(path).unwrap_or(false)
        })
}

/// The message for a machine that replied too late because its connection is busy with a transfer.
/// If the machine were dead, the hooks that transfer items would notice.
pub fn busy_with_transfer(
    directories: &HookDirectories,
    machine: &Machine,
    error: &remote::Error,
) -> Option<String> {
    let busy = error.is_timeout() && is_transferring(directories, machine);
    busy.then(|| format!("{error} (its connection is busy with store items)"))
}
