//! The paths of a derivation's outputs.

use std::collections::BTreeMap;

use super::modulo;
use super::{Derivation, Error, FixedHash};
use crate::hash::Hash;
use crate::store_path::{StoreDir, StorePath};

impl Derivation {
    /// Checks that the output paths of this derivation, which is at `path`, are the computed ones,
    /// and that its environment has them too. `resolve` returns the hash modulo of an input.
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

    /// Computes the output paths of this derivation, called `name`.
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
}
