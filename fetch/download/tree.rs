//! The output of a `builtin:git-download`: a directory.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use formats::Hash;
use formats::derivation::FixedHash;
use formats::hash::HashWriter;
use formats::nar;
use system::tree::{Descend, Dir, Kind, Visit, Visited, remove_tree, walk};

/// A directory that is made anew by each attempt.
pub struct Tree {
    path: PathBuf,
    parent: Dir,
}

impl Tree {
    /// At `path`, where nothing has to be.
    pub fn new(path: &Path) -> io::Result<Tree> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok(Tree {
            path: path.to_owned(),
            parent: Dir::open(parent)?,
        })
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what there is.
    pub fn remove(&self) -> io::Result<()> {
        let name = self.name();
        match self.parent.try_stat_at(name)? {
            None => Ok(()),
            Some(stat) if stat.is_dir() => {
                remove_tree(&self.parent, name).map_err(io::Error::other)?;
                Ok(())
            }
            Some(_) => self.parent.remove_file(name),
        }
    }

    /// Removes the repository from a checkout, and from its submodules the files that name theirs.
    pub fn remove_repository(&self, recursive: bool) -> io::Result<()> {
        let inside = self.parent.open_dir(self.name())?;
        remove_tree(&inside, ".git").map_err(io::Error::other)?;
        if recursive {
            walk(&self.parent, self.name(), &mut RepositoryFiles).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// The hash of its archive, or `None` if that is not the hash that is expected.
    pub fn hash(&self, expected: &FixedHash) -> io::Result<Option<Hash>> {
        if !expected.recursive {
            return Ok(None);
        }
        let hasher = HashWriter::new(io::sink(), expected.hash.algorithm());
        let mut writer = nar::Writer::new(io::BufWriter::new(hasher));
        store::files::dump(&self.path, &mut writer)?;
        let hasher = writer.into_inner().into_inner();
        let hasher = hasher.map_err(|error| error.into_error())?;
        Ok(Some(hasher.finish().1))
    }

    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

/// Removes files named `.git`.
struct RepositoryFiles;

impl Visit for RepositoryFiles {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        if file.name == OsStr::new(".git") && file.stat.kind() == Kind::Regular {
            file.parent.remove_file(file.name)?;
            return Ok(Descend::Over);
        }
        Ok(match file.stat.is_dir() {
            true => Descend::Into,
            false => Descend::Over,
        })
    }
}
