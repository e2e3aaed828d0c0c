//! Adding files and derivations to the store, through its daemon.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use formats::hash::Algorithm;
use formats::nar::Sink;
use formats::store_path::{StoreDir, StorePath};
use protocol::client::{self, Address, Options};
use protocol::operations::{PathInfo, QueryPathInfo};

/// A connection to the daemon of this host.
pub struct Connection {
    daemon: client::Connection,
    directories: store::Directories,
}

impl Connection {
    /// Connects to the daemon that environment variables name.
    pub fn open() -> Result<Connection> {
        let directories = store::Directories::from_environment(&store::compiled_directories!())?;
        let daemon = Address::from_environment(&directories.state)?
            .connect(&directories.store, &Options::default())?;
        Ok(Connection {
            daemon,
            directories,
        })
    }

    /// The store's directory.
    pub fn directory(&self) -> &StoreDir {
        &self.directories.store
    }

    /// The store, the state, and the configuration.
    pub fn directories(&self) -> &store::Directories {
        &self.directories
    }

    /// What is registered about an item.
    pub fn info(&mut self, path: &StorePath) -> Result<PathInfo> {
        self.daemon
            .call(&QueryPathInfo { path: path.clone() })
            .with_context(|| format!("cannot find {path}"))
    }

    /// Adds a file or a tree as it is.
    pub fn add_tree(&mut self, name: &str, path: &Path) -> Result<StorePath> {
        self.daemon
            .add_to_store(name, true, Algorithm::Sha256, |writer| dump(path, writer))
            .with_context(|| format!("cannot add {} to the store", path.display()))
    }

    /// Adds a file by its contents alone.
    pub fn add_file(&mut self, name: &str, path: &Path) -> Result<StorePath> {
        self.daemon
            .add_to_store(name, false, Algorithm::Sha256, |writer| {
                let file = File::open(path)?;
                let size = file.metadata()?.len();
                writer.regular(false, size, &mut &file)
            })
            .with_context(|| format!("cannot add {} to the store", path.display()))
    }

    /// Adds a text, which must get the name `expected`.
    pub fn add_text(
        &mut self,
        name: &str,
        text: &[u8],
        references: &BTreeSet<StorePath>,
        expected: &StorePath,
    ) -> Result<()> {
        let path = self
            .daemon
            .add_text_to_store(name, text, references.clone())
            .with_context(|| format!("cannot add {name} to the store"))?;
        ensure!(path == *expected, "the daemon calls {expected} {path}");
        Ok(())
    }
}

/// Passes the tree at `path` to `sink`. Recursion is as deep as the tree: here, a few levels.
pub fn dump(path: &Path, sink: &mut dyn Sink) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_symlink() {
        let target = fs::read_link(path)?;
        sink.symlink(target.as_os_str().as_bytes().into())
    } else if metadata.is_dir() {
        sink.begin_directory()?;
        let mut names: Vec<_> = fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            sink.entry(name.as_bytes().into())?;
            dump(&path.join(&name), sink)?;
        }
        sink.end_directory()
    } else {
        let executable = metadata.permissions().mode() & 0o100 != 0;
        sink.regular(executable, metadata.len(), &mut File::open(path)?)
    }
}
