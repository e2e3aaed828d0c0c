//! What a build needs on a machine, before the daemon says it: the choice of the machine comes first.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::time::{Duration, Instant};

use farm::ItemName;
use farm::estimate::{Basis, Estimates};
use farm::history::{self, Attempt, AttemptResult, Filter, Reader, literal};
use formats::StorePath;
use formats::derivation::Derivation;
use store::{Directories, Quiet, Store, StoreOptions};

use crate::have::{HashIds, ItemId};

/// The maximum number of inputs that are looked at.
const MOST_ITEMS: usize = 20_000;
/// How long that may take.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long to wait for somebody who writes to the history.
const HISTORY_PATIENCE: Duration = Duration::from_millis(5);
/// How many builds of the same name count.
const LAST_BUILDS: u32 = 32;

/// What builds of the same name were like, if any is remembered.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usual {
    /// How long they take on a machine of speed 1.
    pub time: Option<Duration>,
    /// The size of their outputs, in bytes.
    pub outputs: Option<u64>,
}

/// The store, and the inputs of a build, once somebody asks for them.
pub struct LazyInputs {
    directories: Directories,
    derivation: String,
    store: OnceCell<Option<Store>>,
    /// The derivation, and its name in the store.
    read: OnceCell<Option<(StorePath, Option<Derivation>)>>,
    inputs: OnceCell<Option<Inputs>>,
    usual: OnceCell<Usual>,
}

impl LazyInputs {
    /// Those of a derivation in the store.
    pub fn new(directories: &Directories, derivation: &str) -> LazyInputs {
        LazyInputs {
            directories: directories.clone(),
            derivation: derivation.to_owned(),
            store: OnceCell::new(),
            read: OnceCell::new(),
            inputs: OnceCell::new(),
            usual: OnceCell::new(),
        }
    }

    /// The inputs, if they can be found out.
    pub fn get(&self) -> Option<&Inputs> {
        let find = || {
            let deadline = Instant::now() + PATIENCE;
            let (_, derivation) = self.read()?;
            Inputs::of(self.store()?, derivation.as_ref()?, deadline)
        };
        self.inputs.get_or_init(find).as_ref()
    }

    fn store(&self) -> Option<&Store> {
        let open = || Store::open(self.directories.clone(), StoreOptions::default(), &Quiet).ok();
        self.store.get_or_init(open).as_ref()
    }

    fn read(&self) -> Option<&(StorePath, Option<Derivation>)> {
        let read = || {
            let path = self.directories.store.parse(&self.derivation).ok()?;
            let derivation = crate::history::read_derivation(self.store()?, &path);
            Some((path, derivation))
        };
        self.read.get_or_init(read).as_ref()
    }

    /// What is built.
    fn item(&self) -> ItemName {
        match self.read() {
            Some((path, derivation)) => crate::history::item(path, derivation.as_ref()),
            None => ItemName::of(&self.derivation),
        }
    }

    /// What is remembered in the hook's directory of builds of the same name for this system: how long they
    /// usually take on a machine of speed 1, and how much is usually fetched.
    pub fn usual(&self, offload: &Path, system: &str) -> Usual {
        let ask = || self.ask_usual(offload, system).unwrap_or_default();
        *self.usual.get_or_init(ask)
    }

    fn ask_usual(&self, offload: &Path, system: &str) -> Result<Usual, history::Error> {
        let item = self.item();
        let Some(history) = Reader::open(offload, HISTORY_PATIENCE)? else {
            return Ok(Usual::default());
        };
        let attempts = history.attempts(&Filter {
            name: Some(literal(&item.name)),
            system: Some(system.to_owned()),
            result: Some(AttemptResult::Done),
            limit: Some(LAST_BUILDS),
            ..Filter::default()
        })?;
        let samples = attempts.iter().rev().filter_map(Attempt::sample);
        let estimate = Estimates::from_rows(samples).estimate(&item, system);
        let sizes = attempts.iter().map(|attempt| attempt.bytes_retrieved);
        // Nothing is fetched of what this host has built.
        let mut sizes: Vec<u64> = sizes.filter(|size| *size > 0).collect();
        sizes.sort_unstable();
        Ok(Usual {
            time: (estimate.from == Basis::Name).then_some(estimate.usual),
            outputs: sizes.get(sizes.len() / 2).copied(),
        })
    }

    /// The store, if it was needed before.
    pub fn opened(&self) -> Option<Store> {
        self.store.get().cloned().flatten()
    }
}

/// The inputs of a build, with everything that they refer to.
pub struct Inputs {
    /// For each, its position in `sizes`.
    positions: HashMap<ItemId, u32, HashIds>,
    sizes: Vec<u64>,
    ids: Vec<ItemId>,
    total: u64,
}

impl Inputs {
    /// Those of a derivation; `None` if they can't be found out until then, for whatever reason.
    fn of(store: &Store, derivation: &Derivation, deadline: Instant) -> Option<Inputs> {
        let items = store.input_sizes(derivation, MOST_ITEMS, deadline).ok()??;
        let sizes = items.iter().map(|(path, size)| (ItemId::of(path), *size));
        Some(Inputs::new(
            sizes.filter_map(|(id, size)| Some((id?, size))),
        ))
    }

    fn new(items: impl IntoIterator<Item = (ItemId, u64)>) -> Inputs {
        let mut inputs = Inputs {
            positions: HashMap::default(),
            sizes: Vec::new(),
            ids: Vec::new(),
            total: 0,
        };
        for (id, size) in items {
            let position = inputs.sizes.len() as u32;
            if let Entry::Vacant(vacant) = inputs.positions.entry(id) {
                vacant.insert(position);
                inputs.total = inputs.total.saturating_add(size);
                inputs.sizes.push(size);
                inputs.ids.push(id);
            }
        }
        inputs
    }

    /// What a machine lacks that has nothing.
    pub fn all(&self) -> Lacking<'_> {
        Lacking {
            inputs: self,
            is_there: vec![false; self.sizes.len()],
            bytes: self.total,
        }
    }
}

/// The inputs that a machine lacks.
#[derive(Clone)]
pub struct Lacking<'a> {
    inputs: &'a Inputs,
    /// For each input, whether it is there.
    is_there: Vec<bool>,
    /// The size of those that aren't.
    pub bytes: u64,
}

impl Lacking<'_> {
    /// Takes items into account that are there, whether inputs or not.
    pub fn has(&mut self, items: &[ItemId]) {
        for item in items {
            if let Some(position) = self.inputs.positions.get(item) {
                let position = *position as usize;
                if !std::mem::replace(&mut self.is_there[position], true) {
                    self.bytes = self.bytes.saturating_sub(self.inputs.sizes[position]);
                }
            }
        }
    }

    /// Their sizes and ids.
    pub fn items(&self) -> Vec<(u64, ItemId)> {
        let all = self.inputs.sizes.iter().zip(&self.inputs.ids);
        let absent = all.zip(&self.is_there).filter(|(_, is_there)| !**is_there);
        absent.map(|((size, id), _)| (*size, *id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> ItemId {
        ItemId::parse(&digit.to_string().repeat(32)).unwrap()
    }

    #[test]
    fn what_a_machine_lacks_is_what_it_has_not() {
        // One that is listed twice is one.
        let inputs = Inputs::new([(id('1'), 10), (id('2'), 500), (id('3'), 70), (id('1'), 10)]);
        let mut lacking = inputs.all();
        assert_eq!(lacking.bytes, 580);
        lacking.has(&[id('2'), id('4'), id('2')]);
        assert_eq!(lacking.bytes, 80);
        assert_eq!(lacking.items(), [(10, id('1')), (70, id('3'))]);
        lacking.has(&[id('3'), id('1')]);
        assert_eq!(lacking.bytes, 0);
        assert!(lacking.items().is_empty());
    }

    #[test]
    fn absurd_sizes_are_no_harm() {
        let inputs = Inputs::new([(id('1'), u64::MAX), (id('2'), u64::MAX)]);
        let mut lacking = inputs.all();
        lacking.has(&[id('1'), id('2')]);
        assert_eq!(lacking.bytes, 0);
    }
}
