//! The directories of the hook's state, and the store.

use std::io;
use std::path::PathBuf;

use formats::StoreDir;
use store::Directories;
use system::ids;

use crate::machines::Machine;

/// The directories that all hooks of one daemon share.
#[derive(Debug, Clone)]
pub struct HookDirectories {
    /// `<state>/offload`; `ssh/` in it has the control sockets. Created with mode 0700 if missing.
    pub state: PathBuf,
    /// The store, here and on the build machines.
    pub store: StoreDir,
    /// Our keys.
    pub configuration: PathBuf,
    /// The home directory of our user in the password file.
    pub user_home: PathBuf,
}

impl HookDirectories {
    /// The hook's directories for a daemon's directories.
    pub fn new(daemon: &Directories) -> io::Result<HookDirectories> {
        let account = ids::user_by_id(ids::effective_uid())?;
        Ok(HookDirectories {
            state: daemon.state.join("offload"),
            store: daemon.store.clone(),
            configuration: daemon.configuration.clone(),
            user_home: account.map_or_else(|| "/".into(), |account| account.home),
        })
    }

    /// The directory of what hooks store about one machine: `<state>/offload/NAME:PORT`, as in
    /// Guix.
    pub fn of_machine(&self, machine: &Machine) -> PathBuf {
        self.state.join(machine.key())
    }
}
