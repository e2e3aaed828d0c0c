//! `exportReferencesGraph`: files that describe the references between items to a builder
//! (`doc/spec/build-environment.md`, section 10).
//!
//! A derivation may request thousands of files, each as large as the number of items in the store.
//! So they are streamed to disk, and the build's [`Deadline`] applies.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bstr::ByteSlice;
use formats::store_path::StorePath;
use store::Closure;

use super::attempt_error::AttemptError;
use super::deadline::Deadline;
use super::files::failed;
use super::job::Job;
use super::outcome::Failure;

fn refuse<T>(reason: String) -> Result<T, AttemptError> {
    Err(AttemptError::Failed(Failure::InputRejected, reason))
}

/// A file to write: its name, and the item that it describes.
pub(super) struct Graph {
    name: String,
    item: StorePath,
}

/// The files that the derivation requests.
pub(super) fn wanted(job: &Job) -> Result<Vec<Graph>, AttemptError> {
    let words: Vec<&[u8]> = job.words("exportReferencesGraph").collect();
    if words.len() % 2 != 0 {
        let all = words.join(&b' ').to_str_lossy().into_owned();
        return refuse(format!(
            "odd number of tokens in `exportReferencesGraph': `{all}'"
        ));
    }
    let store = &job.engine.store;
    let mut graphs = Vec::new();
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
        graphs.push(Graph {
            name: name.into_owned(),
            item,
        });
    }
    Ok(graphs)
}

/// Writes the files to the build directory.
pub(super) fn write(
    job: &Job,
    graphs: &[Graph],
    directory: &Path,
    deadline: &Deadline<'_>,
) -> Result<(), AttemptError> {
    for graph in graphs {
        let path = directory.join(&graph.name);
        let writing = |e| failed(format!("writing `{}'", path.display()), e);
        let mut file = BufWriter::new(File::create(&path).map_err(writing)?);
        for path in described(job, &graph.item, deadline)? {
            deadline.check()?;
            let references = job.engine.store.query_references(&path)?;
            // The empty line stands for the deriver, which is omitted.
            writeln!(file, "{path}\n\n{}", references.len()).map_err(writing)?;
            for reference in references {
                writeln!(file, "{reference}").map_err(writing)?;
            }
        }
        file.flush().map_err(writing)?;
    }
    Ok(())
}

/// The items in a file: the closure of `item` and, for derivations in it, of their outputs.
fn described(
    job: &Job,
    item: &StorePath,
    deadline: &Deadline<'_>,
) -> Result<BTreeSet<StorePath>, AttemptError> {
    let store = &job.engine.store;
    let mut paths = store.compute_closure([item], Closure::default())?;
    let mut outputs = BTreeSet::new();
    for path in paths.iter().filter(|path| path.is_derivation()) {
        deadline.check()?;
        outputs.extend(store.read_derivation(path)?.output_paths().cloned());
    }
    paths.extend(store.compute_closure(&outputs, Closure::default())?);
    Ok(paths)
}
