//! The garbage collector (`doc/spec/store-formats.md`, section 11).
//!
//! While the collector's lock and those of all temporary roots are held, everything reachable from
//! a root is live, and the rest is garbage. Garbage is invalidated before its files are deleted, in
//! batches; directories are only moved to `trash` while the locks are held, and deleted afterwards,
//! when other sessions can continue. A collector that is killed leaves nothing but invalid files
//! and the trash, which the next one deletes.
//!
//! Meanwhile, sessions may register paths that they made temporary roots before we read those. If
//! such a path refers to one that we consider dead, the database's foreign keys prevent its
//! deletion, and so it stays.

mod delete;
mod graph;
mod liveness;
mod locked_temp_roots;
mod prune_links;
mod request;
mod trash;

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;

use formats::store_path::StorePath;
use system::lock::Mode;

use crate::error::{Context, Error, Result};
use crate::progress::{Level, Progress, check};
use crate::store::Store;

use delete::{Deleter, Doomed};
use graph::Graph;
use locked_temp_roots::LockedTempRoots;

pub use request::{GcAction, GcRequest, GcResult};
pub(crate) use trash::TRASH;

/// Names in the store directory that are neither items nor garbage.
const SPECIAL: [&str; 2] = [".links", TRASH];

impl Store {
    /// Collects garbage, or lists live or dead paths.
    pub fn collect_garbage(
        &self,
        request: &GcRequest<'_>,
        progress: &dyn Progress,
    ) -> Result<GcResult> {
        let deletes = matches!(
            request.action,
            GcAction::DeleteDead | GcAction::DeleteSpecific
        );
        if let Some(own_roots) = request.own_roots {
            own_roots.clear();
        }
        let gc_lock = self.gc_lock(Mode::Exclusive, progress)?;
        progress.message(Level::Error, "finding garbage collector roots...");
        // Temporary roots are read first, for a client that creates a link and then drops its
        // temporary root: if we don't see the temporary root, the link already exists. (Guix reads
        // them last, and can miss both.)
        let temp_roots = LockedTempRoots::read(self, progress)?;
        let mut roots = temp_roots.roots.clone();
        if !request.ignore_liveness {
            let permanent = self.search_roots(request.asker, progress)?;
            roots.extend(permanent.into_values().map(|root| root.item));
            roots.extend(self.busy_roots()?);
        }

        let mut deleter = Deleter::new(self, request.max_freed, progress);
        if deletes {
            deleter.prepare_trash()?;
        }
        let mut result = GcResult::default();
        if request.action == GcAction::DeleteSpecific {
            self.delete_specific(request, &temp_roots, &roots, &mut deleter)?;
        } else if request.max_freed > 0 {
            let doing = if deletes {
                "deleting garbage..."
            } else {
                "determining live/dead paths..."
            };
            progress.message(Level::Error, doing);
            let mut graph = Graph::load(self, request, progress)?;
            graph.mark(&roots);
            let entries = self.store_entries()?;
            match request.action {
                GcAction::ReturnLive => result.paths = self.live_paths(&graph, &entries, &roots),
                GcAction::ReturnDead => {
                    result.paths = self.dead_paths(&graph, &entries, &temp_roots, &roots)
                }
                _ => self.delete_dead(&graph, &entries, &temp_roots, &roots, &mut deleter)?,
            }
        }
        if !deletes {
            result.paths.sort_unstable();
            return Ok(result);
        }
        // From here on, other sessions may add to the store.
        drop(temp_roots);
        drop(gc_lock);
        deleter.empty_trash()?;
        progress.message(Level::Error, "deleting unused links...");
        let pruned = prune_links::prune_links(self, progress)?;
        result.bytes_freed = deleter.freed.certain().saturating_add(pruned);
        result.paths = deleter.deleted;
        result.paths.sort_unstable();
        Ok(result)
    }

    /// The valid items that are in use by running processes.
    fn busy_roots(&self) -> Result<Vec<StorePath>> {
        let names = system::busy::referenced_items(self.dir().as_path())
            .context(|| "finding the store items that processes use")?;
        let items: Vec<StorePath> = names
            .iter()
            .filter_map(|name| self.dir().item_of(name.as_os_str().as_bytes()).ok())
            .collect();
        Ok(self.query_valid_paths(&items)?.into_iter().collect())
    }

    /// The names in the store directory, except those in [`SPECIAL`].
    fn store_entries(&self) -> Result<Vec<std::ffi::OsString>> {
        let reading = || format!("reading directory `{}'", self.dir());
        let mut names = Vec::new();
        for entry in self.inner.root.entries().context(reading)? {
            let name = entry.context(reading)?.name;
            if !SPECIAL.iter().any(|special| name == *special) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The live paths in the store.
    fn live_paths(
        &self,
        graph: &Graph,
        entries: &[std::ffi::OsString],
        roots: &HashSet<StorePath>,
    ) -> Vec<String> {
        let mut live: Vec<String> = graph
            .live()
            .map(|name| format!("{}/{name}", self.dir()))
            .collect();
        for name in entries {
            // Not valid yet, but a temporary root of a session.
            if let Some(path) = self.unregistered(graph, name) {
                if roots.contains(&path) {
                    live.push(path.as_str().to_owned());
                }
            }
        }
        live
    }

    /// The dead paths in the store.
    fn dead_paths(
        &self,
        graph: &Graph,
        entries: &[std::ffi::OsString],
        temp_roots: &LockedTempRoots,
        roots: &HashSet<StorePath>,
    ) -> Vec<String> {
        let mut dead: Vec<String> = graph
            .dead()
            .map(|node| format!("{}/{}", self.dir(), graph.name(node)))
            .collect();
        for name in entries {
            let kept = match self.unregistered(graph, name) {
                Some(path) => roots.contains(&path) || temp_roots.is_in_use(self, &path),
                None => name.to_str().is_some(),
            };
            if !kept {
                dead.push(format!("{}/{}", self.dir(), name.to_string_lossy()));
            }
        }
        dead
    }

    /// The path of a name in the store directory that isn't in the graph; `None` if it is, or if it
    /// isn't a valid name for a path.
    fn unregistered(&self, graph: &Graph, name: &std::ffi::OsStr) -> Option<StorePath> {
        let name = name.to_str()?;
        if graph.find(name).is_some() {
            return None;
        }
        self.dir().join(name).ok()
    }

    /// Deletes all dead paths: first those that aren't registered, then the others.
    fn delete_dead(
        &self,
        graph: &Graph,
        entries: &[std::ffi::OsString],
        temp_roots: &LockedTempRoots,
        roots: &HashSet<StorePath>,
        deleter: &mut Deleter<'_>,
    ) -> Result<()> {
        for name in entries {
            check(deleter.progress)?;
            let path = match self.unregistered(graph, name) {
                Some(path) => path,
                None if name.to_str().is_some() => continue,
                None => {
                    deleter.remove(name, 0)?;
                    continue;
                }
            };
            // It may have become valid meanwhile.
            if roots.contains(&path) || temp_roots.is_in_use(self, &path) || self.is_valid(&path)? {
                continue;
            }
            deleter.remove(name, 0)?;
            if deleter.limit_reached() {
                return Ok(());
            }
        }
        deleter.delete_all(graph)
    }

    /// Deletes the requested paths, each with all its referrers; fails at the first that is alive.
    fn delete_specific(
        &self,
        request: &GcRequest<'_>,
        temp_roots: &LockedTempRoots,
        roots: &HashSet<StorePath>,
        deleter: &mut Deleter<'_>,
    ) -> Result<()> {
        // When liveness is ignored, edges from derivations to outputs would delete far too much.
        let keep_outputs = request.keep_outputs && !request.ignore_liveness;
        let keep_derivations = request.keep_derivations && !request.ignore_liveness;
        for path in &request.paths {
            check(deleter.progress)?;
            let alive = SPECIAL.contains(&path.base_name())
                || temp_roots.is_in_use(self, path) && !self.is_valid(path)?
                || self.is_alive(path, roots, keep_outputs, keep_derivations)?;
            if alive {
                return Err(Error::StillAlive(path.as_str().to_owned()));
            }
            let doomed: Vec<Doomed> = self.with_referrers(path)?;
            if doomed.is_empty() {
                deleter.remove(path.base_name().as_ref(), 0)?;
            } else {
                deleter.delete(&doomed)?;
            }
            if deleter.limit_reached() {
                break;
            }
        }
        Ok(())
    }
}
