//! Copying a tree.

use std::ffi::OsStr;
use std::io;

use super::walk::{Descend, Visit, Visited, walk};
use super::{Dir, Error, Kind};

/// Copies the tree (or file) `name` in `from` to `new_name` in `to`, which must not exist:
/// regular files, directories and symbolic links with their permission bits and modification
/// times (whole seconds); the copies belong to this process's user and share nothing with the
/// originals. Files of other kinds are an error. What was copied before an error stays.
pub fn copy_tree(
    from: &Dir,
    name: impl AsRef<OsStr>,
    to: &Dir,
    new_name: impl AsRef<OsStr>,
) -> Result<(), Error> {
    let (name, new_name) = (name.as_ref(), new_name.as_ref());
    let root = to.try_clone().map_err(|source| Error {
        action: "copy",
        path: new_name.into(),
        source,
    })?;
    walk(
        from,
        name,
        &mut Copier {
            root,
            new_name,
            open: Vec::new(),
        },
    )
}

struct Copier<'a> {
    root: Dir,
    new_name: &'a OsStr,
    /// The copies of the directories we are in. Unlike the walk itself this keeps them all
    /// open: they are nobody else's, and no store item is that deep.
    open: Vec<Dir>,
}

impl Visit for Copier<'_> {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        let name = if file.depth == 0 {
            self.new_name
        } else {
            file.name
        };
        let to = self.open.last().unwrap_or(&self.root);
        match file.stat.kind() {
            Kind::Directory => {
                to.create_dir(name, 0o700)?;
                let copy = to.open_dir(name)?;
                self.open.push(copy);
                return Ok(Descend::Into);
            }
            Kind::Regular => {
                let mut source = file.parent.open_file(file.name)?;
                let mut copy = to.create_new(name, 0o600)?;
                io::copy(&mut source, &mut copy)?;
                drop(copy);
                to.chmod_at(name, file.stat.mode())?;
            }
            Kind::Symlink => to.symlink(file.parent.read_link(file.name)?, name)?,
            Kind::Other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "it has an unsupported type",
                ));
            }
        }
        to.set_times_at(name, None, file.stat.mtime().0)?;
        Ok(Descend::Over)
    }

    fn leave(&mut self, directory: &Visited<'_>) -> io::Result<()> {
        let name = if directory.depth == 0 {
            self.new_name
        } else {
            directory.name
        };
        self.open.pop();
        let to = self.open.last().unwrap_or(&self.root);
        to.set_times_at(name, None, directory.stat.mtime().0)?;
        to.chmod_at(name, directory.stat.mode())
    }

    fn action(&self) -> &'static str {
        "copy"
    }
}
