//! Moving items with verified signatures to their store paths, many in one transaction.
//!
//! To avoid deadlock, no lock is held while waiting for another: another importer may hold that one
//! and wait for one of ours. So locks are taken as long as they are free; when one isn't, the items
//! locked so far are registered and unlocked first. That is always possible, since references are
//! placed before their referrers.

use std::collections::{BTreeSet, HashMap};
use std::slice;

use formats::derivation::Derivation;
use formats::store_path::StorePath;

use super::arrival::{Arrival, ImportOptions};
use crate::add::new_path;
use crate::error::{Error, Result};
use crate::path_locks::PathLocks;
use crate::progress::Progress;
use crate::receive::Leftover;
use crate::registration::NewPath;
use crate::store::Store;

/// An item whose path is locked, by us or by our caller.
type Held<'a> = (Arrival<'a>, PathLocks);

/// An item at its store path, to be registered. If it is never registered, its files are deleted
/// before the lock is released.
struct Settled {
    new: NewPath,
    derivation: Option<Derivation>,
    leftover: Leftover,
    locks: PathLocks,
}

impl Store {
    /// Adds `items`, whose signatures were verified.
    pub(super) fn place(&self, items: Vec<Arrival<'_>>, options: &ImportOptions<'_>) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        let paths = || items.iter().map(|item| &item.fields.path);
        options.temp_roots.add_all(paths(), options.progress)?;
        let valid = self.query_valid_paths(paths())?;
        let mut held: Vec<Held<'_>> = Vec::new();
        for item in references_first(items) {
            let path = &item.fields.path;
            if valid.contains(path) {
                continue;
            }
            let mut locks = PathLocks::default();
            if !options.held_locks.contains(path) {
                if let Ok(Some(free)) = PathLocks::try_acquire(self, [path]) {
                    locks = free;
                } else {
                    self.settle_all(std::mem::take(&mut held), options.progress)?;
                    locks = PathLocks::acquire(self, [path], "", options.progress)?;
                }
            }
            held.push((item, locks));
        }
        self.settle_all(held, options.progress)
    }

    /// Moves the locked items to their paths and registers them. If an item fails, those before it
    /// are registered.
    fn settle_all(&self, held: Vec<Held<'_>>, progress: &dyn Progress) -> Result<()> {
        // Some may have been added by other processes before we locked them.
        let valid = self.query_valid_paths(held.iter().map(|(item, _)| &item.fields.path))?;
        let mut settled = Vec::with_capacity(held.len());
        let mut end = Ok(());
        for (item, mut locks) in held {
            if valid.contains(&item.fields.path) {
                locks.set_deletion(true);
                continue;
            }
            match self.settle(item, locks, &settled) {
                Ok(item) => settled.push(item),
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
        }
        self.register_all(settled, progress)?;
        end
    }

    /// Moves one item to its path; `before` are the items that will be registered with it.
    fn settle(&self, item: Arrival<'_>, locks: PathLocks, before: &[Settled]) -> Result<Settled> {
        let path = item.fields.path;
        item.receiver.settle(&path, &item.hash, item.nar_size)?;
        let leftover = Leftover::new(self, path.base_name().to_owned());
        let mut derivation = None;
        if path.is_derivation() {
            derivation = Some(self.read_derivation(&path)?);
        }
        let mut new = new_path(&path, item.hash, item.nar_size, item.fields.references);
        if let Some(deriver) = item.fields.deriver {
            if before.iter().any(|item| item.new.path == deriver) || self.is_valid(&deriver)? {
                new.deriver = Some(deriver);
            }
        }
        Ok(Settled {
            new,
            derivation,
            leftover,
            locks,
        })
    }

    /// Registers items together; if that fails, one by one up to the one that fails.
    fn register_all(&self, mut items: Vec<Settled>, progress: &dyn Progress) -> Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        match self.register_some(&mut items, progress) {
            Err(error) if items.len() > 1 && !matches!(error, Error::Interrupted) => items
                .chunks_mut(1)
                .try_for_each(|item| self.register_some(item, progress)),
            result => result,
        }
    }

    /// Registers items in one transaction.
    fn register_some(&self, items: &mut [Settled], progress: &dyn Progress) -> Result<()> {
        let derivations: HashMap<StorePath, Derivation> = items
            .iter()
            .filter_map(|item| Some((item.new.path.clone(), item.derivation.clone()?)))
            .collect();
        if let [item] = items {
            self.register(slice::from_ref(&item.new), &derivations, progress)?;
        } else {
            let new: Vec<NewPath> = items.iter().map(|item| item.new.clone()).collect();
            self.register(&new, &derivations, progress)?;
        }
        for item in items {
            item.leftover.keep();
            item.locks.set_deletion(true);
        }
        Ok(())
    }
}

/// The items in their order, but referenced items before their referrers.
fn references_first(items: Vec<Arrival<'_>>) -> impl Iterator<Item = Arrival<'_>> {
    let mut rest: Vec<Option<Arrival<'_>>> = items.into_iter().map(Some).collect();
    let order = order(
        &rest
            .iter()
            .flatten()
            .map(|item| (&item.fields.path, &item.fields.references))
            .collect::<Vec<_>>(),
    );
    order
        .into_iter()
        .filter_map(move |index| rest[index].take())
}

/// The indices of items with these paths and references in that order.
///
/// This takes quadratic time at worst, for the items of one batch, of which there are few. Unlike
/// [`formats::graph::topological_sort`], it orders items beside a cycle, too.
fn order(items: &[(&StorePath, &BTreeSet<StorePath>)]) -> Vec<usize> {
    let mut to_come: HashMap<&StorePath, usize> = HashMap::new();
    for (path, _) in items {
        *to_come.entry(path).or_default() += 1;
    }
    let mut rest: Vec<usize> = (0..items.len()).collect();
    let mut order = Vec::with_capacity(items.len());
    while !rest.is_empty() {
        let ready = |index: &usize| {
            let (path, references) = items[*index];
            let is_there = |reference| to_come.get(reference).is_none_or(|count| *count == 0);
            references
                .iter()
                .all(|reference| reference == path || is_there(reference))
        };
        // Items in a cycle keep their order; registration refuses them.
        let next = rest.remove(rest.iter().position(ready).unwrap_or(0));
        to_come.entry(items[next].0).and_modify(|count| *count -= 1);
        order.push(next);
    }
    order
}
