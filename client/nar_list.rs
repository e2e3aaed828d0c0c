//! Listing the contents of a nar.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use formats::BStr;
use formats::nar::Sink;
use formats::printable::printable;

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
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use formats::nar;
    use store::files::{Restore, dump};

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
