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
use crate::policy::{Build, Policy};
use crate::seconds::Seconds;

/// What is done besides building.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// What the head's line carries in each direction, in bytes each second.
    pub line: f64,
    /// How many seconds a machine usually works before it fails; infinite if none does.
    pub between_failures: f64,
    /// When requests come, and for what.
    pub requests: Vec<(f64, Vec<u32>)>,
    /// For random numbers.
    pub seed: u64,
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
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Request(usize),
    Built(usize),
    Fails(usize),
    Returns(usize),
}

/// An attempt to build something somewhere.
struct Attempt {
    goal: u32,
    machine: usize,
    is_lost: bool,
    began: f64,
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
        sizes: graph.derivations.iter().map(|one| one.bytes).collect(),
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
        taken: 0,
        outcome: Outcome::default(),
    };
    simulation.run(policy);
    simulation.outcome
}

impl Simulation<'_> {
    fn run(&mut self, policy: &mut dyn Policy) {
        for (number, (time, _)) in self.scenario.requests.iter().enumerate() {
            self.at(*time, Event::Request(number));
        }
        for machine in 0..self.machines.len() {
            self.will_fail(machine);
        }
        while self.step(policy) {
            self.decide(policy);
        }
        self.outcome.sent = self.there.bytes;
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

    fn happens(&mut self, event: Event, policy: &mut dyn Policy) {
        match event {
            Event::Request(number) => self.request(number, policy),
            Event::Built(attempt) => {
                if !self.attempts[attempt].is_lost {
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
                self.free += self.machines[machine].slots;
                self.will_fail(machine);
            }
        }
    }

    fn request(&mut self, number: usize, policy: &mut dyn Policy) {
        let goals = &self.scenario.requests[number].1;
        let goals = goals
            .iter()
            .copied()
            .filter(|&goal| !self.done[goal as usize]);
        let goals: Vec<u32> = goals.collect();
        policy.request(self.graph, &goals);
        self.left.push(goals.len());
        self.outcome.requests.push((self.now, self.now));
        for &goal in &goals {
            self.wanted[goal as usize].push(number);
            if self.missing[goal as usize] == 0 && !self.begun[goal as usize] {
                policy.ready(goal, &[number]);
            }
        }
    }

    /// Starts builds as long as slots are free.
    fn decide(&mut self, policy: &mut dyn Policy) {
        while self.free > 0 {
            let begun = Instant::now();
            let Some(goal) = policy.next() else {
                return;
            };
            let derivation = &self.graph.derivations[goal as usize];
            let build = Build {
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
            if let Some(machine) = machine {
                self.begin(goal, machine);
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
            transfer: self.now,
            bytes: 0,
        });
        self.begun[goal as usize] = true;
        self.running[machine].push(attempt);
        self.free -= 1;
        self.machines[machine].taken += 1;
        self.count(1);
        let lacks = self.lacks(attempt);
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
            for &item in &derivation.closure {
                self.machines[machine].give(item);
            }
            let rates = &mut self.machines[machine].rates_there;
            rates.add(bytes, self.now - transfer);
            let seconds = derivation.seconds / self.machines[machine].speed;
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
        } = self.attempts[number];
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
        self.free += 1;
        self.count(-1);
        self.outcome.taken += self.now - began;
        self.done[goal as usize] = true;
        self.outcome.makespan = self.now;
        for &request in &self.wanted[goal as usize] {
            self.left[request] -= 1;
            if self.left[request] == 0 {
                self.outcome.requests[request].1 = self.now;
            }
        }
        for &dependent in &self.graph.dependents[goal as usize] {
            self.missing[dependent as usize] -= 1;
            if self.missing[dependent as usize] == 0 {
                policy.ready(dependent, &self.wanted[dependent as usize]);
            }
        }
    }

    fn fails(&mut self, machine: usize, policy: &mut dyn Policy) {
        self.free -= self.machines[machine].slots - self.machines[machine].taken;
        let lost = std::mem::take(&mut self.running[machine]);
        self.count(-(lost.len() as isize));
        for attempt in lost {
            self.attempts[attempt].is_lost = true;
            self.outcome.lost += 1;
            let goal = self.attempts[attempt].goal;
            self.outcome.taken += self.now - self.attempts[attempt].began;
            self.begun[goal as usize] = false;
            policy.ready(goal, &self.wanted[goal as usize]);
        }
        let failed = &mut self.machines[machine];
        failed.is_up = false;
        failed.taken = 0;
        failed.uploads.clear();
        failed.downloads.clear();
        self.at(self.now + AWAY, Event::Returns(machine));
    }

    fn count(&mut self, change: isize) {
        self.taken = self.taken.saturating_add_signed(change);
        self.outcome.busy.push((self.now, self.taken));
    }
}
