//! The hash of a derivation modulo fixed outputs, from which its output paths are computed.
//!
//! A fixed-output derivation is hashed as its output's hash and path, however the output is made.
//! Any other is hashed as its text, with the file name of each input replaced by that input's hash.

use std::collections::{BTreeMap, HashMap};

use super::{Derivation, Error};
use crate::graph::{DepthFirst, Step};
use crate::hash::Hash;
use crate::store_path::StorePath;

impl Derivation {
    /// The hash that stands for this derivation in derivations that depend on it; two derivations
    /// with the same fixed output have the same hash. `resolve` returns the hash of an input; see
    /// [`ModuloHashes`].
    pub fn hash_modulo(
        &self,
        resolve: impl FnMut(&StorePath) -> Result<Hash, Error>,
    ) -> Result<Hash, Error> {
        hash(self, false, resolve)
    }
}

/// The hash of `derivation`, given the hashes of its inputs. With `blank`, output paths are left
/// out.
pub(super) fn hash(
    derivation: &Derivation,
    blank: bool,
    mut resolve: impl FnMut(&StorePath) -> Result<Hash, Error>,
) -> Result<Hash, Error> {
    if derivation.is_fixed_output() {
        let out = &derivation.outputs["out"];
        let path = if blank { "" } else { out.path.as_str() };
        return Ok(Hash::sha256(format!(
            "fixed:out:{}:{}:{path}",
            out.algorithm, out.hash
        )));
    }
    // If inputs have the same hash, the outputs of the last one count, as in Guix.
    let mut inputs = BTreeMap::new();
    for (path, wanted) in &derivation.inputs {
        inputs.insert(resolve(path)?.hex(), wanted);
    }
    let inputs: Vec<_> = inputs
        .iter()
        .map(|(hex, wanted)| (hex.as_str(), *wanted))
        .collect();
    Ok(Hash::sha256(derivation.print(blank, &inputs)))
}

/// A cache of the hashes of derivations. Computing them doesn't recurse: only memory limits the
/// depth of the graph.
#[derive(Debug, Default, Clone)]
pub struct ModuloHashes {
    known: HashMap<StorePath, Hash>,
}

impl ModuloHashes {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// The hash of the derivation at `path`, if it is known.
    pub fn known(&self, path: &StorePath) -> Option<Hash> {
        self.known.get(path).copied()
    }

    /// Stores the hash of the derivation at `path`.
    pub fn insert(&mut self, path: StorePath, hash: Hash) {
        self.known.insert(path, hash);
    }

    /// The hash of the derivation at `path`. `load` reads it and those of its inputs whose hashes
    /// aren't known yet.
    pub fn get<E>(
        &mut self,
        path: &StorePath,
        mut load: impl FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<Hash, Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut load = |path: &StorePath| load(path).map_err(|error| Error::Resolve(error.into()));
        if let Some(hash) = self.known(path) {
            return Ok(hash);
        }
        let mut walk = DepthFirst::new([path.clone()]);
        while let Some(step) = walk.next() {
            match step {
                Step::Found(path) if self.known.contains_key(&path) => {}
                Step::Found(path) => {
                    let derivation = load(&path)?;
                    let inputs = needed_inputs(&derivation);
                    walk.enter(path, derivation, inputs);
                }
                Step::Leave(path, derivation) => {
                    let hash = hash(&derivation, false, |input| match self.known.get(input) {
                        Some(hash) => Ok(*hash),
                        None => Err(Error::Cycle(input.clone())),
                    })?;
                    self.known.insert(path, hash);
                }
                Step::Cycle(path) => return Err(Error::Cycle(path)),
            }
        }
        self.known
            .get(path)
            .copied()
            .ok_or_else(|| Error::Cycle(path.clone()))
    }
}

/// The inputs whose hashes go into that of `derivation`.
fn needed_inputs(derivation: &Derivation) -> Vec<StorePath> {
    if derivation.is_fixed_output() {
        Vec::new()
    } else {
        derivation.inputs.keys().cloned().collect()
    }
}
