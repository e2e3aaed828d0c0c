//! Where the outputs of a derivation are.

use std::collections::BTreeMap;

use super::modulo;
use super::{Derivation, Error, FixedHash};
use crate::hash::Hash;
use crate::store_path::{StoreDir, StorePath};

impl Derivation {
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
}
