//! Store items in use by the machine's processes, found in `/proc`.
//!
//! These are the runtime roots of garbage collection, which `guix gc --list-busy` lists (Guix's
//! `guix/store/roots.scm`). Processes may end while we look, and we may not be permitted to inspect
//! those of other users: both are skipped.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bstr::ByteSlice;

/// The maximum size of a process's environment that is read, in bytes.
const ENVIRONMENT_LIMIT: u64 = 64 << 20;

/// Finds the items of the store directory (full paths, which may or may not exist) that running
/// processes refer to: as executable, working directory, open file, memory map or in an environment
/// variable.
pub fn referenced_items(store: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut items = Items::new(store);
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if entry.file_name().as_bytes().iter().all(u8::is_ascii_digit) {
            items.add_process(&entry.path());
        }
    }
    Ok(items.found)
}

struct Items {
    /// The store directory, with a trailing slash.
    prefix: Vec<u8>,
    found: BTreeSet<PathBuf>,
}

impl Items {
    fn new(store: &Path) -> Items {
        let mut prefix = store.as_os_str().as_bytes().to_vec();
        prefix.push(b'/');
        Items {
            prefix,
            found: BTreeSet::new(),
        }
    }

    /// Adds what one process uses. A process that has ended, or that we may not inspect, is
    /// skipped.
    fn add_process(&mut self, process: &Path) {
        for link in ["exe", "cwd"] {
            self.add_link(&process.join(link));
        }
        if let Ok(descriptors) = fs::read_dir(process.join("fd")) {
            for descriptor in descriptors.flatten() {
                self.add_link(&descriptor.path());
            }
        }
        if let Ok(maps) = File::open(process.join("maps")) {
            self.add_maps(BufReader::new(maps));
        }
        if let Ok(environment) = File::open(process.join("environ")) {
            let mut text = Vec::new();
            if environment
                .take(ENVIRONMENT_LIMIT)
                .read_to_end(&mut text)
                .is_ok()
            {
                self.add_text(&text);
            }
        }
    }

    fn add_link(&mut self, link: &Path) {
        if let Ok(target) = fs::read_link(link) {
            self.add_file(target.as_os_str().as_bytes());
        }
    }

    /// Lines are `ADDRESSES MODE OFFSET DEVICE INODE   FILE`.
    fn add_maps(&mut self, mut maps: impl BufRead) {
        let mut line = Vec::new();
        while maps
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            if let Some(start) = line.find_byte(b'/') {
                self.add_file(line[start..].trim_ascii_end());
            }
            line.clear();
        }
    }

    /// Adds the item that a file is, or is inside of, if the file is in the store.
    fn add_file(&mut self, file: &[u8]) {
        if let Some(rest) = file.strip_prefix(self.prefix.as_slice()) {
            let name = rest.split_once_str("/").map_or(rest, |(name, _)| name);
            let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
            self.add_item(name);
        }
    }

    /// Adds everything in a text that looks like a store item: 32 characters of hash, `-`, name.
    fn add_text(&mut self, text: &[u8]) {
        let starts: Vec<usize> = text
            .find_iter(&self.prefix)
            .map(|at| at + self.prefix.len())
            .collect();
        for start in starts {
            let rest = &text[start..];
            let hash = rest
                .iter()
                .take(32)
                .take_while(|c| matches!(c, b'0'..=b'9' | b'a'..=b'z'));
            if hash.count() != 32 || rest.get(32) != Some(&b'-') {
                continue;
            }
            let name = rest[33..].iter().take_while(|c| {
                c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'+' | b'-')
            });
            let length = name.count();
            if length > 0 {
                self.add_item(&rest[..33 + length]);
            }
        }
    }

    fn add_item(&mut self, name: &[u8]) {
        if !name.is_empty() {
            let path = [self.prefix.as_slice(), name].concat();
            self.found
                .insert(path.to_path().expect("Unix file names are bytes").into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Spawn;

    #[test]
    fn items_are_found_in_every_place() {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().canonicalize().unwrap();
        let item = |name: &str| store.join(format!("{}-{name}", "0".repeat(32)));
        for name in ["exe", "cwd", "fd"] {
            fs::create_dir(item(name)).unwrap();
        }
        let program = item("exe").join("sleep");
        fs::copy("/bin/sleep", &program).unwrap();
        fs::write(item("fd").join("file"), "").unwrap();
        let variable = format!(
            "x:{}/bin:{}/bin:/nothing",
            item("env1").display(),
            item("e-2").display()
        );
        let child = Spawn::new(&program)
            .arg("1000")
            .current_dir(item("cwd"))
            .fd(File::open(item("fd").join("file")).unwrap(), 7)
            .env("SOME_PATH", variable)
            .spawn()
            .unwrap();
        let found = referenced_items(&store).unwrap();
        let expected: BTreeSet<PathBuf> = ["exe", "cwd", "fd", "env1", "e-2"]
            .map(item)
            .into_iter()
            .collect();
        assert_eq!(found, expected);
        drop(child);
        assert!(referenced_items(&store).unwrap().is_empty());
    }

    #[test]
    fn maps_and_texts_are_read_as_written() {
        let mut items = Items::new(Path::new("/gnu/store"));
        items.add_maps(
            &b"7f00-7f01 r-xp 00000000 fe:00 123   /gnu/store/a-b/lib/c.so\n\
               7f00-7f01 r-xp 00000000 fe:00 123   /gnu/store/d-e (deleted)\n\
               7f00-7f01 rw-p 00000000 00:00 0     [heap]\n\
               7f00-7f01 r-xp 00000000 fe:00 123   /usr/gnu/store/no\n"[..],
        );
        items.add_text(b"A=/gnu/store/short-no\0B=/gnu/store/");
        items.add_text(b"C=/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-n_+.m:\xff");
        let found: Vec<_> = items.found.iter().map(|p| p.to_str().unwrap()).collect();
        let third = "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-n_+.m";
        assert_eq!(found, [third, "/gnu/store/a-b", "/gnu/store/d-e"]);
    }
}
