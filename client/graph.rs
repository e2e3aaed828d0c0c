//! The graph of references between items.

use std::collections::BTreeSet;

use formats::StorePath;
use formats::graph::{DepthFirst, Step, Worklist};
use protocol::client::{Connection, Error};

/// `paths` and their closure, each after its references.
pub fn closure(
    daemon: &mut Connection,
    paths: impl IntoIterator<Item = StorePath>,
) -> Result<Vec<StorePath>, Error> {
    let mut sorted = Vec::new();
    let mut walk = DepthFirst::new(paths);
    while let Some(step) = walk.next() {
        match step {
            Step::Found(path) => {
                let references = daemon.query_references(&path)?;
                walk.enter(path, (), references);
            }
            Step::Leave(path, ()) => sorted.push(path),
            // An item that refers to itself.
            Step::Cycle(_) => {}
        }
    }
    Ok(sorted)
}

/// Only `paths`, each after those that it refers to, directly or indirectly.
pub fn sorted(
    daemon: &mut Connection,
    paths: &BTreeSet<StorePath>,
) -> Result<Vec<StorePath>, Error> {
    let mut all = closure(daemon, paths.iter().cloned())?;
    all.retain(|path| paths.contains(path));
    Ok(all)
}

/// `path` and its closure, in reverse order, as `guix gc --requisites` lists them.
pub fn requisites(daemon: &mut Connection, path: StorePath) -> Result<Vec<StorePath>, Error> {
    let mut found = Vec::new();
    let mut worklist = Worklist::new([path]);
    while let Some(path) = worklist.next() {
        worklist.extend(daemon.query_references(&path)?);
        found.push(path);
    }
    found.reverse();
    Ok(found)
}
