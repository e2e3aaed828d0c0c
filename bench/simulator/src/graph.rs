//! A graph of derivations that is shaped like that of a distribution, from published figures.
//!
//! * Times: L. Nussbaum, "Some stats about packages build times" (October 2006): of the 10,052 source
//!   packages of Debian 4.0, 53.6 % took less than 30 s, 77 % less than 60 s, 90 % less than 120 s, 98.7 %
//!   less than 500 s, 99.6 % less than 1,800 s, the longest 21,537 s; median 27 s, mean 78.9 s. Processors
//!   have become faster since, and packages larger; only the shape matters here.
//! * Sizes: the index of Debian 12 (`main`, amd64, 66,392 packages): the quantiles of `Installed-Size`.
//! * Edges: M. Meschede, "Mapping a Universe of Open Source Software" (Tweag, 2019): Nixpkgs has 46,000
//!   derivations and 300,000 edges, six and a half each; how many depend on one follows a power law, which
//!   is what preferential attachment gives.
//!
//! Assumptions of ours: seven of ten inputs are chosen by how many depend on them already; a third of the
//! inputs is needed at run time, too; a closure that has 200 items gets no more; and neither time nor size
//! depends on the place in the graph.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// Fractions of packages, and the seconds within which they are built.
const SECONDS: &[(f64, f64)] = &[
    (0.0, 2.0),
    (0.5, 27.0),
    (0.536, 30.0),
    (0.770, 60.0),
    (0.900, 120.0),
    (0.987, 500.0),
    (0.996, 1800.0),
    (1.0, 21537.0),
];

/// Fractions of packages, and the KiB that they have at most.
const KIB: &[(f64, f64)] = &[
    (0.0, 4.0),
    (0.01, 8.0),
    (0.1, 31.0),
    (0.25, 67.0),
    (0.5, 238.0),
    (0.75, 1283.0),
    (0.9, 6598.0),
    (0.95, 18_113.0),
    (0.99, 98_670.0),
    (0.999, 602_242.0),
    (1.0, 6_709_328.0),
];

/// Edges for each derivation.
const EDGES: f64 = 6.5;
/// The probability that an input is chosen because many depend on it; others are as good as any other.
const FAME: f64 = 0.7;
/// The probability that an input is needed at run time.
const RUN_TIME: f64 = 1.0 / 3.0;
/// The most items of a closure.
const CLOSURE: usize = 200;

/// A derivation, and its one output.
#[derive(Debug, Clone)]
pub struct Derivation {
    /// Those whose outputs it needs; all have smaller numbers.
    pub inputs: Vec<u32>,
    /// All items that a machine needs to build it, sorted.
    pub closure: Vec<u32>,
    /// How long a machine of speed 1 takes to build it.
    pub seconds: f64,
    /// The size of its output.
    pub bytes: u64,
}

/// All derivations, inputs first.
#[derive(Debug)]
pub struct Graph {
    /// The derivations.
    pub derivations: Vec<Derivation>,
    /// Those that have each as an input.
    pub dependents: Vec<Vec<u32>>,
    /// The sizes of items that nobody builds. As items of closures, they are numbered after the derivations.
    pub sources: Vec<u64>,
}

impl Graph {
    /// A graph of so many derivations.
    pub fn like_a_distribution(count: usize, seed: u64) -> Graph {
        let mut random = StdRng::seed_from_u64(seed);
        let mut derivations: Vec<Derivation> = Vec::with_capacity(count);
        // What an item needs at run time, and the item.
        let mut run_time: Vec<Vec<u32>> = Vec::with_capacity(count);
        // Each derivation once, and once more for each that depends on it.
        let mut fame: Vec<u32> = Vec::new();
        for number in 0..count as u32 {
            let inputs = inputs(number, &fame, &mut random);
            let closures = inputs.iter().map(|&input| &run_time[input as usize]);
            let closure = union(closures);
            let kept: Vec<u32> = (inputs.iter().copied())
                .filter(|_| random.random_bool(RUN_TIME))
                .collect();
            let own = vec![number];
            let closures = kept.iter().map(|&input| &run_time[input as usize]);
            run_time.push(union(std::iter::once(&own).chain(closures)));
            fame.push(number);
            fame.extend(&inputs);
            derivations.push(Derivation {
                inputs,
                closure,
                seconds: quantile(SECONDS, random.random()),
                bytes: (quantile(KIB, random.random()) * 1024.0) as u64,
            });
        }
        Graph::new(derivations, Vec::new())
    }

    /// These derivations, and the sizes of what they need besides.
    pub fn new(derivations: Vec<Derivation>, sources: Vec<u64>) -> Graph {
        let mut dependents = vec![Vec::new(); derivations.len()];
        for (number, derivation) in derivations.iter().enumerate() {
            for &input in &derivation.inputs {
                dependents[input as usize].push(number as u32);
            }
        }
        Graph {
            derivations,
            dependents,
            sources,
        }
    }

    /// Several graphs without sources as one, one after the other: they have nothing in common.
    pub fn side_by_side(graphs: impl IntoIterator<Item = Graph>) -> Graph {
        let mut all: Vec<Derivation> = Vec::new();
        for graph in graphs {
            let before = all.len() as u32;
            all.extend(graph.derivations.into_iter().map(|mut derivation| {
                let items = (derivation.inputs.iter_mut()).chain(&mut derivation.closure);
                items.for_each(|item| *item += before);
                derivation
            }));
        }
        Graph::new(all, Vec::new())
    }

    /// The sizes of all items, in bytes.
    pub fn sizes(&self) -> Vec<u64> {
        let outputs = self.derivations.iter().map(|derivation| derivation.bytes);
        outputs.chain(self.sources.iter().copied()).collect()
    }

    /// Whether there are no derivations.
    pub fn is_empty(&self) -> bool {
        self.derivations.is_empty()
    }

    /// The number of derivations.
    pub fn len(&self) -> usize {
        self.derivations.len()
    }

    /// For each derivation, the longest time from its start to the end of what depends on it, if each
    /// takes `seconds`.
    pub fn longest_paths(&self, seconds: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut paths = vec![0.0; self.len()];
        for number in (0..self.len()).rev() {
            let after = self.dependents[number].iter();
            let after = after.map(|&dependent| paths[dependent as usize]);
            paths[number] = seconds(number) + after.fold(0.0, f64::max);
        }
        paths
    }

    /// How many derivations the longest chain has.
    pub fn depth(&self) -> usize {
        let paths = self.longest_paths(|_| 1.0);
        paths.into_iter().fold(0.0, f64::max) as usize
    }
}

/// The inputs of a derivation: some that many depend on, and some others.
fn inputs(number: u32, fame: &[u32], random: &mut StdRng) -> Vec<u32> {
    if number == 0 {
        return Vec::new();
    }
    // Between none and twice the mean.
    let count = random.random_range(0.0..=2.0 * EDGES).round() as usize;
    let mut inputs: Vec<u32> = (0..count.min(number as usize))
        .map(|_| match random.random_bool(FAME) {
            true => fame[random.random_range(0..fame.len())],
            false => random.random_range(0..number),
        })
        .collect();
    inputs.sort_unstable();
    inputs.dedup();
    inputs
}

/// The items of all closures, as far as there is room.
fn union<'a>(closures: impl Iterator<Item = &'a Vec<u32>>) -> Vec<u32> {
    let mut all: Vec<u32> = Vec::new();
    for closure in closures {
        if all.len() + closure.len() <= CLOSURE {
            all.extend(closure);
            all.sort_unstable();
            all.dedup();
        } else if let Some(own) = closure.last() {
            // What is asked for itself is always there.
            all.push(*own);
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// The value at a fraction, between those of a table on a logarithmic scale.
fn quantile(table: &[(f64, f64)], fraction: f64) -> f64 {
    let above = table.partition_point(|&(at, _)| at < fraction);
    let above = above.clamp(1, table.len() - 1);
    let ((from, low), (to, high)) = (table[above - 1], table[above]);
    low * (high / low).powf((fraction - from) / (to - from))
}

/// A factor about 1: half of them within 1/1.14 and 1.14 if `spread` is 0.2 (a log-normal distribution).
pub fn about_one(spread: f64, random: &mut impl Rng) -> f64 {
    // The sum of twelve uniform numbers is nearly normal.
    let normal: f64 = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
    (spread * normal).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shaped_like_what_was_published() {
        let graph = Graph::like_a_distribution(10_000, 1);
        let sorted = |of: fn(&Derivation) -> f64| {
            let mut all: Vec<f64> = graph.derivations.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all
        };
        let seconds = sorted(|derivation| derivation.seconds);
        assert!((25.0..29.0).contains(&seconds[5000]), "{}", seconds[5000]);
        let mean = seconds.iter().sum::<f64>() / 10_000.0;
        assert!((60.0..110.0).contains(&mean), "{mean}");
        let bytes = sorted(|derivation| derivation.bytes as f64);
        assert!((220e3..270e3).contains(&bytes[5000]), "{}", bytes[5000]);
        let edges: usize = (graph.derivations.iter())
            .map(|derivation| derivation.inputs.len())
            .sum();
        assert!((55_000..70_000).contains(&edges), "{edges}");
        let most = graph.dependents.iter().map(Vec::len).max();
        assert!(most > Some(500), "{most:?}");
        assert!((15..200).contains(&graph.depth()), "{}", graph.depth());
    }

    #[test]
    fn inputs_come_first_and_are_in_the_closure() {
        let graph = Graph::like_a_distribution(1000, 2);
        for (number, derivation) in graph.derivations.iter().enumerate() {
            for input in &derivation.inputs {
                assert!((*input as usize) < number);
                assert!(derivation.closure.binary_search(input).is_ok());
                assert!(graph.dependents[*input as usize].contains(&(number as u32)));
            }
        }
    }

    #[test]
    fn graphs_side_by_side_have_nothing_in_common() {
        let one = |seed| Graph::like_a_distribution(100, seed);
        let both = Graph::side_by_side([one(1), one(2)]);
        assert_eq!(
            (both.len(), both.depth()),
            (200, one(1).depth().max(one(2).depth()))
        );
        for (number, derivation) in both.derivations.iter().enumerate() {
            let items = derivation.inputs.iter().chain(&derivation.closure);
            assert!(
                items
                    .map(|&item| item as usize / 100)
                    .all(|graph| graph == number / 100)
            );
        }
    }

    #[test]
    fn a_path_is_as_long_as_its_longest_chain() {
        let graph = Graph::like_a_distribution(500, 3);
        let paths = graph.longest_paths(|number| graph.derivations[number].seconds);
        for (number, dependents) in graph.dependents.iter().enumerate() {
            for &dependent in dependents {
                assert!(paths[number] > paths[dependent as usize]);
            }
        }
    }
}
