//! How a nar is compressed on a server.

use std::fmt;
use std::str::FromStr;

/// A compression method that nars are offered in, by its name in narinfos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// Not compressed.
    None,
    /// Gzip.
    Gzip,
    /// Lzip.
    Lzip,
    /// Zstandard.
    Zstd,
    /// XZ.
    Xz,
    /// Bzip2.
    Bzip2,
}

impl Compression {
    /// All methods.
    pub const ALL: [Compression; 6] = [
        Compression::None,
        Compression::Gzip,
        Compression::Lzip,
        Compression::Zstd,
        Compression::Xz,
        Compression::Bzip2,
    ];

    /// The name in narinfos.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Lzip => "lzip",
            Compression::Zstd => "zstd",
            Compression::Xz => "xz",
            Compression::Bzip2 => "bzip2",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A compression method that isn't known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression method")]
pub struct Unknown;

impl FromStr for Compression {
    type Err = Unknown;

    fn from_str(name: &str) -> Result<Compression, Unknown> {
        let known = |method: &Compression| method.name() == name;
        Compression::ALL.into_iter().find(known).ok_or(Unknown)
    }
}
