//! Who decides: the functions that hook and daemon use, or first come, first served.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use farm::fair_share::FairShare;
use farm::order::Paths;
use farm::placement::{self, Candidate, Task};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::graph::Graph;
use crate::machines::Machine;

/// What is to be decided.
pub trait Policy {
    /// A client's request for these goals, which are sorted; it gets the next number, from 0.
    fn request(&mut self, client: usize, graph: &Graph, goals: &[u32]);
    /// A goal of some requests can be built now.
    fn ready(&mut self, goal: u32, requests: &[usize]);
    /// The next goal to build, unless there is none; it is no longer ready.
    fn next(&mut self) -> Option<u32>;
    /// The machine that gets it, one of those that are free; `None` if it had better wait for another one.
    fn place(&mut self, build: &Build<'_>, machines: &mut [Machine]) -> Option<usize>;
    /// A goal that some requests want waits for another machine.
    fn set_aside(&mut self, _goal: u32, _requests: &[usize]) {}
    /// A slot has become free: what waits may be placed now.
    fn retry(&mut self) {}
}

/// A build that needs a machine.
pub struct Build<'a> {
    /// Its number.
    pub goal: u32,
    /// What time it is, in seconds.
    pub now: f64,
    /// All items that it needs.
    pub closure: &'a [u32],
    /// The sizes of all items.
    pub sizes: &'a [u64],
    /// What it is thought to take on a machine of speed 1, if its like was built before.
    pub estimate: Option<f64>,
    /// The size of its output.
    pub output: u64,
}

/// Which client comes first where nobody divides the farm among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// Any request: whichever process asks at the right moment.
    Any,
    /// The one whose request is the oldest, as with a queue.
    Oldest,
}

/// As Guix decides: each client's goals in the order of their names, whichever client comes first; the least
/// loaded machine, then the fastest.
pub struct FirstCome {
    first: First,
    random: StdRng,
    /// Names are as good as random numbers.
    ready: Vec<BTreeSet<(u64, u32)>>,
}

impl FirstCome {
    /// Nothing is requested yet.
    pub fn new(first: First, random: StdRng) -> FirstCome {
        FirstCome {
            first,
            random,
            ready: Vec::new(),
        }
    }
}

/// A number that a goal always has, and that says nothing about it.
fn name(goal: u32) -> u64 {
    // The mixing function of splitmix64.
    let mut hash = u64::from(goal).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash ^ hash >> 27
}

impl Policy for FirstCome {
    fn request(&mut self, _: usize, _: &Graph, _: &[u32]) {
        self.ready.push(BTreeSet::new());
    }

    fn ready(&mut self, goal: u32, requests: &[usize]) {
        for &request in requests {
            self.ready[request].insert((name(goal), goal));
        }
    }

    fn next(&mut self) -> Option<u32> {
        let waiting = (0..self.ready.len()).filter(|&one| !self.ready[one].is_empty());
        let waiting: Vec<usize> = waiting.collect();
        let position = match self.first {
            First::Any => self.random.random_range(0..waiting.len().max(1)),
            First::Oldest => 0,
        };
        let request = *waiting.get(position)?;
        let (_, goal) = self.ready[request].pop_first()?;
        for ready in &mut self.ready {
            ready.remove(&(name(goal), goal));
        }
        Some(goal)
    }

    fn place(&mut self, _: &Build<'_>, machines: &mut [Machine]) -> Option<usize> {
        // Loads are compared in steps of a quarter.
        let key = |machine: &Machine| {
            let load = (4 * machine.taken / machine.slots) as u64;
            (load, Reverse((machine.speed * 1000.0) as u64))
        };
        let free = || (0..machines.len()).filter(|&index| machines[index].is_free());
        let best = free().map(|index| key(&machines[index])).min()?;
        let best: Vec<usize> = free().filter(|&one| key(&machines[one]) == best).collect();
        Some(best[self.random.random_range(0..best.len())])
    }
}

/// As hook and daemon decide.
pub struct Ours {
    random: StdRng,
    estimates: Vec<Option<f64>>,
    requests: Vec<Request>,
    share: FairShare<usize>,
    /// What waits for faster machines, if anything may, and the requests that want it.
    waiting: Option<Waiting>,
}

/// What waits for machines that are faster than those that are free.
#[derive(Default)]
struct Waiting {
    aside: Vec<(u32, Vec<usize>)>,
    /// Until when each may wait, from when it first had to.
    until: HashMap<u32, f64>,
}

/// Only what takes longer than this is worth waiting with, in seconds.
const WORTH_WAITING: f64 = 300.0;
/// Waiting must save this fraction of the time.
const SAVED: f64 = 0.2;

impl Waiting {
    /// Whether a build that takes so long where it could begin now is sooner done on a machine that is busy.
    fn waits(&mut self, build: &Build<'_>, seconds: f64, machines: &[Machine]) -> bool {
        let Some(estimate) = build.estimate.filter(|&time| time > WORTH_WAITING) else {
            return false;
        };
        let busy = machines.iter().filter(|one| one.is_up && !one.is_free());
        let ends = busy.filter_map(|machine| {
            let ends = machine.ends.iter().map(|&(_, end)| end);
            let first = ends.min_by(f64::total_cmp)?;
            // What is late may last as long as it has by now; nobody knows.
            let free = (first - build.now).max(0.0);
            Some((free, free + 2.0 * estimate / machine.speed))
        });
        let Some((free, end)) = ends.min_by(|(_, a), (_, b)| a.total_cmp(b)) else {
            return false;
        };
        let until = *(self.until.entry(build.goal)).or_insert(build.now + 2.0 * free + 60.0);
        end < (1.0 - SAVED) * seconds && build.now < until
    }
}

/// What is known of a request.
struct Request {
    client: usize,
    /// The rank of each of its goals; both sorted by goals.
    ranks: Vec<(u32, u64)>,
    ready: BTreeSet<(Reverse<u64>, u32)>,
}

impl Ours {
    /// Nothing is requested yet; what each build is thought to take.
    pub fn new(random: StdRng, estimates: Vec<Option<f64>>) -> Ours {
        Ours {
            random,
            estimates,
            requests: Vec::new(),
            share: FairShare::default(),
            waiting: None,
        }
    }

    /// The same, with long builds waiting for fast machines.
    pub fn waiting(self) -> Ours {
        Ours {
            waiting: Some(Waiting::default()),
            ..self
        }
    }
}

/// What an unknown build is thought to take, in seconds.
pub const UNKNOWN: f64 = 60.0;

impl Policy for Ours {
    fn request(&mut self, client: usize, graph: &Graph, goals: &[u32]) {
        let mut paths = Paths::default();
        for &goal in goals {
            let seconds = self.estimates[goal as usize].unwrap_or(UNKNOWN);
            paths.add((seconds * 1000.0) as u64);
        }
        for (waiter, &goal) in goals.iter().enumerate() {
            for input in &graph.derivations[goal as usize].inputs {
                if let Ok(dependency) = goals.binary_search(input) {
                    paths.wait(waiter, dependency);
                }
            }
        }
        let ranks = paths.ranks();
        let ranks = (goals.iter().enumerate()).map(|(task, &goal)| (goal, ranks.rank(task)));
        self.requests.push(Request {
            client,
            ranks: ranks.collect(),
            ready: BTreeSet::new(),
        });
    }

    fn ready(&mut self, goal: u32, requests: &[usize]) {
        for &request in requests {
            let request = &mut self.requests[request];
            if let Some(rank) = request.rank(goal) {
                request.ready.insert((Reverse(rank), goal));
            }
        }
    }

    fn next(&mut self) -> Option<u32> {
        let waiting = (0..self.requests.len()).filter(|&one| !self.requests[one].ready.is_empty());
        let waiting: Vec<usize> = waiting.collect();
        let clients = waiting.iter().map(|&one| self.requests[one].client);
        let client = clients.min_by_key(|client| self.share.start(client))?;
        // A client's own requests have no shares: any of them comes first.
        let own = waiting
            .iter()
            .filter(|&&one| self.requests[one].client == client);
        let own: Vec<usize> = own.copied().collect();
        let first = own[self.random.random_range(0..own.len())];
        self.share.serve(client);
        let (_, goal) = self.requests[first].ready.pop_first()?;
        // Another request may want what waited.
        if let Some(waiting) = &mut self.waiting {
            waiting.aside.retain(|(aside, _)| *aside != goal);
        }
        for request in &mut self.requests {
            if let Some(rank) = request.rank(goal) {
                request.ready.remove(&(Reverse(rank), goal));
            }
        }
        Some(goal)
    }

    fn place(&mut self, build: &Build<'_>, machines: &mut [Machine]) -> Option<usize> {
        let lines_in_use = machines
            .iter()
            .filter(|one| !one.uploads.is_empty())
            .count();
        let free = (0..machines.len()).filter(|&index| machines[index].is_free());
        let free: Vec<usize> = free.collect();
        let candidates: Vec<Candidate> = free
            .iter()
            .map(|&index| {
                let machine = &mut machines[index];
                let lacks = build.closure.iter().filter(|&&item| !machine.has(item));
                let lacks = lacks.map(|&item| build.sizes[item as usize]).sum();
                let taken = machine.taken as f64;
                Candidate {
                    load: taken / machine.cores as f64,
                    taken: taken / machine.slots as f64,
                    speed: machine.speed,
                    lacks: Some(lacks),
                    queued: machine.uploads.iter().map(|&(_, bytes)| bytes).sum(),
                    rate_there: machine.rates_there.typical(),
                    rate_back: machine.rates_back.typical(),
                    fetches: false,
                }
            })
            .collect();
        let task = Task {
            run: build.estimate.map(Duration::from_secs_f64),
            outputs: Some(build.output),
            lines_in_use,
        };
        let ranked = placement::rank(&candidates, &task, &mut self.random);
        let best = ranked.first()?;
        let seconds = best.expected.seconds();
        let waiting = self.waiting.as_mut();
        match waiting.is_some_and(|waiting| waiting.waits(build, seconds, machines)) {
            true => None,
            false => Some(free[best.index]),
        }
    }

    fn set_aside(&mut self, goal: u32, requests: &[usize]) {
        if let Some(waiting) = &mut self.waiting {
            waiting.aside.push((goal, requests.to_vec()));
        }
    }

    fn retry(&mut self) {
        let aside = self
            .waiting
            .as_mut()
            .map(|waiting| std::mem::take(&mut waiting.aside));
        for (goal, requests) in aside.into_iter().flatten() {
            self.ready(goal, &requests);
        }
    }
}

impl Request {
    fn rank(&self, goal: u32) -> Option<u64> {
        let found = self.ranks.binary_search_by_key(&goal, |&(goal, _)| goal);
        found.ok().map(|index| self.ranks[index].1)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn what_waits_is_begun_once_although_another_request_wants_it_meanwhile() {
        let graph = Graph::like_a_distribution(1, 1);
        let random = StdRng::seed_from_u64(1);
        let mut policy = Ours::new(random, vec![Some(3600.0)]).waiting();
        policy.request(0, &graph, &[0]);
        policy.ready(0, &[0]);
        assert_eq!(policy.next(), Some(0));
        policy.set_aside(0, &[0]);
        policy.request(1, &graph, &[0]);
        policy.ready(0, &[1]);
        assert_eq!(policy.next(), Some(0));
        // It has got a machine.
        policy.retry();
        assert_eq!(policy.next(), None);
    }
}
