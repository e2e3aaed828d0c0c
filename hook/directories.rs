//! The directories of the hook's state, and the store.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use formats::StoreDir;
use store::Directories;
use system::ids;
use system::lock::LockFile;

use crate::machines::Machine;
use crate::remembering::History;

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
    /// What remembers attempts and states, in hooks that do.
    pub history: Option<Arc<History>>,
}

impl HookDirectories {
    /// The hook's directories for a daemon's directories.
    pub fn new(daemon: &Directories) -> io::Result<HookDirectories> {
        let account = ids::user_by_id(ids::effective_uid())?;
        Ok(HookDirectories {
            state: daemon.offload(),
            store: daemon.store.clone(),
            configuration: daemon.configuration.clone(),
            user_home: account.map_or_else(|| "/".into(), |account| account.home),
            history: None,
        })
    }

    /// Whether we may create something in the hook's directory: it has to belong to the user as whom
    /// hooks run. Anybody else, even root, would lock them out.
    pub fn check_owner(&self) -> io::Result<()> {
        let parent = self.state.parent().unwrap_or(&self.state);
        let metadata = fs::metadata(&self.state).or_else(|_| fs::metadata(parent));
        let owner = metadata?.uid();
        if owner == ids::effective_uid() {
            return Ok(());
        }
        let user = ids::user_name(owner);
        let message = format!(
            "only {user} may do that, to whom `{}' belongs",
            parent.display()
        );
        Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
    }

    /// Creates a directory of the hook's, with mode 0700, and those above it, as far as they are missing. The error
    /// names it.
    pub fn make(directory: &Path) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(naming(directory))
    }

    /// Opens a lock file of the hook's. The error names it.
    pub fn open_lock(file: &Path) -> io::Result<LockFile> {
        LockFile::open(file).map_err(naming(file))
    }

    /// The directory of what hooks store about one machine: `<state>/offload/NAME:PORT`, as in
    /// Guix.
    pub fn of_machine(&self, machine: &Machine) -> PathBuf {
        self.state.join(machine.key())
    }
}

/// Has an error name the file, which the system's own errors don't.
pub fn naming(file: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    |error| {
        let message = system::errno::message(&error);
        io::Error::new(error.kind(), format!("'{}': {message}", file.display()))
    }
}
