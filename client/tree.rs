//! Conversion between files and the nodes of a nar.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use formats::BStr;
use formats::nar::Sink;
use formats::printable::printable;

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

/// Prints the names and sizes in a nar, like `guix archive --list`.
pub struct List<W> {
    out: W,
    current: PathBuf,
    depth: usize,
}

impl<W: Write> List<W> {
    /// Prints on `out`.
    pub fn new(out: W) -> Self {
        List {
            out,
            current: PathBuf::new(),
            depth: 0,
        }
    }

    fn end(&mut self) {
        if self.depth > 0 {
            self.current.pop();
        }
    }

    /// The name as it is shown, with control characters escaped: that of the archive itself is
    /// empty, of its entries, `/NAME`.
    fn name(&self) -> String {
        let name = self.current.to_string_lossy();
        if name.is_empty() {
            String::new()
        } else {
            format!("/{}", printable(&name))
        }
    }
}

impl<W: Write> Sink for List<W> {
    fn begin_directory(&mut self) -> io::Result<()> {
        writeln!(self.out, "D {}", self.name())?;
        self.depth += 1;
        Ok(())
    }

    fn entry(&mut self, name: &BStr) -> io::Result<()> {
        self.current.push(OsString::from_vec(name.to_vec()));
        Ok(())
    }

    fn end_directory(&mut self) -> io::Result<()> {
        self.depth -= 1;
        self.end();
        Ok(())
    }

    fn symlink(&mut self, target: &BStr) -> io::Result<()> {
        let target = target.to_string();
        writeln!(self.out, "S {} -> {}", self.name(), printable(&target))?;
        self.end();
        Ok(())
    }

    fn regular(&mut self, executable: bool, size: u64, _: &mut dyn Read) -> io::Result<()> {
        let kind = if executable { "x" } else { "r" };
        writeln!(self.out, "{kind} {:<60} {size:>10} B", self.name())?;
        self.end();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use formats::nar;

    use super::*;

    #[test]
    fn round_trip() {
        let temporary = tempfile::tempdir().unwrap();
        let first = temporary.path().join("first");
        fs::create_dir_all(first.join("b/c")).unwrap();
        fs::write(first.join("b/file"), "contents").unwrap();
        fs::write(first.join("b.x"), "").unwrap();
        fs::set_permissions(first.join("b.x"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("nowhere", first.join("a")).unwrap();
        let nar = |path: &Path| {
            let mut writer = nar::Writer::new(Vec::new());
            dump(path, &mut writer).unwrap();
            writer.into_inner()
        };
        let bytes = nar(&first);
        let second = temporary.path().join("second");
        nar::read(&mut &bytes[..], &mut Restore::new(&second)).unwrap();
        assert_eq!(nar(&second), bytes);
        assert!(
            nar::read(&mut &bytes[..], &mut Restore::new(&second)).is_err(),
            "it exists"
        );

        let mut list = List::new(Vec::new());
        nar::read(&mut &bytes[..], &mut list).unwrap();
        let list = String::from_utf8(list.out).unwrap();
        let lines: Vec<_> = list.lines().map(str::trim_end).collect();
        assert_eq!(
            lines[..3],
            ["D ", "S /a -> nowhere", "D /b"].map(str::trim_end)
        );
        assert!(
            lines[4].starts_with("r /b/file ") && lines[4].ends_with(" 8 B"),
            "{list}"
        );
    }
}
