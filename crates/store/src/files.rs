//! Trees of files that are not in the store: written as nars, and made from nars.
//!
//! They are reached by name, so nobody else may change them meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use formats::BStr;
use formats::nar::Sink;

/// Writes the files at `path` to `sink`. A file that changes meanwhile is an error.
pub fn dump(path: &Path, sink: &mut dyn Sink) -> io::Result<()> {
    // The open directories and their remaining entries, in reverse.
    let mut open: Vec<(PathBuf, Vec<OsString>)> = Vec::new();
    dump_node(path, sink, &mut open)?;
    while let Some((directory, names)) = open.last_mut() {
        match names.pop() {
            Some(name) => {
                let path = directory.join(&name);
                sink.entry(BStr::new(name.as_bytes()))?;
                dump_node(&path, sink, &mut open)?;
            }
            None => {
                sink.end_directory()?;
                open.pop();
            }
        }
    }
    Ok(())
}

fn dump_node(
    path: &Path,
    sink: &mut dyn Sink,
    open: &mut Vec<(PathBuf, Vec<OsString>)>,
) -> io::Result<()> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let metadata = path.symlink_metadata().map_err(named)?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        let mut names: Vec<OsString> = fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(named)?;
        names.sort_unstable_by(|a, b| b.cmp(a));
        open.push((path.to_owned(), names));
        sink.begin_directory()
    } else if kind.is_symlink() {
        let target = fs::read_link(path).map_err(named)?;
        sink.symlink(BStr::new(target.as_os_str().as_bytes()))
    } else if kind.is_file() {
        let mut file = File::open(path).map_err(named)?;
        let executable = metadata.permissions().mode() & 0o100 != 0;
        sink.regular(executable, metadata.len(), &mut file)
    } else {
        let reason = format!("file `{}' has an unsupported type", path.display());
        Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
    }
}

/// Creates the files of a nar, at a path that doesn't exist yet.
pub struct Restore {
    current: PathBuf,
    depth: usize,
}

impl Restore {
    /// Makes files at `path`.
    pub fn new(path: &Path) -> Restore {
        Restore {
            current: path.to_owned(),
            depth: 0,
        }
    }

    /// After a node, returns to the directory that contains it.
    fn end(&mut self) {
        if self.depth > 0 {
            self.current.pop();
        }
    }
}

impl Sink for Restore {
    fn begin_directory(&mut self) -> io::Result<()> {
        fs::create_dir(&self.current)?;
        self.depth += 1;
        Ok(())
    }

    fn entry(&mut self, name: &BStr) -> io::Result<()> {
        self.current.push(OsStr::from_bytes(name));
        Ok(())
    }

    fn end_directory(&mut self) -> io::Result<()> {
        self.depth -= 1;
        self.end();
        Ok(())
    }

    fn symlink(&mut self, target: &BStr) -> io::Result<()> {
        symlink(OsStr::from_bytes(target), &self.current)?;
        self.end();
        Ok(())
    }

    fn regular(&mut self, executable: bool, _: u64, contents: &mut dyn Read) -> io::Result<()> {
        let mode = if executable { 0o777 } else { 0o666 };
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&self.current)?;
        io::copy(contents, &mut file)?;
        file.flush()?;
        self.end();
        Ok(())
    }
}
