//! Slots: how many simultaneous builds a machine gets (`doc/spec/offload.md`, section 6).
//!
//! Each is a lock file, `<state>/offload/NAME:PORT/0`, `NAME:PORT/1`, …, as in Guix's own hook. The
//! kernel releases the lock when the process ends, for whatever reason. The file describes the
//! slot's current use.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use formats::store_path::name_without_hash;
use serde::{Deserialize, Serialize};
use system::clock::unix_time;
use system::lock::{self, LockFile, Mode};

use crate::directories::{HookDirectories, naming};
use crate::machines::Machine;
use crate::pool;

/// A slot on a machine; released on drop.
#[derive(Debug)]
pub struct Slot {
    /// Its number.
    pub number: u32,
    file: LockFile,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // So that no reader mistakes the build for a running one.
        let _ = self.file.file().set_len(0);
    }
}

/// The current use of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Occupant {
    /// The hook's process.
    pub pid: u32,
    /// The derivation that is built.
    pub derivation: String,
    /// When the slot was taken, in seconds since the epoch.
    pub since: u64,
}

impl Occupant {
    /// The derivation's name, without its hash, by which nobody knows it.
    pub fn name(&self) -> &str {
        name_without_hash(&self.derivation)
    }
}

/// Takes a free slot of a machine, if there is one.
pub fn acquire(
    directories: &HookDirectories,
    machine: &Machine,
    derivation: &str,
) -> io::Result<Option<Slot>> {
    let directory = directories.of_machine(machine);
    HookDirectories::make(&directory)?;
    if taken(directories, machine)?.len() >= machine.parallel_builds as usize {
        return Ok(None);
    }
    let mut numbers: Vec<u32> = (0..machine.parallel_builds).collect();
    if machine.pool.is_some() {
        numbers.sort_by_cached_key(|number| pool::rank(&directory, *number));
    }
    for number in numbers {
        let file = HookDirectories::open_lock(&directory.join(number.to_string()))?;
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
        return Ok(Some(Slot { number, file }));
    }
    Ok(None)
}

/// The slots of a machine that are in use; `None` for a slot whose file does not describe its use,
/// such as one that Guix's own hook has taken.
///
/// Slots above the number in the machine file count, too: builds that were there before the number
/// was lowered go on.
pub fn taken(
    directories: &HookDirectories,
    machine: &Machine,
) -> io::Result<Vec<Option<Occupant>>> {
    let directory = directories.of_machine(machine);
    let mut taken = Vec::new();
    for number in numbers(&directory)? {
        let path = directory.join(number.to_string());
        // This only tests the lock: taking it would prevent another hook from taking the slot.
        if lock::is_locked(&path).map_err(naming(&path))? {
            let text = fs::read(&path).map_err(naming(&path))?;
            taken.push(serde_json::from_slice(&text).ok());
        }
    }
    Ok(taken)
}

/// The slots that have a file, in order.
fn numbers(directory: &Path) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(naming(directory))?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<u32>().ok());
        numbers.extend(number.filter(|number| *name == *number.to_string()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{directories, machine};

    #[test]
    fn slots_are_numbered_files_named_after_the_machine() {
        let (state, directories) = directories();
        let machine = Machine {
            port: 2222,
            parallel_builds: 2,
            ..machine("build1")
        };
        assert!(taken(&directories, &machine).unwrap().is_empty());
        let first = acquire(&directories, &machine, "/x.drv").unwrap().unwrap();
        let second = acquire(&directories, &machine, "/y.drv").unwrap().unwrap();
        for number in ["0", "1"] {
            assert!(state.path().join("build1:2222").join(number).exists());
        }
        assert!(acquire(&directories, &machine, "/z.drv").unwrap().is_none());
        let occupants = taken(&directories, &machine).unwrap();
        let built = |index: usize| occupants[index].as_ref().unwrap().derivation.as_str();
        assert_eq!((built(0), built(1)), ("/x.drv", "/y.drv"));
        drop(first);
        assert_eq!(taken(&directories, &machine).unwrap().len(), 1);
        // The free one is taken next.
        let again = acquire(&directories, &machine, "/z.drv").unwrap().unwrap();
        assert_eq!(taken(&directories, &machine).unwrap().len(), 2);
        drop((second, again));
        assert!(taken(&directories, &machine).unwrap().is_empty());
    }

    #[test]
    fn an_error_names_its_file() {
        let (state, directories) = directories();
        let machine = machine("build1");
        std::fs::write(state.path().join("build1:22"), "").unwrap();
        let errors = [
            acquire(&directories, &machine, "/x.drv").map(|_| ()),
            taken(&directories, &machine).map(|_| ()),
        ];
        for error in errors {
            let error = error.unwrap_err().to_string();
            assert!(error.contains("/build1:22'"), "{error}");
        }
    }

    #[test]
    fn a_slot_taken_by_guix_itself_has_no_occupant() {
        let (state, directories) = directories();
        let machine = machine("build1");
        std::fs::create_dir(state.path().join("build1:22")).unwrap();
        let file = LockFile::open(state.path().join("build1:22/0")).unwrap();
        assert!(file.try_lock(Mode::Exclusive).unwrap());
        assert_eq!(taken(&directories, &machine).unwrap(), [None]);
        assert!(acquire(&directories, &machine, "/x.drv").unwrap().is_none());
    }

    #[test]
    fn builds_above_a_lowered_number_of_slots_count() {
        let (_state, directories) = directories();
        let with = |parallel_builds| Machine {
            parallel_builds,
            ..machine("build1")
        };
        let take = |slots, derivation| acquire(&directories, &with(slots), derivation).unwrap();
        let first = take(2, "/x.drv").unwrap();
        let _second = take(2, "/y.drv").unwrap();
        for lowered in [0, 1] {
            assert_eq!(taken(&directories, &with(lowered)).unwrap().len(), 2);
        }
        drop(first);
        let left = taken(&directories, &with(0)).unwrap();
        assert_eq!(left[0].as_ref().unwrap().derivation, "/y.drv");
        // Not one more than it may have now.
        assert!(take(1, "/z.drv").is_none());
        assert!(take(2, "/z.drv").is_some());
    }

    #[test]
    fn a_machine_without_slots_gets_no_build() {
        let (_state, directories) = directories();
        let machine = Machine {
            parallel_builds: 0,
            ..machine("build1")
        };
        assert!(acquire(&directories, &machine, "/x.drv").unwrap().is_none());
    }
}
