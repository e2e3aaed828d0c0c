//! A directory in the store that only the daemon can enter, for what becomes an item later: on the
//! same disk, and garbage for every collector once it is forgotten.

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::receive::Leftover;
use crate::store::Store;
use crate::temp_roots::TempRoots;

/// The directory in it whose owner may be somebody else.
const INNER: &str = "items";

/// A private directory, which is deleted on drop.
pub struct PrivateDirectory {
    inner: PathBuf,
    _leftover: Leftover,
}

impl Store {
    /// Makes a private directory; a temporary root protects it from the collector.
    pub fn private_directory(
        &self,
        temp_roots: &TempRoots,
        progress: &dyn Progress,
    ) -> Result<PrivateDirectory> {
        let name = self.unique_name("nix");
        let path = self
            .dir()
            .join(&name)
            .map_err(|error| Error::Other(error.to_string()))?;
        temp_roots.add(&path, progress)?;
        let making = || format!("creating directory `{path}'");
        let root = &self.inner.root;
        root.create_dir(&name, 0o700).context(making)?;
        let leftover = Leftover::new(self, name.clone());
        let outer = root.open_dir(&name).context(making)?;
        outer.create_dir(INNER, 0o700).context(making)?;
        Ok(PrivateDirectory {
            inner: path.as_path().join(INNER),
            _leftover: leftover,
        })
    }
}

impl PrivateDirectory {
    /// A directory in it. Whoever can write to this one only can't open it to others.
    pub fn inner(&self) -> &Path {
        &self.inner
    }
}
