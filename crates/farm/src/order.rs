//! The order in which work is begun: first whatever the longest remaining path waits for.
//!
//! Each task has a weight, the time that it usually takes, and waits for others. Its *upward rank*
//! is its own weight and those of the longest chain of tasks that wait for it, as in the list
//! scheduling of HEFT (Topcuoglu, Hariri, Wu 2002), without the times of transfers. If tasks are
//! begun by rank, a long chain isn't left for the end, when most machines have nothing to do.
//!
//! ```
//! use farm::order::Paths;
//!
//! let mut paths = Paths::default();
//! let [top, slow, quick, below] = [1, 9, 2, 5].map(|weight| paths.add(weight));
//! paths.wait(top, slow);
//! paths.wait(top, quick);
//! paths.wait(slow, below);
//! let ranks = paths.ranks();
//! assert_eq!([top, slow, quick, below].map(|task| ranks.rank(task)), [1, 10, 3, 15]);
//! assert_eq!(ranks.longest_path(), [below, slow, top]);
//! ```

use std::collections::VecDeque;

/// Tasks, their weights, and which waits for which.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    weights: Vec<u64>,
    /// Who waits, and for what.
    waits: Vec<(usize, usize)>,
}

impl Paths {
    /// Adds a task; tasks are numbered from 0.
    pub fn add(&mut self, weight: u64) -> usize {
        self.weights.push(weight);
        self.weights.len() - 1
    }

    /// Makes the task `waiter` wait for the task `dependency`. Both must have been added.
    pub fn wait(&mut self, waiter: usize, dependency: usize) {
        self.waits.push((waiter, dependency));
    }

    /// The ranks of all tasks. Tasks that wait for each other in a circle, and what only they wait
    /// for, have a rank that is too low: nothing will come of them anyway.
    pub fn ranks(&self) -> Ranks {
        self.ranks_counting(&mut 0)
    }

    /// Counts the visits of tasks and of waits.
    fn ranks_counting(&self, steps: &mut usize) -> Ranks {
        let count = self.weights.len();
        // The dependencies of each task, one list after the other.
        let mut begins = vec![0; count + 1];
        let mut waiters_left = vec![0_usize; count];
        for &(waiter, dependency) in &self.waits {
            *steps += 1;
            begins[waiter + 1] += 1;
            waiters_left[dependency] += 1;
        }
        for task in 0..count {
            begins[task + 1] += begins[task];
        }
        let mut next_of = begins.clone();
        let mut dependencies = vec![0; self.waits.len()];
        for &(waiter, dependency) in &self.waits {
            *steps += 1;
            dependencies[next_of[waiter]] = dependency;
            next_of[waiter] += 1;
        }
        let mut ranks = Ranks {
            ranks: self.weights.clone(),
            through: vec![None; count],
        };
        let mut ready: VecDeque<usize> = (0..count).filter(|&one| waiters_left[one] == 0).collect();
        while let Some(waiter) = ready.pop_front() {
            *steps += 1;
            for &dependency in &dependencies[begins[waiter]..begins[waiter + 1]] {
                *steps += 1;
                let rank = ranks.ranks[waiter].saturating_add(self.weights[dependency]);
                // A path without weight is a path, too.
                if rank > ranks.ranks[dependency] || ranks.through[dependency].is_none() {
                    ranks.ranks[dependency] = rank;
                    ranks.through[dependency] = Some(waiter);
                }
                waiters_left[dependency] -= 1;
                if waiters_left[dependency] == 0 {
                    ready.push_back(dependency);
                }
            }
        }
        ranks
    }
}

/// The ranks of tasks.
#[derive(Clone, Debug)]
pub struct Ranks {
    ranks: Vec<u64>,
    /// The waiter by which the longest path goes on.
    through: Vec<Option<usize>>,
}

impl Ranks {
    /// The weight of the longest path from a task, itself included, to one that nobody waits for.
    pub fn rank(&self, task: usize) -> u64 {
        self.ranks[task]
    }

    /// The tasks of the longest path, in the order in which they must be done.
    pub fn longest_path(&self) -> Vec<usize> {
        let numbers = 0..self.ranks.len();
        // Of equal ones, the one with the lowest number.
        let first = numbers.rev().max_by_key(|&task| self.ranks[task]);
        let mut path: Vec<usize> = Vec::new();
        let mut next = first;
        while let Some(task) = next.filter(|_| path.len() < self.ranks.len()) {
            path.push(task);
            next = self.through[task];
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Tasks with these weights; each pair is a waiter and what it waits for.
    fn paths(weights: &[u64], waits: &[(usize, usize)]) -> Paths {
        Paths {
            weights: weights.to_vec(),
            waits: waits.to_vec(),
        }
    }

    #[test]
    fn nothing_has_no_path() {
        assert!(Paths::default().ranks().longest_path().is_empty());
    }

    #[test]
    fn the_longest_of_several_ways_up_counts() {
        // 0 waits for 1, 2 and 3; 1 and 2 wait for 3.
        let waits = [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)];
        let ranks = paths(&[1, 5, 7, 1], &waits).ranks();
        assert_eq!(ranks.ranks, [1, 6, 8, 9]);
        assert_eq!(ranks.longest_path(), [3, 2, 0]);
        let weightless = paths(&[0, 0], &[(0, 1)]).ranks();
        assert_eq!(weightless.longest_path(), [0], "of equals the first");
    }

    #[test]
    fn a_circle_ends_and_so_does_a_huge_weight() {
        let ranks = paths(&[1, 1, 1], &[(0, 1), (1, 2), (2, 1)]).ranks();
        assert_eq!(ranks.rank(0), 1);
        assert!(ranks.longest_path().len() <= 3);
        let heavy = paths(&[u64::MAX, u64::MAX], &[(0, 1)]).ranks();
        assert_eq!(heavy.rank(1), u64::MAX);
    }

    #[test]
    fn a_wait_is_looked_at_three_times_however_many_there_are() {
        for count in [1_000_usize, 100_000] {
            // As wide as it is deep, with several ways to everything.
            let mut paths = Paths::default();
            for task in 0..count {
                paths.add(task as u64 % 17);
                for back in [1, 2, 30, 1000] {
                    if let Some(waiter) = task.checked_sub(back) {
                        paths.wait(waiter, task);
                    }
                }
            }
            let mut steps = 0;
            paths.ranks_counting(&mut steps);
            assert_eq!(steps, count + 3 * paths.waits.len());
        }
    }

    proptest! {
        #[test]
        fn the_rank_is_the_weight_of_the_longest_chain(
            weights in prop::collection::vec(0..100_u64, 1..8),
            edges in prop::collection::vec((0..8_usize, 0..8_usize), 0..20),
        ) {
            let count = weights.len();
            // A waiter has the lower number, so that there are no circles.
            let waits: Vec<_> = edges.into_iter().filter(|&(a, b)| a < b && b < count).collect();
            let ranks = paths(&weights, &waits).ranks();
            let mut expected = weights.clone();
            for task in 0..count {
                let above = waits.iter().filter(|&&(_, dependency)| dependency == task);
                let above = above.map(|&(waiter, _)| expected[waiter]).max();
                expected[task] += above.unwrap_or_default();
            }
            prop_assert_eq!(&ranks.ranks, &expected);
            let path = ranks.longest_path();
            let weight: u64 = path.iter().map(|&task| weights[task]).sum();
            prop_assert_eq!(Some(weight), expected.into_iter().max());
        }
    }
}
