//! Deleting a tree.

use std::ffi::OsStr;
use std::io;

use super::walk::{Descend, Visit, Visited, walk};
use super::{Dir, Error, Kind};

/// Deletes the tree (or file) `name` in `dir`; returns the bytes freed, counted as the blocks
/// of files whose last link goes. Directories without write permission are no obstacle if
/// they are ours. A tree that doesn't exist is an error (`NotFound`).
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
            // What is in it can only be removed from a directory that we can read and change.
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
