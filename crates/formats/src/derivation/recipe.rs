//! Making derivations.

use std::collections::{BTreeMap, BTreeSet};

use bstr::BString;

use super::{Derivation, EXTENSION, Error, FixedHash, Output};
use crate::hash::Hash;
use crate::store_path::{StoreDir, StorePath};

/// A derivation whose output paths are not computed yet.
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
    /// See [`Derivation::environment`]; a variable is added for each output.
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
        // A placeholder: the paths are left out of the text that is hashed.
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
