//! The output directory of builtin builders: `DRV.chroot/top` in the store, which nobody else can
//! enter, and from which a finished output can be renamed to its store path. A rejected output
//! never appears under a name in the store.

use std::io;
use std::path::{Path, PathBuf};

use super::identity::Identity;
use super::root::{make_directory, remove};

/// A directory for the outputs of one build. It is deleted recursively on drop.
#[derive(Debug)]
pub struct OutputDirectory {
    container: PathBuf,
    top: PathBuf,
}

impl OutputDirectory {
    /// Creates the directory; remains of an earlier one are deleted.
    pub fn create(derivation: &Path, identity: &Identity) -> io::Result<OutputDirectory> {
        let mut container = derivation.as_os_str().to_owned();
        container.push(".chroot");
        let container = PathBuf::from(container);
        remove(&container)?;
        // From here on, the directory is deleted when the value is dropped.
        let directory = OutputDirectory {
            top: container.join("top"),
            container,
        };
        let owner = identity.ids();
        let group = owner.map(|(_, gid)| (0, gid));
        make_directory(&directory.container, 0o750, group)?;
        make_directory(&directory.top, 0o700, owner)?;
        Ok(directory)
    }

    /// The path for an output.
    pub fn place(&self, output: &Path) -> PathBuf {
        self.top.join(output.file_name().unwrap_or_default())
    }
}

impl Drop for OutputDirectory {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.container) {
            tracing::warn!("cannot delete `{}': {error}", self.container.display());
        }
    }
}
