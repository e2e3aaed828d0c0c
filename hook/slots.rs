//! Locks between the hooks of this host (`doc/spec/offload.md`, sections 5, 6, 15 and 24).
//!
//! All are lock files under `<state>/offload`: `NAME:PORT/0`, `NAME:PORT/1`, … for the builds that
//! a machine takes at once, `NAME:PORT.upload.lock` and `NAME:PORT.download.lock` for transfers,
//! `machine-choice.lock`. The kernel drops them when the process ends, however it ends.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use system::clock::unix_time;
use system::lock::{LockFile, Mode};

use crate::machines::Machine;

/// The right to have one more build on a machine; given up when dropped.
#[derive(Debug)]
pub struct Slot {
    file: LockFile,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // So that nobody reads there what is no longer built.
        let _ = self.file.file().set_len(0);
    }
}

/// Who has a slot, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occupant {
    /// The hook's process.
    pub pid: u32,
    /// What is built.
    pub derivation: String,
    /// Since when, in seconds since the epoch.
    pub since: u64,
}

/// The directory of a machine's slots.
pub fn directory(home: &Path, machine: &Machine) -> PathBuf {
    home.join(machine.key())
}

/// Takes a free slot of a machine, if there is one.
pub fn acquire(home: &Path, machine: &Machine, derivation: &str) -> io::Result<Option<Slot>> {
    let directory = directory(home, machine);
    fs::create_dir_all(&directory)?;
    for number in 0..machine.parallel_builds {
        let file = LockFile::open(directory.join(number.to_string()))?;
        if !file.try_lock(Mode::Exclusive)? {
            continue;
        }
        let occupant = Occupant {
            pid: std::process::id(),
            derivation: derivation.to_owned(),
            since: unix_time(),
        };
        file.file().set_len(0)?;
        let mut writer = file.file();
        writer.write_all(&serde_json::to_vec(&occupant)?)?;
        return Ok(Some(Slot { file }));
    }
    Ok(None)
}

/// The slots of a machine that are taken now; `None` where nobody said what for, as Guix's own
/// hook does.
pub fn taken(home: &Path, machine: &Machine) -> io::Result<Vec<Option<Occupant>>> {
    let directory = directory(home, machine);
    let mut taken = Vec::new();
    for number in 0..machine.parallel_builds {
        let path = directory.join(number.to_string());
        if !path.exists() {
            continue;
        }
        // Only looked at: a lock taken to look would be in the way of whoever wants the slot.
        if LockFile::open(&path)?.is_locked()? {
            let text = fs::read(&path)?;
            taken.push(serde_json::from_slice(&text).ok());
        }
    }
    Ok(taken)
}

/// Whether somebody sends items to a machine now, or fetches some.
pub fn is_transferring(home: &Path, machine: &Machine) -> bool {
    ["upload", "download"].iter().any(|way| {
        let path = home.join(format!("{}.{way}.lock", machine.key()));
        let locked = |path| LockFile::open(path)?.is_locked();
        path.exists() && locked(path).unwrap_or(false)
    })
}

/// A lock that is waited for: `machine-choice`, or `NAME:PORT.upload`.
pub fn wait_for(home: &Path, name: &str) -> io::Result<LockFile> {
    fs::create_dir_all(home)?;
    let file = LockFile::open(home.join(format!("{name}.lock")))?;
    file.lock(Mode::Exclusive)?;
    Ok(file)
}
