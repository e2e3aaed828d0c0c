//! What the daemon is told, on descriptor 4.
//!
//! The daemon takes what it reads at once for a whole status, so that each is one write.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};

use anyhow::{Context, bail};
use formats::hash::Hash;
use formats::store_path::StorePath;
use substitutes::Preference;
use substitutes::lookup::Found;

/// The descriptor.
const NUMBER: i32 = 4;

/// How fetching an item ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Status {
    /// It is there, and its nar has this hash and size.
    Success { hash: Hash, nar_size: u64 },
    /// Nobody delivers it.
    NotFound,
    /// Whoever delivers it delivers something else.
    HashMismatch { expected: Hash, actual: Hash },
}

impl Status {
    fn line(&self) -> String {
        match self {
            Status::Success { hash, nar_size } => {
                format!(
                    "success {}:{} {nar_size}\n",
                    hash.algorithm(),
                    hash.base32()
                )
            }
            Status::NotFound => "not-found\n".to_owned(),
            Status::HashMismatch { expected, actual } => format!(
                "hash-mismatch {} {} {}\n",
                expected.algorithm(),
                expected.base32(),
                actual.base32()
            ),
        }
    }
}

/// Descriptor 4.
pub struct Replies(File);

impl Replies {
    /// Takes it; the daemon has opened it.
    pub fn take() -> anyhow::Result<Replies> {
        let file = system::pipe::inherited(NUMBER).context("cannot take descriptor 4")?;
        match file {
            Some(file) => Ok(Replies(file.into())),
            None => bail!("descriptor 4 is closed; the daemon starts this program, not people"),
        }
    }

    /// The same, to find out whether somebody still reads it.
    pub fn reader(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// Says which items are available.
    pub fn have(&mut self, found: &Found) -> io::Result<()> {
        let mut text = String::new();
        for path in found.keys() {
            let _ = writeln!(text, "{path}");
        }
        self.write(text + "\n")
    }

    /// Says what was found of these items.
    pub fn info(&mut self, paths: &[StorePath], found: &Found) -> io::Result<()> {
        let mut text = String::new();
        let mut told = std::collections::HashSet::new();
        for path in paths {
            let Some(choice) = found.get(path).filter(|_| told.insert(path)) else {
                continue;
            };
            let believed = &choice.believed;
            let deriver = believed.deriver().map(ToString::to_string);
            let _ = writeln!(text, "{path}\n{}", deriver.unwrap_or_default());
            let _ = writeln!(text, "{}", believed.references().len());
            for reference in believed.references() {
                let _ = writeln!(text, "{reference}");
            }
            let download_size = choice.download_size(Preference::default());
            let _ = writeln!(text, "{download_size}\n{}", believed.nar_size());
        }
        self.write(text + "\n")
    }

    /// Says how fetching an item ended.
    pub fn status(&mut self, status: &Status) -> io::Result<()> {
        self.write(status.line())
    }

    fn write(&mut self, text: String) -> io::Result<()> {
        self.0.write_all(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses() {
        let (a, b) = (Hash::sha256("a"), Hash::sha256("b"));
        let nar_size = 12;
        assert_eq!(
            Status::Success { hash: a, nar_size }.line(),
            format!("success sha256:{} 12\n", a.base32())
        );
        assert_eq!(Status::NotFound.line(), "not-found\n");
        let (expected, actual) = (a, b);
        assert_eq!(
            Status::HashMismatch { expected, actual }.line(),
            format!("hash-mismatch sha256 {} {}\n", a.base32(), b.base32())
        );
    }
}
