//! `exportReferencesGraph`: files that tell a builder the references between items
//! (`doc/spec/build-environment.md`, section 10).

use std::collections::BTreeSet;

use bstr::ByteSlice;
use store::Closure;

use super::attempt_error::AttemptError;
use super::job::Job;
use super::outcome::Failure;

fn refuse<T>(reason: String) -> Result<T, AttemptError> {
    Err(AttemptError::Failed(Failure::InputRejected, reason))
}

/// The names and contents of the files.
pub(super) fn files(job: &Job) -> Result<Vec<(String, Vec<u8>)>, AttemptError> {
    let words: Vec<&[u8]> = job.words("exportReferencesGraph").collect();
    if !words.len().is_multiple_of(2) {
        let all = words.join(&b' ').to_str_lossy().into_owned();
        return refuse(format!(
            "odd number of tokens in `exportReferencesGraph': `{all}'"
        ));
    }
    let store = &job.engine.store;
    let mut files = Vec::new();
    for pair in words.chunks_exact(2) {
        let (name, item) = (pair[0].to_str_lossy(), pair[1].as_bstr());
        if let Err(error) = store.dir().check_name(&name) {
            return refuse(error.to_string());
        }
        let Ok(item) = store.dir().item_of(item) else {
            return refuse(format!(
                "`exportReferencesGraph' contains a non-store path `{item}'"
            ));
        };
        if !store.is_valid(&item)? {
            return refuse(format!(
                "`exportReferencesGraph' contains an invalid path `{item}'"
            ));
        }
        let mut paths: BTreeSet<_> = store
            .compute_closure([&item], Closure::default())?
            .into_iter()
            .collect();
        let mut outputs = BTreeSet::new();
        for path in paths.iter().filter(|path| path.is_derivation()) {
            outputs.extend(store.read_derivation(path)?.output_paths().cloned());
        }
        paths.extend(store.compute_closure(&outputs, Closure::default())?);
        let mut text = String::new();
        for path in &paths {
            let references = store.query_references(path)?;
            // The empty line stands for the deriver, which is left out.
            text += &format!("{path}\n\n{}\n", references.len());
            for reference in references {
                text += &format!("{reference}\n");
            }
        }
        files.push((name.into_owned(), text.into_bytes()));
    }
    Ok(files)
}
