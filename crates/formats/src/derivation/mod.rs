//! Derivations: the `.drv` files that describe how something is built.
//!
//! The file's text is read and written in `text.rs`. The hashes that output paths are computed from
//! are in `modulo.rs`, the output paths in `outputs.rs`, and `recipe.rs` makes new derivations. The
//! format is described in `doc/spec/store-formats.md`.

mod modulo;
mod outputs;
mod recipe;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use bstr::{BString, ByteSlice};

use crate::hash::{self, Algorithm, Hash};
use crate::store_path::{self, StorePath};

pub use modulo::ModuloHashes;
pub use recipe::Recipe;

/// The extension of derivations' file names.
pub const EXTENSION: &str = ".drv";

/// The largest derivation that is read, in bytes; real ones are far smaller.
pub const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// How many bytes of memory each byte of a derivation's text may take while it is parsed: one of
/// many short strings takes the most.
pub const PARSING_FACTOR: u64 = 12;

/// What a string takes in memory besides its characters, with its place in a set or map, in bytes.
const STRING_OVERHEAD: usize = 64;

/// Why a derivation could not be read or is invalid.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the text of a derivation.
    #[error("{reason} at byte {position}")]
    Syntax {
        /// What is wrong.
        reason: &'static str,
        /// Its offset in the text, in bytes.
        position: usize,
    },
    /// It contains a path that isn't a store path.
    #[error("bad path `{0}' in derivation")]
    Path(BString),
    /// An output path isn't the one that the derivation's contents determine.
    #[error("derivation `{derivation}' has incorrect output `{found}', should be `{expected}'")]
    Output {
        /// The derivation.
        derivation: StorePath,
        /// The output path that it declares.
        found: StorePath,
        /// The output path that was computed.
        expected: StorePath,
    },
    /// A fixed output's algorithm or hash.
    #[error(transparent)]
    Hash(#[from] hash::Error),
    /// A name that outputs or derivations can't have.
    #[error(transparent)]
    Name(#[from] store_path::Error),
    /// A file name without the extension `.drv`.
    #[error("`{0}' is not the name of a derivation")]
    NotADerivation(StorePath),
    /// Derivations that depend on each other.
    #[error("derivation `{0}' depends on itself")]
    Cycle(StorePath),
    /// Another derivation that was needed could not be read.
    #[error("{0}")]
    Resolve(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// One output of a derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its store path.
    pub path: StorePath,
    /// For a fixed output, its algorithm, with `r:` before it if the hash is of the nar.
    pub algorithm: String,
    /// For a fixed output, its hash in hexadecimal.
    pub hash: String,
}

/// The hash that a fixed output must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedHash {
    /// Whether the hash is of the nar rather than of the file's bytes.
    pub recursive: bool,
    /// The hash.
    pub hash: Hash,
}

impl Output {
    /// The hash that this output must have; `None` if it isn't fixed.
    pub fn fixed_hash(&self) -> Result<Option<FixedHash>, hash::Error> {
        if self.hash.is_empty() {
            return Ok(None);
        }
        let (recursive, name) = match self.algorithm.strip_prefix("r:") {
            Some(name) => (true, name),
            None => (false, self.algorithm.as_str()),
        };
        let algorithm: Algorithm = name.parse()?;
        if self.hash.len() != algorithm.size() * 2 {
            return Err(hash::Error::Size {
                text: self.hash.clone(),
                algorithm,
            });
        }
        Ok(Some(FixedHash {
            recursive,
            hash: Hash::parse(algorithm, &self.hash)?,
        }))
    }
}

/// A derivation: what to build, from what, and how.
///
/// ```
/// use formats::{Derivation, StoreDir};
///
/// let store = StoreDir::new("/gnu/store")?;
/// let text = br#"Derive([("out","/gnu/store/sisgk9j4948fri8b0i2r2wmqq5s94294-simple","","")],[],[],"x86_64-linux","builtin:download",[],[("name","simple")])"#;
/// let derivation = Derivation::parse(text, &store)?;
/// assert_eq!(derivation.variable("name").unwrap(), "simple");
/// assert_eq!(derivation.to_bytes(), text);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// What is built, by output name.
    pub outputs: BTreeMap<String, Output>,
    /// The derivations needed, and which of their outputs are needed.
    pub inputs: BTreeMap<StorePath, BTreeSet<String>>,
    /// The other store items needed.
    pub sources: BTreeSet<StorePath>,
    /// The system to build on, such as `x86_64-linux`.
    pub system: BString,
    /// The program that builds, or `builtin:NAME`.
    pub builder: BString,
    /// Its arguments.
    pub arguments: Vec<BString>,
    /// Its environment.
    pub environment: BTreeMap<BString, BString>,
}

impl Derivation {
    /// Whether this is a fixed-output derivation: one output, `out`, whose hash is given.
    pub fn is_fixed_output(&self) -> bool {
        self.outputs.len() == 1
            && self
                .outputs
                .get("out")
                .is_some_and(|out| !out.hash.is_empty())
    }

    /// The name of the builtin, if the daemon itself is the builder.
    pub fn builtin(&self) -> Option<&bstr::BStr> {
        self.builder
            .strip_prefix(b"builtin:")
            .map(ByteSlice::as_bstr)
    }

    /// The value of the environment variable `name`.
    pub fn variable(&self, name: &str) -> Option<&bstr::BStr> {
        self.environment
            .get(bstr::BStr::new(name))
            .map(|value| value.as_bstr())
    }

    /// The paths of its outputs.
    pub fn output_paths(&self) -> impl Iterator<Item = &StorePath> {
        self.outputs.values().map(|output| &output.path)
    }

    /// What the `.drv` file refers to: sources and input derivations, but not outputs.
    pub fn references(&self) -> BTreeSet<StorePath> {
        self.sources
            .iter()
            .chain(self.inputs.keys())
            .cloned()
            .collect()
    }

    /// About how much memory it takes, in bytes.
    pub fn size_in_memory(&self) -> u64 {
        let outputs = self.outputs.iter().flat_map(|(name, output)| {
            let path = output.path.as_str().len();
            [name.len(), path, output.algorithm.len(), output.hash.len()]
        });
        let inputs = self.inputs.iter().flat_map(|(path, names)| {
            std::iter::once(path.as_str().len()).chain(names.iter().map(String::len))
        });
        let sources = self.sources.iter().map(|path| path.as_str().len());
        let variables = self.environment.iter();
        let variables = variables.flat_map(|(name, value)| [name.len(), value.len()]);
        let arguments = self.arguments.iter().map(|argument| argument.len());
        [self.system.len(), self.builder.len()]
            .into_iter()
            .chain(outputs)
            .chain(inputs)
            .chain(sources)
            .chain(variables)
            .chain(arguments)
            .map(|length| (length + STRING_OVERHEAD) as u64)
            .sum()
    }

    /// The name of the derivation at `path`, from which its outputs' names are made.
    pub fn name_of(path: &StorePath) -> Result<&str, Error> {
        path.name()
            .strip_suffix(EXTENSION)
            .ok_or_else(|| Error::NotADerivation(path.clone()))
    }
}

#[cfg(test)]
mod tests;
