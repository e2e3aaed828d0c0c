//! Derivations: the `.drv` files that say how something is built.
//!
//! [`parse`](Derivation::parse) and [`to_bytes`](Derivation::to_bytes) are in `text.rs`, the
//! hashes that outputs are named after in `modulo.rs`. Documented in Guix's
//! `nix/libstore/derivations.cc`.

mod modulo;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use bstr::{BString, ByteSlice};

use crate::hash::{self, Algorithm, Hash};
use crate::store_path::{self, StoreDir, StorePath};

pub use modulo::ModuloHashes;

/// What derivations' file names end in.
pub const EXTENSION: &str = ".drv";

/// The largest derivation that is worth reading: the real ones stay far below.
pub const MAX_SIZE: u64 = 256 * 1024 * 1024;

/// Why a derivation could not be read, or isn't what it has to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the text of a derivation.
    #[error("{reason} at byte {position}")]
    Syntax {
        /// What is wrong.
        reason: &'static str,
        /// Where.
        position: usize,
    },
    /// A path in it that is no store path.
    #[error("bad path `{0}' in derivation")]
    Path(BString),
    /// An output that isn't where it has to be.
    #[error("derivation `{derivation}' has incorrect output `{found}', should be `{expected}'")]
    Output {
        /// The derivation.
        derivation: StorePath,
        /// Where it says its output is.
        found: StorePath,
        /// Where that output has to be.
        expected: StorePath,
    },
    /// A fixed output's algorithm or hash.
    #[error(transparent)]
    Hash(#[from] hash::Error),
    /// A name that outputs or derivations can't have.
    #[error(transparent)]
    Name(#[from] store_path::Error),
    /// A file name that doesn't end in `.drv`.
    #[error("`{0}' is not the name of a derivation")]
    NotADerivation(StorePath),
    /// Derivations that depend on each other.
    #[error("derivation `{0}' depends on itself")]
    Cycle(StorePath),
    /// Another derivation that was needed could not be had.
    #[error("{0}")]
    Resolve(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// One output of a derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it will be.
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

/// How something is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// What is built, by output name.
    pub outputs: BTreeMap<String, Output>,
    /// The derivations needed, and which of their outputs.
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
    /// Whether the result is known beforehand by its hash: one output, `out`, with a hash.
    pub fn is_fixed_output(&self) -> bool {
        self.outputs.len() == 1
            && self
                .outputs
                .get("out")
                .is_some_and(|out| !out.hash.is_empty())
    }

    /// Whether the daemon builds it by itself, and the name it has there.
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

    /// Where its outputs are.
    pub fn output_paths(&self) -> impl Iterator<Item = &StorePath> {
        self.outputs.values().map(|output| &output.path)
    }

    /// What the `.drv` file refers to: sources and input derivations, but no outputs.
    pub fn references(&self) -> BTreeSet<StorePath> {
        self.sources
            .iter()
            .chain(self.inputs.keys())
            .cloned()
            .collect()
    }

    /// The name that outputs of the derivation at `path` are named after.
    pub fn name_of(path: &StorePath) -> Result<&str, Error> {
        path.name()
            .strip_suffix(EXTENSION)
            .ok_or_else(|| Error::NotADerivation(path.clone()))
    }

    /// Checks that every output of this derivation, which is at `path`, is where it has to be,
    /// and that the environment says so too. `resolve` gives the hash modulo of an input.
    pub fn check_outputs(
        &self,
        path: &StorePath,
        store: &StoreDir,
        resolve: impl FnMut(&StorePath) -> Result<Hash, Error>,
    ) -> Result<(), Error> {
        let expected = self.compute_output_paths(Self::name_of(path)?, store, resolve)?;
        for (id, output) in &self.outputs {
            let expected = &expected[id];
            let variable = self.variable(id);
            if output.path != *expected
                || variable.is_none_or(|value| value != expected.as_str().as_bytes())
            {
                return Err(Error::Output {
                    derivation: path.clone(),
                    found: output.path.clone(),
                    expected: expected.clone(),
                });
            }
        }
        Ok(())
    }

    /// Where the outputs of a derivation like this, called `name`, have to be.
    pub fn compute_output_paths(
        &self,
        name: &str,
        store: &StoreDir,
        resolve: impl FnMut(&StorePath) -> Result<Hash, Error>,
    ) -> Result<BTreeMap<String, StorePath>, Error> {
        if self.is_fixed_output() {
            let fixed = self.outputs["out"].fixed_hash()?;
            if let Some(FixedHash { recursive, hash }) = fixed {
                let path = store.fixed_output_path(name, recursive, &hash)?;
                return Ok([("out".to_owned(), path)].into());
            }
        }
        let hash = modulo::hash(self, true, resolve)?;
        self.outputs
            .keys()
            .map(|id| Ok((id.clone(), store.output_path(id, &hash, name)?)))
            .collect()
    }

    /// The hash that stands for this derivation in those that need it: the same for two ways to
    /// get the same fixed output. `resolve` gives that of an input; see [`ModuloHashes`].
    pub fn hash_modulo(
        &self,
        resolve: impl FnMut(&StorePath) -> Result<Hash, Error>,
    ) -> Result<Hash, Error> {
        modulo::hash(self, false, resolve)
    }
}

/// A derivation whose output paths are yet to be computed.
#[derive(Debug, Clone, Default)]
pub struct Recipe {
    /// The outputs, and the hash of a fixed one.
    pub outputs: BTreeMap<String, Option<FixedHash>>,
    /// See [`Derivation::inputs`].
    pub inputs: BTreeMap<StorePath, BTreeSet<String>>,
    /// See [`Derivation::sources`].
    pub sources: BTreeSet<StorePath>,
    /// See [`Derivation::system`].
    pub system: BString,
    /// See [`Derivation::builder`].
    pub builder: BString,
    /// See [`Derivation::arguments`].
    pub arguments: Vec<BString>,
    /// See [`Derivation::environment`]; a variable for each output is added.
    pub environment: BTreeMap<BString, BString>,
}

impl Recipe {
    /// The derivation called `name` (without `.drv`), and the path of its `.drv` file.
    pub fn instantiate(
        self,
        name: &str,
        store: &StoreDir,
        resolve: impl FnMut(&StorePath) -> Result<Hash, Error>,
    ) -> Result<(Derivation, StorePath), Error> {
        // Any path will do until the right ones are known: they aren't hashed.
        let unknown = store.join("unknown")?;
        let output = |(id, fixed): (String, Option<FixedHash>)| {
            let (algorithm, hash) = match fixed {
                Some(FixedHash { recursive, hash }) => {
                    let prefix = if recursive { "r:" } else { "" };
                    (format!("{prefix}{}", hash.algorithm()), hash.hex())
                }
                None => Default::default(),
            };
            (
                id,
                Output {
                    path: unknown.clone(),
                    algorithm,
                    hash,
                },
            )
        };
        let mut derivation = Derivation {
            outputs: self.outputs.into_iter().map(output).collect(),
            inputs: self.inputs,
            sources: self.sources,
            system: self.system,
            builder: self.builder,
            arguments: self.arguments,
            environment: self.environment,
        };
        for (id, path) in derivation.compute_output_paths(name, store, resolve)? {
            derivation
                .environment
                .insert(id.as_str().into(), path.as_str().into());
            if let Some(output) = derivation.outputs.get_mut(&id) {
                output.path = path;
            }
        }
        let file_name = format!("{name}{EXTENSION}");
        let contents = Hash::sha256(derivation.to_bytes());
        let path = store.text_path(&file_name, &contents, &derivation.references())?;
        Ok((derivation, path))
    }
}

#[cfg(test)]
mod tests;
