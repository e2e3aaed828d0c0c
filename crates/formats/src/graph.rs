//! Graph traversals without recursion: only memory limits the depth.
//!
//! | traversal | visits each node |
//! |---|---|
//! | [`Worklist`] | once, nearest first: closures, reachability |
//! | [`DepthFirst`] | once before and once after its successors; finds cycles |
//! | [`topological_sort`] | after its successors |

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::hash::Hash;

/// The nodes that are still to be visited. Each node is visited once, in the order in which nodes
/// were found (a breadth-first search).
///
/// ```
/// use formats::graph::Worklist;
///
/// // Each number leads to its half and its third.
/// let mut worklist = Worklist::new([12]);
/// let mut order = Vec::new();
/// while let Some(number) = worklist.next() {
///     order.push(number);
///     worklist.extend([2, 3].into_iter().filter(|d| number % d == 0).map(|d| number / d));
/// }
/// assert_eq!(order, [12, 6, 4, 3, 2, 1]);
/// assert_eq!(worklist.into_found().len(), 6);
/// ```
#[derive(Clone, Debug)]
pub struct Worklist<N> {
    found: BTreeSet<N>,
    pending: VecDeque<N>,
}

impl<N: Ord + Clone> Worklist<N> {
    /// A traversal that starts from these nodes.
    pub fn new(starts: impl IntoIterator<Item = N>) -> Worklist<N> {
        let mut worklist = Worklist {
            found: BTreeSet::new(),
            pending: VecDeque::new(),
        };
        worklist.extend(starts);
        worklist
    }

    /// The next node to visit; `None` once all have been visited.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator could not be extended"
    )]
    pub fn next(&mut self) -> Option<N> {
        self.pending.pop_front()
    }

    /// Adds nodes; those that were added before are skipped.
    pub fn extend(&mut self, nodes: impl IntoIterator<Item = N>) {
        for node in nodes {
            if !self.found.contains(&node) {
                self.found.insert(node.clone());
                self.pending.push_back(node);
            }
        }
    }

    /// All nodes that were found, including the start.
    pub fn into_found(self) -> BTreeSet<N> {
        self.found
    }
}

/// A step of a [`DepthFirst`] walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<N, T> {
    /// The node was found. Call [`DepthFirst::enter`] to visit it; otherwise it is skipped.
    Found(N),
    /// All successors of the node have been visited. Has the value that it was entered with.
    Leave(N, T),
    /// The node is being visited, and a path from it leads back to it.
    Cycle(N),
}

/// A depth-first search that keeps a value for each node while its successors are visited.
///
/// [`topological_sort`] is the simplest example of its use.
#[derive(Clone, Debug)]
pub struct DepthFirst<N, T> {
    /// In reverse.
    starts: Vec<N>,
    /// The nodes being visited, each with its remaining successors, in reverse.
    stack: Vec<(N, T, Vec<N>)>,
    /// The nodes on the stack.
    active: HashSet<N>,
    done: HashSet<N>,
}

impl<N: Eq + Hash + Clone, T> DepthFirst<N, T> {
    /// A traversal that starts from these nodes.
    pub fn new(starts: impl IntoIterator<Item = N>) -> DepthFirst<N, T> {
        DepthFirst {
            starts: reversed(starts),
            stack: Vec::new(),
            active: HashSet::new(),
            done: HashSet::new(),
        }
    }

    /// The next step; `None` at the end.
    #[expect(
        clippy::should_implement_trait,
        reason = "nodes are entered in between"
    )]
    pub fn next(&mut self) -> Option<Step<N, T>> {
        loop {
            let next = match self.stack.last_mut() {
                Some((_, _, successors)) => successors.pop(),
                None => Some(self.starts.pop()?),
            };
            match next {
                Some(node) if self.done.contains(&node) => {}
                Some(node) if self.active.contains(&node) => return Some(Step::Cycle(node)),
                Some(node) => return Some(Step::Found(node)),
                None => {
                    let (node, value, _) = self.stack.pop()?;
                    self.active.remove(&node);
                    self.done.insert(node.clone());
                    return Some(Step::Leave(node, value));
                }
            }
        }
    }

    /// Visits a node that was [found](Step::Found): its `successors` are visited before it is left.
    pub fn enter(&mut self, node: N, value: T, successors: impl IntoIterator<Item = N>) {
        self.active.insert(node.clone());
        self.stack.push((node, value, reversed(successors)));
    }
}

fn reversed<N>(nodes: impl IntoIterator<Item = N>) -> Vec<N> {
    let mut nodes: Vec<N> = nodes.into_iter().collect();
    nodes.reverse();
    nodes
}

/// A node that is part of a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cycle<N>(pub N);

/// Sorts the keys of `edges` so that each comes after its successors. Edges from a node to itself
/// and edges to nodes that aren't keys are ignored.
///
/// ```
/// use std::collections::{BTreeMap, BTreeSet};
/// use formats::graph::{Cycle, topological_sort};
///
/// let mut edges = BTreeMap::from([
///     ("hello", BTreeSet::from(["hello", "glibc"])),
///     ("glibc", BTreeSet::from(["bash"])),
///     ("bash", BTreeSet::new()),
/// ]);
/// assert_eq!(topological_sort(&edges), Ok(vec!["bash", "glibc", "hello"]));
/// edges.insert("bash", BTreeSet::from(["glibc"]));
/// assert_eq!(topological_sort(&edges), Err(Cycle("bash")));
/// ```
pub fn topological_sort<N: Ord + Hash + Clone>(
    edges: &BTreeMap<N, BTreeSet<N>>,
) -> Result<Vec<N>, Cycle<N>> {
    let mut sorted = Vec::with_capacity(edges.len());
    let mut walk = DepthFirst::new(edges.keys());
    while let Some(step) = walk.next() {
        match step {
            Step::Found(node) => {
                if let Some(successors) = edges.get(node) {
                    walk.enter(node, (), successors.iter().filter(|next| *next != node));
                }
            }
            Step::Leave(node, ()) => sorted.push(node.clone()),
            Step::Cycle(node) => return Err(Cycle(node.clone())),
        }
    }
    Ok(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn everything_comes_after_what_it_leads_to(
            pairs in proptest::collection::vec((0..40_u32, 0..40_u32), 0..200)
        ) {
            // Edges lead to smaller numbers only, so there is no cycle.
            let mut edges: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
            for (one, other) in &pairs {
                edges.entry(*one.max(other)).or_default().insert(*one.min(other));
            }
            let sorted = topological_sort(&edges).unwrap();
            prop_assert_eq!(sorted.len(), edges.len());
            let place = |node| sorted.iter().position(|other| *other == node);
            for (from, to) in edges.iter().flat_map(|(from, to)| to.iter().map(move |to| (*from, *to))) {
                if let Some(before) = place(to) {
                    prop_assert!(from == to || Some(before) < place(from));
                }
            }
        }

        #[test]
        fn a_worklist_finds_what_can_be_reached(
            pairs in proptest::collection::vec((0..20_u32, 0..20_u32), 0..60)
        ) {
            let mut worklist = Worklist::new([0]);
            while let Some(node) = worklist.next() {
                worklist.extend(pairs.iter().filter(|(from, _)| *from == node).map(|(_, to)| *to));
            }
            let found = worklist.into_found();
            // The smallest set that contains 0 and is closed under the edges.
            let mut expected = BTreeSet::from([0]);
            for _ in 0..20 {
                let next: Vec<u32> = pairs
                    .iter()
                    .filter(|(from, _)| expected.contains(from))
                    .map(|(_, to)| *to)
                    .collect();
                expected.extend(next);
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn deep_graphs_need_no_stack() {
        let edges: BTreeMap<u32, BTreeSet<u32>> =
            (0..200_000).map(|n| (n, BTreeSet::from([n + 1]))).collect();
        let sorted = topological_sort(&edges).unwrap();
        assert_eq!((sorted[0], sorted[199_999]), (199_999, 0));
    }
}
