//! A farm over a simulated clock: what happens when, after each decision.
//!
//! A build takes a slot, waits for its turn to send what its machine lacks, builds, waits for its turn to
//! fetch its output, and frees the slot, as with the hook. Machines fail now and then, with all of their
//! builds, which are done again elsewhere; what they have stays.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::graph::Graph;
use crate::line::Line;
use crate::machines::Machine;
use crate::policy::{Build, Policy, UNKNOWN};
use crate::seconds::Seconds;

/// What is done besides building.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What the head's line carries in each direction, in bytes each second.
    pub line: f64,
    /// How many seconds a machine usually works before it fails; infinite if none does.
    pub between_failures: f64,
    /// What each build takes besides what is simulated, in seconds: starting it, and asking for it.
    pub besides: f64,
    /// How many slots may be taken at a time.
    pub most_slots: usize,
    /// What clients ask for, in the order of time.
    pub requests: Vec<Request>,
    /// When to stop, in seconds, although not everything is done; usually infinite.
    pub until: f64,
    /// For random numbers.
    pub seed: u64,
}

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// When, in seconds.
    pub time: f64,
    /// Whose it is; a client may have several.
    pub client: usize,
    /// The goals, sorted.
    pub goals: Vec<u32>,
}

/// How long a machine that has failed is away, in seconds.
const AWAY: f64 = 600.0;

/// What came of it.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// When everything was done, in seconds.
    pub makespan: f64,
    /// Bytes sent to machines.
    pub sent: u64,
    /// When each request came, and when it was done.
    pub requests: Vec<(f64, f64)>,
    /// How many machines were chosen.
    pub decisions: u64,
    /// How long choosing goals and machines took.
    pub deciding: Duration,
    /// The longest of these decisions.
    pub longest_decision: Duration,
    /// The number of builds whose machine has failed.
    pub lost: u64,
    /// Seconds in which slots were taken.
    pub taken: f64,
    /// When builds began and ended, for plots: times, and how many slots were taken since.
    pub busy: Vec<(f64, usize)>,
    /// Where the time went of the chain that ended last.
    pub chain: Chain,
    /// How long goals that could be built waited for a slot, by the number of the request: how many there were, and
    /// seconds for all of them.
    pub waits: Vec<(usize, f64)>,
    /// All attempts, in the order in which they began.
    pub attempts: Vec<Attempt>,
    /// When machines have failed, or returned (then it is true).
    pub changes: Vec<(f64, usize, bool)>,
}

/// Where the time went of the chain of builds that ended last: each of them was the last one that the next waited for.
/// In seconds; the sum is the time at which it ended.
#[derive(Debug, Default, Clone, Copy)]
pub struct Chain {
    /// What its builds would take on the fastest machine.
    pub fastest: f64,
    /// How much longer they took on machines that are slower.
    pub slower: f64,
    /// Waiting for a slot, from when each could be built.
    pub slots: f64,
    /// Waiting for lines, and sending and fetching.
    pub lines: f64,
    /// Attempts that were lost with their machines.
    pub lost: f64,
}

/// What has happened to a goal when, in seconds.
#[derive(Debug, Default, Clone, Copy)]
struct Course {
    /// Its inputs were there.
    ready: f64,
    /// Its last attempt began.
    began: f64,
    /// Its machine had what it needs.
    sent: f64,
    built: f64,
    /// Its output was here.
    done: f64,
    /// How long attempts took that were lost.
    lost: f64,
}

/// Jain's index of what several have: 1 if all have the same, 1/n if one of n has everything.
pub fn jain(shares: impl IntoIterator<Item = f64>) -> f64 {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for share in shares {
        count += 1.0;
        sum += share;
        squares += share * share;
    }
    if squares > 0.0 {
        sum * sum / (count * squares)
    } else {
        1.0
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Request(usize),
    Built(usize),
    Fails(usize),
    Returns(usize),
}

/// An attempt to build something somewhere. Times are in seconds.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// What is built.
    pub goal: u32,
    /// Where.
    pub machine: usize,
    /// Whether the machine has failed meanwhile.
    pub is_lost: bool,
    /// When its slot was taken.
    pub began: f64,
    /// When its inputs began to be sent, and had arrived; and how many bytes those were.
    pub sent: Option<(f64, f64, u64)>,
    /// When it was built.
    pub built: Option<f64>,
    /// When its output was here, or when it was lost.
    pub ended: Option<f64>,
    /// When its present transfer began.
    transfer: f64,
    bytes: u64,
}

/// A simulation in progress.
struct Simulation<'a> {
    graph: &'a Graph,
    estimates: &'a [Option<f64>],
    sizes: Vec<u64>,
    scenario: &'a Scenario,
    machines: Vec<Machine>,
    random: StdRng,
    now: f64,
    events: BinaryHeap<Reverse<(Seconds, Event)>>,
    there: Line,
    back: Line,
    attempts: Vec<Attempt>,
    running: Vec<Vec<usize>>,
    /// How many inputs of each goal are missing.
    missing: Vec<u32>,
    done: Vec<bool>,
    begun: Vec<bool>,
    /// The requests for each goal, and how many goals each has left.
    wanted: Vec<Vec<usize>>,
    left: Vec<usize>,
    /// Since when each goal could be built that the last request wants.
    ready_since: Vec<f64>,
    courses: Vec<Course>,
    free: usize,
    taken: usize,
    outcome: Outcome,
}

/// Simulates a farm.
pub fn run(
    graph: &Graph,
    estimates: &[Option<f64>],
    machines: Vec<Machine>,
    scenario: &Scenario,
    policy: &mut dyn Policy,
) -> Outcome {
    let count = graph.len();
    let mut simulation = Simulation {
        graph,
        estimates,
        sizes: graph.sizes(),
        scenario,
        running: machines.iter().map(|_| Vec::new()).collect(),
        free: machines.iter().map(|machine| machine.slots).sum(),
        machines,
        random: StdRng::seed_from_u64(scenario.seed),
        now: 0.0,
        events: BinaryHeap::new(),
        there: Line::new(scenario.line),
        back: Line::new(scenario.line),
        attempts: Vec::new(),
        missing: (graph.derivations.iter())
            .map(|derivation| derivation.inputs.len() as u32)
            .collect(),
        done: vec![false; count],
        begun: vec![false; count],
        wanted: vec![Vec::new(); count],
        left: Vec::new(),
        ready_since: vec![0.0; count],
        courses: vec![Course::default(); count],
        taken: 0,
        outcome: Outcome::default(),
    };
    simulation.run(policy);
    simulation.outcome
}

impl Simulation<'_> {
    fn run(&mut self, policy: &mut dyn Policy) {
        for (number, request) in self.scenario.requests.iter().enumerate() {
            self.at(request.time, Event::Request(number));
        }
        for machine in 0..self.machines.len() {
            self.will_fail(machine);
        }
        while self.step(policy) {
            self.decide(policy);
        }
        self.outcome.sent = self.there.bytes;
        self.outcome.attempts = std::mem::take(&mut self.attempts);
        self.outcome.chain = self.last_chain();
    }

    /// Where the time went of the chain that ended last.
    fn last_chain(&self) -> Chain {
        let done = |goal: &usize| self.courses[*goal].done;
        let earlier = |a: &usize, b: &usize| done(a).total_cmp(&done(b));
        let speeds = self.machines.iter().map(|machine| machine.speed);
        let fastest = speeds.fold(0.0, f64::max);
        let mut chain = Chain::default();
        let mut next = (0..self.graph.len()).max_by(earlier);
        while let Some(goal) = next {
            let course = self.courses[goal];
            let derivation = &self.graph.derivations[goal];
            let least = derivation.seconds / fastest;
            chain.fastest += least;
            chain.slower += course.built - course.sent - least;
            chain.slots += course.began - course.ready - course.lost;
            chain.lines += course.sent - course.began + course.done - course.built;
            chain.lost += course.lost;
            let inputs = derivation.inputs.iter().map(|&input| input as usize);
            next = inputs.max_by(earlier);
        }
        chain
    }

    fn at(&mut self, time: f64, event: Event) {
        self.events.push(Reverse((Seconds(time), event)));
    }

    fn will_fail(&mut self, machine: usize) {
        if self.scenario.between_failures.is_finite() {
            let chance: f64 = self.random.random();
            let after = -self.scenario.between_failures * (1.0 - chance).ln();
            self.at(self.now + after, Event::Fails(machine));
        }
    }

    /// Does what happens next; `false` if all requests are done.
    fn step(&mut self, policy: &mut dyn Policy) -> bool {
        let has_more = self.outcome.requests.len() < self.scenario.requests.len();
        if !has_more && self.left.iter().all(|&left| left == 0) {
            return false;
        }
        let next = self.events.peek().map(|Reverse((time, _))| time.0);
        let (there, back) = (self.there.next_end(), self.back.next_end());
        let first = [next, there, back].into_iter().flatten();
        let Some(first) = first.min_by(f64::total_cmp) else {
            return false;
        };
        if first > self.scenario.until {
            return false;
        }
        self.now = first;
        if there == Some(first) {
            if let Some(attempt) = self.there.end(first) {
                self.sent(attempt);
            }
        } else if back == Some(first) {
            if let Some(attempt) = self.back.end(first) {
                self.fetched(attempt, policy);
            }
        } else if let Some(Reverse((_, event))) = self.events.pop() {
            self.happens(event, policy);
        }
        true
    }

    /// A goal can be built now.
    fn ready(&mut self, goal: u32, policy: &mut dyn Policy) {
        self.ready_since[goal as usize] = self.now;
        policy.ready(goal, &self.wanted[goal as usize]);
    }

    fn happens(&mut self, event: Event, policy: &mut dyn Policy) {
        match event {
            Event::Request(number) => self.request(number, policy),
            Event::Built(attempt) => {
                if !self.attempts[attempt].is_lost {
                    self.attempts[attempt].built = Some(self.now);
                    self.courses[self.attempts[attempt].goal as usize].built = self.now;
                    let machine = self.attempts[attempt].machine;
                    self.machines[machine].give(self.attempts[attempt].goal);
                    self.machines[machine].downloads.push_back(attempt);
                    if self.machines[machine].downloads.len() == 1 {
                        self.fetch(attempt);
                    }
                }
            }
            Event::Fails(machine) => self.fails(machine, policy),
            Event::Returns(machine) => {
                self.machines[machine].is_up = true;
                self.outcome.changes.push((self.now, machine, true));
                self.free += self.machines[machine].slots;
                policy.retry();
                self.will_fail(machine);
            }
        }
    }

    fn request(&mut self, number: usize, policy: &mut dyn Policy) {
        let Request { client, goals, .. } = &self.scenario.requests[number];
        let goals = goals
            .iter()
            .copied()
            .filter(|&goal| !self.done[goal as usize]);
        let goals: Vec<u32> = goals.collect();
        policy.request(*client, self.graph, &goals);
        self.left.push(goals.len());
        self.outcome.waits.push((0, 0.0));
        self.outcome.requests.push((self.now, self.now));
        for &goal in &goals {
            self.wanted[goal as usize].push(number);
            if self.missing[goal as usize] == 0 && !self.begun[goal as usize] {
                policy.ready(goal, &[number]);
                // Somebody else's wait doesn't count.
                self.ready_since[goal as usize] = self.now;
            }
        }
    }

    /// Starts builds as long as slots are free.
    fn decide(&mut self, policy: &mut dyn Policy) {
        while self.free > 0 && self.taken < self.scenario.most_slots {
            let begun = Instant::now();
            let Some(goal) = policy.next() else {
                return;
            };
            let derivation = &self.graph.derivations[goal as usize];
            let build = Build {
                goal,
                now: self.now,
                closure: &derivation.closure,
                sizes: &self.sizes,
                estimate: self.estimates[goal as usize],
                output: derivation.bytes,
            };
            let machine = policy.place(&build, &mut self.machines);
            let took = begun.elapsed();
            self.outcome.deciding += took;
            self.outcome.longest_decision = self.outcome.longest_decision.max(took);
            self.outcome.decisions += 1;
            match machine {
                Some(machine) => self.begin(goal, machine),
                None => policy.set_aside(goal, &self.wanted[goal as usize]),
            }
        }
    }

    fn begin(&mut self, goal: u32, machine: usize) {
        let attempt = self.attempts.len();
        self.attempts.push(Attempt {
            goal,
            machine,
            is_lost: false,
            began: self.now,
            sent: None,
            built: None,
            ended: None,
            transfer: self.now,
            bytes: 0,
        });
        self.begun[goal as usize] = true;
        self.courses[goal as usize].began = self.now;
        if let Some(&client) = self.wanted[goal as usize].last() {
            let (count, seconds) = &mut self.outcome.waits[client];
            *count += 1;
            *seconds += self.now - self.ready_since[goal as usize];
        }
        self.running[machine].push(attempt);
        self.free -= 1;
        self.machines[machine].taken += 1;
        self.count(1);
        let lacks = self.lacks(attempt);
        let estimate = self.estimates[goal as usize].unwrap_or(UNKNOWN);
        let there = &mut self.machines[machine];
        let expected = lacks as f64 / there.line + estimate / there.speed;
        there.ends.push((attempt, self.now + expected));
        let uploads = &mut self.machines[machine].uploads;
        uploads.push_back((attempt, lacks));
        if uploads.len() == 1 {
            self.send(attempt);
        }
    }

    /// How many bytes its machine lacks.
    fn lacks(&self, attempt: usize) -> u64 {
        let Attempt { goal, machine, .. } = self.attempts[attempt];
        let closure = self.graph.derivations[goal as usize].closure.iter();
        let missing = closure.filter(|&&item| !self.machines[machine].has(item));
        missing.map(|&item| self.sizes[item as usize]).sum()
    }

    fn send(&mut self, attempt: usize) {
        let bytes = self.lacks(attempt);
        let machine = self.attempts[attempt].machine;
        self.attempts[attempt].transfer = self.now;
        self.attempts[attempt].bytes = bytes;
        let line = self.machines[machine].line;
        self.there.begin(self.now, line, bytes, attempt);
    }

    /// What an attempt needs has arrived.
    fn sent(&mut self, number: usize) {
        let Attempt {
            goal,
            machine,
            is_lost,
            transfer,
            bytes,
            ..
        } = self.attempts[number];
        let derivation = &self.graph.derivations[goal as usize];
        if !is_lost {
            self.attempts[number].sent = Some((transfer, self.now, bytes));
            for &item in &derivation.closure {
                self.machines[machine].give(item);
            }
            let rates = &mut self.machines[machine].rates_there;
            rates.add(bytes, self.now - transfer);
            self.courses[goal as usize].sent = self.now;
            let seconds = derivation.seconds / self.machines[machine].speed;
            let seconds = seconds + self.scenario.besides;
            self.at(self.now + seconds, Event::Built(number));
        }
        let uploads = &mut self.machines[machine].uploads;
        if uploads.front().is_some_and(|&(first, _)| first == number) {
            uploads.pop_front();
            if let Some(&(next, _)) = uploads.front() {
                self.send(next);
            }
        }
    }

    fn fetch(&mut self, attempt: usize) {
        let Attempt { goal, machine, .. } = self.attempts[attempt];
        let bytes = self.sizes[goal as usize];
        self.attempts[attempt].transfer = self.now;
        self.attempts[attempt].bytes = bytes;
        let line = self.machines[machine].line;
        self.back.begin(self.now, line, bytes, attempt);
    }

    /// The output of an attempt is here.
    fn fetched(&mut self, number: usize, policy: &mut dyn Policy) {
        let Attempt {
            goal,
            machine,
            is_lost,
            transfer,
            bytes,
            began,
            ..
        } = self.attempts[number];
        if !is_lost {
            self.attempts[number].ended = Some(self.now);
        }
        let downloads = &mut self.machines[machine].downloads;
        if downloads.front() == Some(&number) {
            downloads.pop_front();
            if let Some(&next) = downloads.front() {
                self.fetch(next);
            }
        }
        if is_lost {
            return;
        }
        let rates = &mut self.machines[machine].rates_back;
        rates.add(bytes, self.now - transfer);
        self.running[machine].retain(|&one| one != number);
        self.machines[machine].taken -= 1;
        self.machines[machine]
            .ends
            .retain(|&(one, _)| one != number);
        self.free += 1;
        policy.retry();
        self.count(-1);
        self.outcome.taken += self.now - began;
        self.done[goal as usize] = true;
        self.outcome.makespan = self.now;
        self.courses[goal as usize].done = self.now;
        for &request in &self.wanted[goal as usize] {
            self.left[request] -= 1;
            if self.left[request] == 0 {
                self.outcome.requests[request].1 = self.now;
            }
        }
        let graph = self.graph;
        for &dependent in &graph.dependents[goal as usize] {
            self.missing[dependent as usize] -= 1;
            if self.missing[dependent as usize] == 0 {
                self.courses[dependent as usize].ready = self.now;
                self.ready(dependent, policy);
            }
        }
    }

    fn fails(&mut self, machine: usize, policy: &mut dyn Policy) {
        self.free -= self.machines[machine].slots - self.machines[machine].taken;
        let lost = std::mem::take(&mut self.running[machine]);
        self.count(-(lost.len() as isize));
        for attempt in lost {
            self.attempts[attempt].is_lost = true;
            self.attempts[attempt].ended = Some(self.now);
            self.outcome.lost += 1;
            let goal = self.attempts[attempt].goal;
            let took = self.now - self.attempts[attempt].began;
            self.outcome.taken += took;
            self.courses[goal as usize].lost += took;
            self.begun[goal as usize] = false;
            self.ready(goal, policy);
        }
        self.outcome.changes.push((self.now, machine, false));
        let failed = &mut self.machines[machine];
        failed.is_up = false;
        failed.taken = 0;
        failed.ends.clear();
        failed.uploads.clear();
        failed.downloads.clear();
        self.at(self.now + AWAY, Event::Returns(machine));
    }

    fn count(&mut self, change: isize) {
        self.taken = self.taken.saturating_add_signed(change);
        self.outcome.busy.push((self.now, self.taken));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Setting, compare};

    #[test]
    fn the_parts_of_the_last_chain_add_up() {
        for between_failures in [f64::INFINITY, 1000.0] {
            let compared = compare(&Setting {
                machines: 10,
                waits: false,
                alike: false,
                derivations: 2000,
                line: 1e7,
                between_failures,
                seed: 7,
            });
            for outcome in [&compared.ours, &compared.first] {
                let Chain {
                    fastest,
                    slower,
                    slots,
                    lines,
                    lost,
                } = outcome.chain;
                let sum = fastest + slower + slots + lines + lost;
                let difference = (sum - outcome.makespan).abs();
                assert!(difference < 1.0, "{sum} of {}", outcome.makespan);
                let parts = [fastest, slower, slots, lines, lost];
                assert!(parts.iter().all(|part| *part >= -1e-3), "{parts:?}");
                assert!(lost == 0.0 || between_failures.is_finite());
            }
        }
    }
}
