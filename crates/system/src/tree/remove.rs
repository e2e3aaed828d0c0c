//! Deleting a tree.

use std::ffi::OsStr;
use std::io;

use super::walk::{Descend, Visit, Visited, walk};
use super::{Dir, Error, Kind};

/// Deletes the tree (or file) `name` in `dir`; returns the bytes freed: the disk blocks of files
/// whose last link was removed. Directories without write permission are deleted too, if they are
/// ours. If the tree doesn't exist, the error is `NotFound`.
pub fn remove_tree(dir: &Dir, name: impl AsRef<OsStr>) -> Result<u64, Error> {
    let mut remover = Remover { freed: 0 };
    walk(dir, name, &mut remover)?;
    Ok(remover.freed)
}

struct Remover {
    freed: u64,
}

impl Visit for Remover {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        if file.stat.kind() == Kind::Directory {
            // To delete its contents, we need permission to read and change the directory.
            if file.stat.mode() & 0o700 != 0o700 {
                file.parent.chmod_at(file.name, file.stat.mode() | 0o700)?;
            }
            return Ok(Descend::Into);
        }
        file.parent.remove_file(file.name)?;
        if file.stat.links() == 1 {
            self.freed += file.stat.blocks() * 512;
        }
        Ok(Descend::Over)
    }

    fn leave(&mut self, directory: &Visited<'_>) -> io::Result<()> {
        directory.parent.remove_dir(directory.name)?;
        self.freed += directory.stat.blocks() * 512;
        Ok(())
    }

    fn action(&self) -> &'static str {
        "delete"
    }
}
