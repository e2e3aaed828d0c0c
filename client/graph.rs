//! The graph of references between items.

use std::collections::{BTreeSet, VecDeque};

use formats::StorePath;
use protocol::client::{Connection, Error};

/// `paths` and all they refer to, each after what it refers to.
pub fn closure(
    daemon: &mut Connection,
    paths: impl IntoIterator<Item = StorePath>,
) -> Result<Vec<StorePath>, Error> {
    let mut sorted = Vec::new();
    let mut visited = BTreeSet::new();
    for path in paths {
        if !visited.insert(path.clone()) {
            continue;
        }
        let references = daemon.query_references(&path)?.into_iter();
        // Items whose references are being visited, innermost last.
        let mut open = vec![(path, references)];
        while let Some((_, references)) = open.last_mut() {
            match references.next() {
                Some(path) if visited.insert(path.clone()) => {
                    let references = daemon.query_references(&path)?.into_iter();
                    open.push((path, references));
                }
                Some(_) => {}
                None => sorted.extend(open.pop().map(|(path, _)| path)),
            }
        }
    }
    Ok(sorted)
}

/// `paths` alone, each after those of them that it refers to, directly or not.
pub fn sorted(
    daemon: &mut Connection,
    paths: &BTreeSet<StorePath>,
) -> Result<Vec<StorePath>, Error> {
    let mut all = closure(daemon, paths.iter().cloned())?;
    all.retain(|path| paths.contains(path));
    Ok(all)
}

/// `path` and all it refers to, the farthest first, as `guix gc --requisites` lists them.
pub fn requisites(daemon: &mut Connection, path: StorePath) -> Result<Vec<StorePath>, Error> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::from([path.clone()]);
    let mut queue = VecDeque::from([path]);
    while let Some(path) = queue.pop_front() {
        for reference in daemon.query_references(&path)? {
            if seen.insert(reference.clone()) {
                queue.push_back(reference);
            }
        }
        found.push(path);
    }
    found.reverse();
    Ok(found)
}
