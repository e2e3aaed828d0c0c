//! Drained machines: they get no new builds until they are returned (`doc/spec/offload.md`, section 28).
//!
//! A drained machine has a file, `<state>/offload/drained/NAME:PORT`, that says since when, and why. What
//! counts is that the file exists. It comes and goes under the machine-choice lock: a hook that
//! chooses later sees it, and one that has chosen earlier has a slot, for which who drains can wait.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use system::clock::unix_time;

use crate::directories::{HookDirectories, naming};
use crate::host_locks;
use crate::remote::on_one_line;

/// The most bytes of a file that are read.
const FILE_LIMIT: u64 = 16 << 10;
/// The most characters of a reason.
const REASON_LIMIT: usize = 500;

/// That a machine is drained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Since when, in seconds since the epoch; 0 if the file doesn't say so.
    pub since: u64,
    /// Why, in the words of whoever has drained it.
    pub reason: Option<String>,
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "it is drained: {reason}"),
            None => f.write_str("it is drained"),
        }
    }
}

impl Drained {
    /// How a machine, identified by its `NAME:PORT`, is drained; `None` if it is not.
    pub fn load(directories: &HookDirectories, key: &str) -> io::Result<Option<Drained>> {
        let path = directory(directories).join(key);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(naming(&path))?,
        };
        let mut text = Vec::new();
        file.take(FILE_LIMIT).read_to_end(&mut text)?;
        // That it cannot be understood doesn't make it go away.
        Ok(Some(serde_json::from_slice(&text).unwrap_or_default()))
    }
}

/// The `NAME:PORT` of all drained machines, listed or not.
pub fn keys(directories: &HookDirectories) -> io::Result<BTreeSet<String>> {
    let directory = directory(directories);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(naming(&directory))?,
    };
    let mut keys = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        // No host name begins like the file that is being written.
        if !name.starts_with('.') {
            keys.insert(name);
        }
    }
    Ok(keys)
}

/// Drains a machine. If it is drained already, only the reason changes, if there is one. Returns what
/// it was before.
pub fn drain(
    directories: &HookDirectories,
    key: &str,
    reason: Option<&str>,
) -> io::Result<Option<Drained>> {
    directories.check_owner()?;
    let _choice = host_locks::lock_choice(directories)?;
    let before = Drained::load(directories, key)?;
    let reason = reason.map(|text| on_one_line(text).chars().take(REASON_LIMIT).collect());
    let now = match before.clone() {
        Some(before) => Drained {
            reason: reason.or(before.reason),
            ..before
        },
        None => Drained {
            since: unix_time(),
            reason,
        },
    };
    if before.as_ref() != Some(&now) {
        let directory = directory(directories);
        HookDirectories::make(&directory)?;
        let new = directory.join(".new");
        let mut file = File::create(&new).map_err(naming(&new))?;
        file.write_all(&serde_json::to_vec(&now)?)?;
        file.sync_all()?;
        fs::rename(&new, directory.join(key)).map_err(naming(&new))?;
        File::open(&directory)?.sync_all()?;
    }
    Ok(before)
}

/// Returns a machine: it gets builds again. Whether it was drained.
pub fn put_back(directories: &HookDirectories, key: &str) -> io::Result<bool> {
    directories.check_owner()?;
    let _choice = host_locks::lock_choice(directories)?;
    let directory = directory(directories);
    let file = directory.join(key);
    match fs::remove_file(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => {
            removed.map_err(naming(&file))?;
            File::open(&directory)?.sync_all()?;
            Ok(true)
        }
    }
}

fn directory(directories: &HookDirectories) -> PathBuf {
    directories.state.join("drained")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::directories;

    #[test]
    fn a_machine_is_drained_until_it_is_returned() {
        let (_state, directories) = directories();
        assert!(keys(&directories).unwrap().is_empty());
        assert_eq!(Drained::load(&directories, "a:22").unwrap(), None);
        assert_eq!(drain(&directories, "a:22", None).unwrap(), None);
        let first = Drained::load(&directories, "a:22").unwrap().unwrap();
        assert!(first.since.abs_diff(unix_time()) < 60);
        assert_eq!(first.to_string(), "it is drained");
        // Again: it is drained since then, and now there is a reason, on one line.
        let again = drain(&directories, "a:22", Some("new\n disk")).unwrap();
        assert_eq!(again.as_ref(), Some(&first));
        let second = Drained::load(&directories, "a:22").unwrap().unwrap();
        assert_eq!(second.since, first.since);
        assert_eq!(second.to_string(), "it is drained: new disk");
        drain(&directories, "a:22", None).unwrap();
        assert_eq!(Drained::load(&directories, "a:22").unwrap(), Some(second));
        assert_eq!(
            keys(&directories).unwrap().into_iter().collect::<Vec<_>>(),
            ["a:22"]
        );
        assert!(put_back(&directories, "a:22").unwrap());
        assert!(!put_back(&directories, "a:22").unwrap());
        assert!(keys(&directories).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_says_nothing_counts() {
        let (state, directories) = directories();
        let directory = state.path().join("drained");
        fs::create_dir(&directory).unwrap();
        for text in ["", "{", "[]", "\0\0"] {
            fs::write(directory.join("a:22"), text).unwrap();
            let drained = Drained::load(&directories, "a:22").unwrap().unwrap();
            assert_eq!(drained, Drained::default(), "{text:?}");
        }
        // What a crash has left.
        fs::write(directory.join(".new"), "{").unwrap();
        assert_eq!(keys(&directories).unwrap().len(), 1);
        let reason = "x".repeat(100_000);
        drain(&directories, "a:22", Some(&reason)).unwrap();
        let drained = Drained::load(&directories, "a:22").unwrap().unwrap();
        assert_eq!(drained.reason.unwrap().len(), REASON_LIMIT);
    }
}
