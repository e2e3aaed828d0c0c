//! The hash of a derivation modulo fixed outputs: what names its outputs.
//!
//! A derivation with a fixed output hashes to that output's hash and path, however it is got.
//! Any other hashes to its text, with every input's file name replaced by that input's hash.

use std::collections::{BTreeMap, HashMap};

use super::{Derivation, Error};
use crate::graph::{DepthFirst, Step};
use crate::hash::Hash;
use crate::store_path::StorePath;

impl Derivation {
    /// The hash that stands for this derivation in those that need it: the same for two ways to
    /// get the same fixed output. `resolve` gives that of an input; see [`ModuloHashes`].
    pub fn hash_modulo(
        &self,
        resolve: impl FnMut(&StorePath) -> Result<Hash, Error>,
    ) -> Result<Hash, Error> {
        hash(self, false, resolve)
    }
}

/// The hash of `derivation`, given those of its inputs; with `blank`, without output paths.
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
    // Of inputs with the same hash, the last one's outputs count.
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

/// The hashes of derivations, each computed once. Not recursive: the depth of a graph of
/// derivations is limited by memory alone.
#[derive(Debug, Default, Clone)]
pub struct ModuloHashes {
    known: HashMap<StorePath, Hash>,
}

impl ModuloHashes {
    /// Knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The hash of the derivation at `path`, if it is known.
    pub fn known(&self, path: &StorePath) -> Option<Hash> {
        self.known.get(path).copied()
    }

    /// Notes the hash of the derivation at `path`.
    pub fn insert(&mut self, path: StorePath, hash: Hash) {
        self.known.insert(path, hash);
    }

    /// The hash of the derivation at `path`; `load` reads it and those it needs that aren't
    /// known yet.
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

/// The inputs whose hashes are needed for that of `derivation`.
fn needed_inputs(derivation: &Derivation) -> Vec<StorePath> {
    if derivation.is_fixed_output() {
        Vec::new()
    } else {
        derivation.inputs.keys().cloned().collect()
    }
}
