//! Locks that the hooks of this host share (`doc/spec/offload.md`, sections 5, 15 and 24).
//!
//! They are lock files in `<state>/offload`: `NAME:PORT.upload.lock` and `NAME:PORT.download.lock`
//! for transfers, `machine-choice.lock` for choosing. The kernel releases them when the process
//! ends, for whatever reason. An upload lock's file contains a word that every upload changes, so
//! that a hook knows whether what it has learnt about the machine's store may be out of date.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use system::lock::{self, LockFile, Mode};

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

/// Takes the lock for fetching items from a machine.
pub fn lock_download(directories: &HookDirectories, machine: &Machine) -> io::Result<LockFile> {
    wait_for(
        directories,
        &transfer_lock_name(machine, Direction::Download),
    )
}

/// The last upload to a machine that has begun.
#[derive(Debug, PartialEq, Eq)]
pub struct LastUpload(Vec<u8>);

impl LastUpload {
    /// The length of the word that identifies an upload.
    const LENGTH: usize = 16;

    /// To be called before the machine is asked what it has.
    pub fn look(directories: &HookDirectories, machine: &Machine) -> LastUpload {
        let name = transfer_lock_name(machine, Direction::Upload);
        match File::open(directories.state.join(name)) {
            Ok(file) => LastUpload::read(&file),
            Err(_) => LastUpload(Vec::new()),
        }
    }

    fn read(file: &File) -> LastUpload {
        let mut word = Vec::new();
        // What cannot be read is no upload that anybody knows: then the machine is asked again.
        let _ = file.take(LastUpload::LENGTH as u64).read_to_end(&mut word);
        LastUpload(word)
    }
}

/// The lock for sending items to a machine.
pub struct UploadLock {
    lock: LockFile,
    /// Whether something may have been sent there since the machine was asked what it has.
    pub is_outdated: bool,
}

impl UploadLock {
    /// Takes the lock; `waiting` is called if another hook has it. `last` is from before the
    /// machine was asked what it has.
    pub fn take(
        directories: &HookDirectories,
        machine: &Machine,
        last: &LastUpload,
        waiting: impl FnOnce(),
    ) -> io::Result<UploadLock> {
        let lock = open(directories, &transfer_lock_name(machine, Direction::Upload))?;
        let mut is_outdated = false;
        if !lock.try_lock(Mode::Exclusive)? {
            waiting();
            lock.lock(Mode::Exclusive)?;
            is_outdated = true;
        }
        is_outdated |= LastUpload::read(lock.file()) != *last;
        Ok(UploadLock { lock, is_outdated })
    }

    /// Records that an upload begins: one that dies may have sent something, too.
    pub fn begin(self) -> LockFile {
        let word = format!("{:016x}", rand::random::<u64>());
        // Without it, something may be sent twice.
        let _ = self.lock.file().write_all_at(word.as_bytes(), 0);
        self.lock
    }
}

fn wait_for(directories: &HookDirectories, name: &str) -> io::Result<LockFile> {
    let file = open(directories, name)?;
    file.lock(Mode::Exclusive)?;
    Ok(file)
}

fn open(directories: &HookDirectories, name: &str) -> io::Result<LockFile> {
    HookDirectories::make(&directories.state)?;
    HookDirectories::open_lock(&directories.state.join(name))
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
            lock::is_locked(&path).unwrap_or(false)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{directories, machine};

    #[test]
    fn an_upload_makes_what_was_learnt_before_outdated() {
        let (_state, directories) = directories();
        let machine = machine("build1");
        let take = |last: &LastUpload| {
            UploadLock::take(&directories, &machine, last, || panic!("nobody has it")).unwrap()
        };
        let look = || LastUpload::look(&directories, &machine);
        let none = look();
        // One that finds nothing to send changes nothing.
        assert!(!take(&none).is_outdated);
        let lock = take(&none);
        assert!(!lock.is_outdated);
        drop(lock.begin());
        assert!(take(&none).is_outdated);
        let first = look();
        assert!(!take(&first).is_outdated);
        drop(take(&first).begin());
        assert!(take(&first).is_outdated);
        assert!(!take(&look()).is_outdated);
    }

    #[test]
    fn whoever_has_waited_asks_again() {
        let (_state, directories) = directories();
        let machine = machine("build1");
        let look = || LastUpload::look(&directories, &machine);
        let lock = UploadLock::take(&directories, &machine, &look(), || ()).unwrap();
        let lock = lock.begin();
        let last = look();
        std::thread::scope(|scope| {
            let (sender, waits) = std::sync::mpsc::channel();
            let (directories, machine) = (&directories, &machine);
            let other = scope.spawn(move || {
                let waiting = || sender.send(()).unwrap();
                UploadLock::take(directories, machine, &last, waiting).unwrap()
            });
            waits.recv().unwrap();
            drop(lock);
            assert!(other.join().unwrap().is_outdated);
        });
    }
}
