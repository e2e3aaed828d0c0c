//! What a build would build and download.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;

use anyhow::{Context, Result};
use formats::graph::{DepthFirst, Step};
use formats::{Derivation, StoreDir, StorePath};
use protocol::client::{Connection, Error};

/// What remains to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BuildPlan {
    /// Derivations to build, each after its inputs.
    pub build: Vec<StorePath>,
    /// Items to download, without what they need.
    pub download: BTreeSet<StorePath>,
    /// How many bytes these are, as far as the servers say.
    pub download_size: u64,
    /// Targets that can neither be built nor downloaded.
    pub unobtainable: Vec<StorePath>,
}

impl BuildPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.build.is_empty() && self.download.is_empty()
    }
}

/// Reads the derivation at `path`.
pub fn read_derivation(path: &StorePath, store: &StoreDir) -> Result<Derivation> {
    let text = fs::read(path.as_path()).with_context(|| format!("cannot read `{path}'"))?;
    Derivation::parse(&text, store).with_context(|| format!("error parsing derivation `{path}'"))
}

/// Plans the build of `targets`: derivations, and items to substitute. `again` is for modes that
/// build targets whose outputs are valid.
pub fn of_build(
    daemon: &mut Connection,
    targets: &[StorePath],
    substitutes: bool,
    again: bool,
) -> Result<BuildPlan> {
    let store = daemon.store().clone();
    let read = |path: &StorePath| read_derivation(path, &store).ok();
    let graph = Derivations::needed_by(targets, read);
    let others = targets
        .iter()
        .filter(|&path| !graph.known.contains_key(path));
    let wanted: BTreeSet<StorePath> = graph.outputs().chain(others.clone()).cloned().collect();
    let valid = daemon.query_valid_paths(wanted.clone())?;
    let missing: BTreeSet<StorePath> = wanted.difference(&valid).cloned().collect();
    let infos = match substitutes && !missing.is_empty() {
        true => daemon.query_substitutable_path_infos(missing)?,
        false => Vec::new(),
    };
    let substitutable: BTreeSet<StorePath> = infos.iter().map(|(path, _)| path.clone()).collect();
    let mut plan = graph.plan(targets, &valid, &substitutable, again);
    for path in others {
        if !valid.contains(path) && substitutable.contains(path) {
            plan.download.insert(path.clone());
        } else if !valid.contains(path) {
            plan.unobtainable.push(path.clone());
        } else if path.is_derivation() && (again || !has_all_outputs(daemon, path)?) {
            plan.build.push(path.clone());
        }
    }
    let downloads = infos
        .iter()
        .filter(|(path, _)| plan.download.contains(path));
    plan.download_size = downloads.fold(0, |sum, (_, info)| sum.saturating_add(info.download_size));
    Ok(plan)
}

/// Whether the outputs of a derivation that only the daemon can read are valid.
fn has_all_outputs(daemon: &mut Connection, path: &StorePath) -> Result<bool, Error> {
    let outputs = daemon.query_derivation_outputs(path)?;
    Ok(daemon.query_valid_paths(outputs.clone())? == outputs)
}

/// Derivations needed by targets.
struct Derivations {
    /// In topological order: each after its inputs.
    order: Vec<StorePath>,
    known: HashMap<StorePath, Derivation>,
}

impl Derivations {
    /// The targets that are derivations, and all derivations they need. Those that can't be read
    /// are left out.
    fn needed_by(
        targets: &[StorePath],
        read: impl Fn(&StorePath) -> Option<Derivation>,
    ) -> Derivations {
        let mut order: Vec<StorePath> = Vec::new();
        let mut known: HashMap<StorePath, Derivation> = HashMap::new();
        let starts = targets.iter().filter(|path| path.is_derivation());
        let mut walk = DepthFirst::new(starts.cloned());
        while let Some(step) = walk.next() {
            match step {
                Step::Found(path) => {
                    if let Some(derivation) = read(&path) {
                        let inputs: Vec<_> = derivation.inputs.keys().cloned().collect();
                        walk.enter(path, derivation, inputs);
                    }
                }
                Step::Leave(path, derivation) => {
                    order.push(path.clone());
                    known.insert(path, derivation);
                }
                // No derivation's hash can depend on itself; the daemon refuses such files.
                Step::Cycle(_) => {}
            }
        }
        Derivations { order, known }
    }

    fn outputs(&self) -> impl Iterator<Item = &StorePath> {
        self.known.values().flat_map(Derivation::output_paths)
    }

    /// What building `targets` would do, given which outputs are valid and which of the others
    /// have substitutes.
    fn plan(
        &self,
        targets: &[StorePath],
        valid: &BTreeSet<StorePath>,
        substitutable: &BTreeSet<StorePath>,
        again: bool,
    ) -> BuildPlan {
        let mut plan = BuildPlan::default();
        let targets: HashSet<&StorePath> = targets.iter().collect();
        // The outputs of inputs that are needed by derivations to build.
        let mut wanted: HashMap<&StorePath, BTreeSet<&String>> = HashMap::new();
        // Dependents come first.
        for path in self.order.iter().rev() {
            let Some(derivation) = self.known.get(path) else {
                continue;
            };
            let is_target = targets.contains(path);
            let ids = wanted.remove(path).unwrap_or_default();
            let missing: Vec<&StorePath> = derivation
                .outputs
                .iter()
                .filter(|(id, _)| is_target || ids.contains(*id))
                .map(|(_, output)| &output.path)
                .filter(|path| !valid.contains(*path))
                .collect();
            let again = again && is_target;
            if !again && missing.iter().all(|path| substitutable.contains(*path)) {
                plan.download.extend(missing.into_iter().cloned());
                continue;
            }
            plan.build.push(path.clone());
            for (input, ids) in &derivation.inputs {
                wanted.entry(input).or_default().extend(ids);
            }
        }
        plan.build.reverse();
        plan
    }
}

#[cfg(test)]
mod tests {
    use formats::derivation::Recipe;

    use super::*;

    /// An in-memory store.
    #[derive(Default)]
    struct Fixture(HashMap<StorePath, Derivation>);

    impl Fixture {
        /// A derivation with the outputs `out` and `doc` that needs the output `out` of others.
        fn add(&mut self, name: &str, inputs: &[&StorePath]) -> StorePath {
            let store = StoreDir::new("/gnu/store").unwrap();
            let out = BTreeSet::from(["out".to_owned()]);
            let recipe = Recipe {
                outputs: ["out", "doc"].map(|id| (id.to_owned(), None)).into(),
                inputs: inputs
                    .iter()
                    .map(|&input| (input.clone(), out.clone()))
                    .collect(),
                system: "x86_64-linux".into(),
                builder: "/bin/sh".into(),
                ..Recipe::default()
            };
            let mut hashes = formats::derivation::ModuloHashes::new();
            let (derivation, path) = recipe
                .instantiate(name, &store, |input| {
                    hashes.get(input, |path| {
                        self.0
                            .get(path)
                            .cloned()
                            .ok_or_else(|| std::io::Error::other("unknown"))
                    })
                })
                .unwrap();
            self.0.insert(path.clone(), derivation);
            path
        }

        fn output(&self, path: &StorePath, id: &str) -> StorePath {
            self.0[path].outputs[id].path.clone()
        }

        fn plan(
            &self,
            targets: &[&StorePath],
            valid: &[StorePath],
            substitutable: &[StorePath],
            again: bool,
        ) -> BuildPlan {
            let targets: Vec<StorePath> = targets.iter().map(|&path| path.clone()).collect();
            let set = |paths: &[StorePath]| paths.iter().cloned().collect();
            Derivations::needed_by(&targets, |path| self.0.get(path).cloned()).plan(
                &targets,
                &set(valid),
                &set(substitutable),
                again,
            )
        }
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let mut store = Fixture::default();
        let base = store.add("base", &[]);
        let left = store.add("left", &[&base]);
        let right = store.add("right", &[&base]);
        let top = store.add("top", &[&left, &right]);
        let build = store.plan(&[&top, &base], &[], &[], false).build;
        assert_eq!(build.len(), 4);
        let place = |path| build.iter().position(|other| other == path).unwrap();
        assert!(place(&base) < place(&left) && place(&base) < place(&right));
        assert_eq!(place(&top), 3);
    }

    #[test]
    fn of_what_is_valid_nothing_is_built_unless_again() {
        let mut store = Fixture::default();
        let base = store.add("base", &[]);
        let top = store.add("top", &[&base]);
        let valid = [store.output(&top, "out"), store.output(&top, "doc")];
        assert!(store.plan(&[&top], &valid, &[], false).is_empty());
        // Building again needs the inputs again.
        assert_eq!(
            store.plan(&[&top], &valid, &[], true).build,
            [base, top.clone()]
        );
        // A target needs all of its outputs.
        assert!(!store.plan(&[&top], &valid[..1], &[], false).is_empty());
    }

    #[test]
    fn of_inputs_only_the_outputs_needed_count() {
        let mut store = Fixture::default();
        let base = store.add("base", &[]);
        let top = store.add("top", &[&base]);
        let out = store.output(&base, "out");
        assert_eq!(store.plan(&[&top], &[out], &[], false).build, [top]);
    }

    #[test]
    fn what_has_a_substitute_is_downloaded_and_its_inputs_are_not_built() {
        let mut store = Fixture::default();
        let base = store.add("base", &[]);
        let middle = store.add("middle", &[&base]);
        let top = store.add("top", &[&middle]);
        let out = store.output(&middle, "out");
        let plan = store.plan(&[&top], &[], std::slice::from_ref(&out), false);
        assert_eq!(plan.build, [top]);
        assert_eq!(plan.download, BTreeSet::from([out]));
    }
}
