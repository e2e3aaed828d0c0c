//! A file that a command writes for its user: complete, or as it was before.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Where something is written. Unless it is [finished](Destination::finish), no file is changed or left
/// behind.
pub struct Destination {
    /// Under the temporary name, or the device or pipe itself.
    pub file: File,
    path: PathBuf,
    /// The name of a new file beside `path`; `None` if what is there is written to directly.
    temporary: Option<PathBuf>,
}

impl Destination {
    /// Writes to a new file, which is to replace the one called `path`, if there is one, as a whole.
    /// A device or a pipe is written to directly, and stays whatever happens.
    pub fn open(path: &Path) -> Result<Destination> {
        let writing = || format!("writing `{}'", path.display());
        let found = fs::metadata(path).ok();
        if let Some(found) = found.as_ref().filter(|found| !found.is_file()) {
            let file = match found.is_dir() {
                true => Err(io::ErrorKind::IsADirectory.into()),
                false => File::options().write(true).open(path),
            };
            return Ok(Destination {
                file: file.with_context(writing)?,
                path: path.to_owned(),
                temporary: None,
            });
        }
        // Behind links, if there are any.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let name = path.file_name().with_context(writing)?.to_string_lossy();
        let name = format!(".{name}.{:016x}", rand::random::<u64>());
        let temporary = path.with_file_name(name);
        let file = File::create_new(&temporary).with_context(writing)?;
        let destination = Destination {
            file,
            path,
            temporary: Some(temporary),
        };
        if let Some(found) = found {
            let permissions = fs::Permissions::from_mode(found.mode() & 0o777);
            destination
                .file
                .set_permissions(permissions)
                .with_context(writing)?;
        }
        Ok(destination)
    }

    /// Everything is written: the file gets its name.
    pub fn finish(mut self) -> Result<()> {
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path)
                .with_context(|| format!("writing `{}'", self.path.display()))?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}
