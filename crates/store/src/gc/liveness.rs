//! Whether single paths are live, determined by a search from them to the roots in the database: to
//! delete a few paths of many, where loading a [`Graph`](super::graph::Graph) would take longer.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use formats::graph::{Worklist, topological_sort};
use formats::store_path::StorePath;

use super::delete::Doomed;
use crate::error::Result;
use crate::queries::{Closure, valid_id};
use crate::store::Store;

impl Store {
    /// Whether `path` is reachable from a root.
    pub(super) fn is_alive(
        &self,
        path: &StorePath,
        roots: &HashSet<StorePath>,
        keep_outputs: bool,
        keep_derivations: bool,
    ) -> Result<bool> {
        let how = Closure {
            reverse: true,
            include_outputs: keep_outputs,
            include_derivers: keep_derivations,
        };
        let mut worklist = Worklist::new([path.clone()]);
        while let Some(path) = worklist.next() {
            if roots.contains(&path) {
                return Ok(true);
            }
            if self.is_valid(&path)? {
                worklist.extend(self.edges(&path, how)?);
            }
        }
        Ok(false)
    }

    /// The path and all its referrers, referrers first; empty if it isn't valid.
    pub(super) fn with_referrers(&self, path: &StorePath) -> Result<Vec<Doomed>> {
        if !self.is_valid(path)? {
            return Ok(Vec::new());
        }
        let how = Closure {
            reverse: true,
            ..Closure::default()
        };
        let closure: BTreeSet<StorePath> = self.compute_closure([path], how)?;
        let mut graph = BTreeMap::new();
        let mut sizes = BTreeMap::new();
        for path in &closure {
            if let Some(info) = self.query_path_info(path)? {
                sizes.insert(path.clone(), info.nar_size);
                graph.insert(path.clone(), info.references);
            }
        }
        let mut doomed = Vec::with_capacity(graph.len());
        for path in topological_sort(&graph)?.into_iter().rev() {
            let id = self.read("querying path in database", |connection| {
                valid_id(connection, &path)
            })?;
            if let Some(id) = id {
                let size = sizes.get(&path).copied().unwrap_or(0);
                doomed.push(Doomed {
                    id,
                    name: path.base_name().to_owned(),
                    size,
                });
            }
        }
        Ok(doomed)
    }
}
