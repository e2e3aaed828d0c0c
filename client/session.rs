//! A connection to the daemon, and where it and its store are.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Result;
use formats::StorePath;
use protocol::client::{Address, Connection, Options};
use store::Directories;

use crate::output;

/// The directories of the Guix that is asked about.
pub fn directories() -> Result<Directories> {
    Ok(Directories::from_environment(
        &store::compiled_directories!(),
    )?)
}

/// A connection to the daemon.
pub struct Session {
    /// Where everything is.
    pub directories: Directories,
    /// The connection.
    pub daemon: Connection,
    /// Whether the daemon is on this host.
    pub local: bool,
}

impl Session {
    /// Connects to the daemon that `GUIX_DAEMON_SOCKET` names, or to this host's.
    pub fn open() -> Result<Session> {
        Self::open_with(&Options::default())
    }

    /// Connects, with these options.
    pub fn open_with(options: &Options) -> Result<Session> {
        let directories = directories()?;
        let address = Address::from_environment(&directories.state)?;
        let mut daemon = address.connect(&directories.store, options)?;
        // What the daemon says is for people, even when nothing is built.
        daemon.set_log(|text| _ = output::stderr().write_all(text));
        Ok(Session {
            directories,
            daemon,
            local: matches!(address, Address::Unix(_)),
        })
    }

    /// The item that `argument` is.
    pub fn item(&self, argument: &OsString) -> Result<StorePath> {
        Ok(self.directories.store.parse(argument.as_bytes())?)
    }

    /// The item that `argument` leads into, perhaps through symbolic links.
    pub fn item_behind(&self, argument: &OsString) -> Result<StorePath> {
        let store = &self.directories.store;
        let mut file = argument.clone();
        // As many links as the kernel follows.
        for _ in 0..40 {
            if let Ok(item) = store.item_of(file.as_bytes()) {
                // Items that are links themselves are meant, not what they point to.
                return Ok(item);
            }
            match std::fs::read_link(&file) {
                Ok(target) => {
                    let parent = Path::new(&file).parent().unwrap_or(Path::new(""));
                    file = parent.join(target).into();
                }
                Err(_) => break,
            }
        }
        Ok(store.parse(argument.as_bytes())?)
    }
}
