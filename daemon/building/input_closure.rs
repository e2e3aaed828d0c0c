//! Everything that is visible to a derivation's builder.

use std::collections::BTreeSet;
use std::sync::Arc;
use system::sync::Mutex;

use formats::derivation::Derivation;
use formats::store_path::StorePath;
use store::{Closure, Store};

use crate::request_error::RequestError;

/// The closure of a derivation's inputs, computed once, on first use, when the inputs are valid.
#[derive(Default)]
pub(super) struct InputClosure(Mutex<Option<Arc<BTreeSet<StorePath>>>>);

impl InputClosure {
    /// The closure of the inputs of `derivation`, whose file is `path`.
    pub(super) fn get(
        &self,
        store: &Store,
        path: &StorePath,
        derivation: &Derivation,
    ) -> Result<Arc<BTreeSet<StorePath>>, RequestError> {
        let mut known = self.0.lock();
        if let Some(closure) = &*known {
            return Ok(closure.clone());
        }
        let mut start = derivation.sources.clone();
        for (input_path, names) in &derivation.inputs {
            let input = store.read_derivation(input_path)?;
            for name in names {
                let Some(output) = input.outputs.get(name) else {
                    return Err(RequestError::new(format!(
                        "derivation `{path}' requires non-existent output `{name}' from input derivation `{input_path}'"
                    )));
                };
                start.insert(output.path.clone());
            }
        }
        let closure = Arc::new(store.compute_closure(&start, Closure::default())?);
        *known = Some(closure.clone());
        Ok(closure)
    }
}
