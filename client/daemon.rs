//! The daemon that a command is connected to, and its directories.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Result;
use formats::{StoreDir, StorePath};
use protocol::client::{Address, Connection, Options};
use store::Directories;
use system::terminal;

use crate::output;
use crate::plain_lines::LineWriter;

/// The directories in the environment, or those of the installation.
pub fn directories() -> Result<Directories> {
    Ok(Directories::from_environment(
        &store::compiled_directories!(),
    )?)
}

/// A connection to a daemon, after the handshake.
pub struct Daemon {
    /// Its directories, if it is on this host.
    pub directories: Directories,
    /// The connection to it.
    pub connection: Connection,
    /// Whether it is on this host.
    pub is_local: bool,
}

impl Daemon {
    /// Connects to the daemon in `GUIX_DAEMON_SOCKET`, or to this host's.
    pub fn connect() -> Result<Daemon> {
        Self::connect_with(&Options::default())
    }

    /// Connects, with these options.
    pub fn connect_with(options: &Options) -> Result<Daemon> {
        let directories = directories()?;
        let address = Address::from_environment(&directories.state)?;
        let mut connection = address.connect(&directories.store, options)?;
        // Its messages are for the user, even when nothing is built.
        if terminal::is_screen(&io::stderr()) {
            connection.set_log(|text| _ = output::stderr().write_all(text));
        } else {
            let mut lines = LineWriter::new(output::stderr());
            connection.set_log(move |text| lines.write(text));
        }
        Ok(Daemon {
            directories,
            connection,
            is_local: matches!(address, Address::Unix(_)),
        })
    }

    /// The item with the name `argument`.
    pub fn item(&self, argument: &OsString) -> Result<StorePath> {
        Ok(self.directories.store.parse(argument.as_bytes())?)
    }

    /// The item that `argument` is, or leads to through symbolic links.
    pub fn item_behind(&self, argument: &OsString) -> Result<StorePath> {
        item_behind(&self.directories.store, argument)
    }
}

/// The item of `store` that `argument` is, or leads to through symbolic links.
pub fn item_behind(store: &StoreDir, argument: &OsString) -> Result<StorePath> {
    let mut file = argument.clone();
    // The kernel's limit of symbolic links.
    for _ in 0..40 {
        if let Ok(item) = store.item_of(file.as_bytes()) {
            // An item may itself be a link, which is not followed.
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
