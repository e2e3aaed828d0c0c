//! Deleting dead paths: from the database first, then from the disk.

use std::ffi::OsStr;
use std::io;

use formats::size::Aligned;
use nix::libc;
use rand::RngExt;
use system::errno;
use system::ids::effective_uid;
use system::tree::Dir;

use super::graph::{Graph, Node};
use super::trash::{self, Freed, TRASH};
use crate::database::is_constraint;
use crate::error::{Context, Error, Result};
use crate::progress::{Level, Progress, check, say};
use crate::store::Store;

/// How many paths are invalidated in one transaction. Dead paths are scattered over the index of
/// paths, so a small transaction writes a page for each of them, and a large one writes each page
/// once; one of this size takes a fraction of a second.
const BATCH: usize = 10_000;

/// The same for a collection that may reach its limit after any path.
const LIMITED_BATCH: usize = 50;

/// A valid path that is to be deleted.
pub(super) struct Doomed {
    /// Its row id in the database.
    pub(super) id: i64,
    /// Its base name.
    pub(super) name: String,
    /// The size of its nar.
    pub(super) size: u64,
}

/// Deletes paths, and counts the bytes freed.
pub(super) struct Deleter<'a> {
    store: &'a Store,
    pub(super) progress: &'a dyn Progress,
    max_freed: u64,
    pub(super) freed: Freed,
    /// Bytes that emptying the trash will free, estimated by the sizes of nars.
    in_trash: u64,
    /// The base names of deleted paths.
    pub(super) deleted: Vec<String>,
    trash: Option<Dir>,
}

impl<'a> Deleter<'a> {
    pub(super) fn new(store: &'a Store, max_freed: u64, progress: &'a dyn Progress) -> Self {
        Deleter {
            store,
            progress,
            max_freed,
            freed: Freed::default(),
            in_trash: 0,
            deleted: Vec::new(),
            trash: None,
        }
    }

    /// Empties the trash that an earlier collector left, and creates a new one.
    pub(super) fn prepare_trash(&mut self) -> Result<()> {
        let freed = trash::remove(self.store, self.progress)?;
        self.freed.add(freed);
        match self.open_trash() {
            Ok(trash) => self.trash = Some(trash),
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                say(self.progress, Level::Info, || {
                    format!(
                        "note: can't create trash directory: {}",
                        errno::message(&error)
                    )
                });
            }
            Err(error) => return Err(Error::io("creating the trash directory", error)),
        }
        Ok(())
    }

    fn open_trash(&self) -> io::Result<Dir> {
        const ATTEMPTS: u32 = 100;
        let root = &self.store.inner.root;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match root.create_dir(TRASH, 0o755) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            match root.open_dir(TRASH) {
                // A collector that started before us removed it while it was empty.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS => {}
                opened => return opened,
            }
        }
    }

    /// The bytes that will be free once the trash is empty and unused links are removed.
    fn expected(&self) -> u64 {
        self.freed.expected().saturating_add(self.in_trash)
    }

    /// Whether enough bytes were freed.
    pub(super) fn limit_reached(&self) -> bool {
        self.expected() > self.max_freed
    }

    /// Deletes all dead paths, referrers before their references, until the limit is reached.
    pub(super) fn delete_all(&mut self, graph: &Graph) -> Result<()> {
        let limited = self.max_freed != u64::MAX;
        let mut order = Order::new(graph, limited);
        let most = if limited { LIMITED_BATCH } else { BATCH };
        let mut batch = Vec::with_capacity(most);
        loop {
            check(self.progress)?;
            batch.clear();
            let mut expected = self.expected();
            while batch.len() < most && expected <= self.max_freed {
                let Some(node) = order.next(graph) else { break };
                let (name, size) = (graph.name(node).to_owned(), graph.size(node));
                expected = expected.saturating_add(size);
                batch.push(Doomed {
                    id: graph.id(node),
                    name,
                    size,
                });
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.delete(&batch)?;
            if self.limit_reached() {
                let limit = self.max_freed;
                say(self.progress, Level::Info, || {
                    format!("deleted or invalidated more than {limit} bytes; stopping")
                });
                return Ok(());
            }
        }
    }

    /// Invalidates paths, referrers first, then removes their files. A path that has got a new
    /// referrer meanwhile stays.
    pub(super) fn delete(&mut self, batch: &[Doomed]) -> Result<()> {
        let mut gone = Vec::new();
        self.store.write(
            "invalidating paths in database",
            self.progress,
            |connection| {
                gone.clear();
                let mut statement =
                    connection.prepare_cached("delete from ValidPaths where id = ?")?;
                for (index, doomed) in batch.iter().enumerate() {
                    match statement.execute([doomed.id]) {
                        Ok(0) => {}
                        Ok(_) => gone.push(index),
                        Err(error) if is_constraint(&error) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            },
        )?;
        for index in gone {
            let doomed = &batch[index];
            self.remove(doomed.name.as_ref(), doomed.size)?;
        }
        Ok(())
    }

    /// Removes `name` from the store directory; it must not be valid.
    pub(super) fn remove(&mut self, name: &OsStr, size: u64) -> Result<()> {
        let path = || self.store.dir().as_path().join(name);
        let root = &self.store.inner.root;
        let stat = root
            .try_stat_at(name)
            .context(|| format!("getting status of {}", path().display()))?;
        let Some(stat) = stat else { return Ok(()) };
        say(self.progress, Level::Info, || self.announce(name));
        self.deleted.push(path().to_string_lossy().into_owned());
        if !stat.is_dir() {
            match root.remove_file(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.context(|| format!("cannot unlink `{}'", path().display()))?,
            }
            let (links, size) = (stat.links(), stat.size());
            self.freed.add(Freed::by_file(self.store, links, size));
            return Ok(());
        }
        if self.trash.is_some() {
            match self.move_to_trash(name, stat.mode()) {
                Ok(()) => {
                    self.in_trash = self.in_trash.saturating_add(size);
                    return Ok(());
                }
                // In a container, directories of a lower overlay layer can't be renamed.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EXDEV)) => {
                    say(self.progress, Level::Info, || {
                        format!(
                            "note: can't move `{}': {}",
                            path().display(),
                            errno::message(&error)
                        )
                    });
                }
                Err(error) => {
                    let action = format!("unable to move `{}' to the trash", path().display());
                    return Err(Error::io(action, error));
                }
            }
        }
        let freed = trash::remove_tree(self.store, root, name)?;
        self.freed.add(freed);
        Ok(())
    }

    fn announce(&self, name: &OsStr) -> String {
        let freed = self.expected();
        let name = name.to_string_lossy();
        let store = self.store.dir();
        if self.max_freed == u64::MAX {
            let freed = Aligned::new(freed);
            format!("[{freed}] deleting '{store}/{name}'")
        } else {
            let percent = (freed as f64 / self.max_freed as f64).min(1.0) * 100.0;
            format!("[{}%] deleting '{store}/{name}'", percent as u64)
        }
    }

    fn move_to_trash(&mut self, name: &OsStr, mode: u32) -> io::Result<()> {
        let root = &self.store.inner.root;
        // Moving a directory changes its `..`, which needs write permission unless we are root.
        if effective_uid() != 0 && mode & 0o200 == 0 {
            root.chmod_at(name, mode | 0o200)?;
        }
        let mut attempts = 0;
        let mut new_name = name.to_owned();
        loop {
            let Some(trash) = &self.trash else {
                return Err(io::ErrorKind::NotFound.into());
            };
            attempts += 1;
            match root.rename(name, trash, &new_name) {
                // A collector that started before us removed the trash.
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < 10 => {
                    self.trash = Some(self.open_trash()?);
                }
                Err(error)
                    if attempts < 10
                        && matches!(
                            error.raw_os_error(),
                            Some(libc::EEXIST | libc::ENOTEMPTY | libc::ENOTDIR)
                        ) =>
                {
                    new_name = self.store.unique_name("trash").into();
                }
                result => return result,
            }
        }
    }

    /// Deletes the trash. No lock needs to be held.
    pub(super) fn empty_trash(&mut self) -> Result<()> {
        self.trash = None;
        say(self.progress, Level::Info, || {
            format!("deleting `{}/{TRASH}'", self.store.dir())
        });
        let freed = trash::remove(self.store, self.progress)?;
        self.freed.add(freed);
        self.in_trash = 0;
        Ok(())
    }
}

/// An order in which dead paths can be deleted: each node after its referrers.
struct Order {
    /// The number of remaining dead referrers of each node.
    referrers: Vec<u32>,
    ready: Vec<Node>,
    /// Whether the order is random as far as possible, so that no kind of path is always deleted
    /// first when the limit is reached.
    random: bool,
}

impl Order {
    fn new(graph: &Graph, random: bool) -> Order {
        let mut referrers = vec![0; graph.len()];
        for node in graph.dead() {
            for reference in graph.references(node) {
                if *reference != node {
                    referrers[*reference as usize] += 1;
                }
            }
        }
        let mut ready: Vec<Node> = graph
            .dead()
            .filter(|node| referrers[*node as usize] == 0)
            .collect();
        ready.reverse();
        Order {
            referrers,
            ready,
            random,
        }
    }

    fn next(&mut self, graph: &Graph) -> Option<Node> {
        let node = if self.random && !self.ready.is_empty() {
            let index = rand::rng().random_range(0..self.ready.len());
            self.ready.swap_remove(index)
        } else {
            self.ready.pop()?
        };
        for reference in graph.references(node) {
            if *reference == node || graph.is_live(*reference) {
                continue;
            }
            let count = &mut self.referrers[*reference as usize];
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.ready.push(*reference);
            }
        }
        Some(node)
    }
}
