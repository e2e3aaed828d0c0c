//! What a build would build and download.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;

use anyhow::{Context, Result};
use formats::{Derivation, StoreDir, StorePath};
use protocol::client::Connection;

/// What is yet to be done, in the order in which it can be.
#[derive(Debug, Default)]
pub struct Plan {
    /// Derivations to build.
    pub build: Vec<StorePath>,
    /// Items to download.
    pub download: BTreeSet<StorePath>,
}

/// Reads the derivation at `path`.
pub fn read_derivation(path: &StorePath, store: &StoreDir) -> Result<Derivation> {
    let text = fs::read(path.as_path()).with_context(|| format!("cannot read `{path}'"))?;
    Derivation::parse(&text, store).with_context(|| format!("error parsing derivation `{path}'"))
}

/// What building `targets` would do. Derivations that can't be read here are left out: the
/// daemon knows them.
pub fn plan(
    daemon: &mut Connection,
    targets: &[StorePath],
    substitutes: bool,
    again: bool,
) -> Result<Plan> {
    let store = daemon.store().clone();
    // All derivations that the targets need, each after those it needs itself.
    let mut order: Vec<StorePath> = Vec::new();
    let mut known: HashMap<StorePath, Derivation> = HashMap::new();
    for target in targets {
        let mut open: Vec<(StorePath, Vec<StorePath>)> = Vec::new();
        let mut next = Some(target.clone());
        loop {
            if let Some(path) = next.take()
                && let Entry::Vacant(unknown) = known.entry(path)
                && let Ok(derivation) = read_derivation(unknown.key(), &store)
            {
                let inputs = derivation.inputs.keys().rev().cloned().collect();
                open.push((unknown.key().clone(), inputs));
                unknown.insert(derivation);
            }
            match open.last_mut() {
                None => break,
                Some((_, inputs)) => match inputs.pop() {
                    Some(input) => next = Some(input),
                    None => order.extend(open.pop().map(|(path, _)| path)),
                },
            }
        }
    }
    let outputs: BTreeSet<StorePath> = known
        .values()
        .flat_map(|derivation| derivation.output_paths().cloned())
        .collect();
    let valid = daemon.query_valid_paths(outputs.clone())?;
    let missing: BTreeSet<StorePath> = outputs.difference(&valid).cloned().collect();
    let substitutable = match substitutes && !missing.is_empty() {
        true => daemon.query_substitutable_paths(missing)?,
        false => BTreeSet::new(),
    };

    let mut plan = Plan::default();
    let mut build = HashSet::new();
    let targets: HashSet<&StorePath> = targets.iter().collect();
    let mut wanted: HashMap<StorePath, BTreeSet<String>> = HashMap::new();
    for path in order.iter().rev() {
        let Some(derivation) = known.get(path) else {
            continue;
        };
        let is_target = targets.contains(path);
        let ids = wanted.remove(path).unwrap_or_default();
        let needed: Vec<&StorePath> = derivation
            .outputs
            .iter()
            .filter(|(id, _)| is_target || ids.contains(*id))
            .map(|(_, output)| &output.path)
            .collect();
        let again = again && is_target;
        if !again && needed.iter().all(|path| valid.contains(*path)) {
            continue;
        }
        let obtainable = |path: &&StorePath| valid.contains(*path) || substitutable.contains(*path);
        if !again && needed.iter().all(obtainable) {
            plan.download.extend(
                needed
                    .into_iter()
                    .filter(|path| !valid.contains(*path))
                    .cloned(),
            );
            continue;
        }
        build.insert(path.clone());
        for (input, ids) in &derivation.inputs {
            wanted
                .entry(input.clone())
                .or_default()
                .extend(ids.iter().cloned());
        }
    }
    plan.build = order
        .into_iter()
        .filter(|path| build.contains(path))
        .collect();
    Ok(plan)
}
