//! Runs one setting with both ways to choose, and says how they compare.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::bounds::Bounds;
use crate::graph::{Derivation, Graph, about_one};
use crate::machines::{Machine, alike, mixed};
use crate::policy::{First, FirstCome, Ours, Policy};
use crate::simulation::{self, Chain, Outcome, Request, Scenario};

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The number of machines.
    pub machines: usize,
    /// Whether long builds wait for fast machines.
    pub waits: bool,
    /// Whether all machines are of one kind.
    pub alike: bool,
    /// The number of derivations.
    pub derivations: usize,
    /// What the head's line carries, in bytes each second.
    pub line: f64,
    /// How many seconds a machine usually works before it fails.
    pub between_failures: f64,
    /// For random numbers.
    pub seed: u64,
}

impl Setting {
    /// The machines, which have none of so many items.
    pub fn machines(&self, items: usize) -> Vec<Machine> {
        if self.alike {
            return alike(self.machines, items);
        }
        let mut random = StdRng::seed_from_u64(self.seed + 2);
        mixed(self.machines, items, &mut random)
    }
}

/// How many clients ask for one thing while everything is being built.
const CLIENTS: usize = 20;
/// How much the time of a build differs from that of its like: see [`about_one`].
const SPREAD: f64 = 0.2;
/// The probability that nothing like it was built before.
const UNKNOWN: f64 = 0.1;
/// What takes longer than this, in seconds, was built before: it is no news.
const LONG: f64 = 1800.0;

/// A part of the time of a chain.
type PartOf = fn(&Chain) -> f64;

/// The parts of the time of the chain that ended last, and what they are called.
pub const PARTS: &[(&str, PartOf)] = &[
    ("building, on the fastest machine", |chain| chain.fastest),
    ("longer on slower machines", |chain| chain.slower),
    ("waiting for a slot", |chain| chain.slots),
    ("sending and fetching", |chain| chain.lines),
    ("lost with machines", |chain| chain.lost),
];

/// Both outcomes.
pub struct Compared {
    /// What was simulated.
    pub setting: Setting,
    /// What no choice can beat.
    pub bounds: Bounds,
    /// How long the longest path from each request's goals is, on the fastest machine.
    pub shortest: Vec<f64>,
    /// First come, first served.
    pub first: Outcome,
    /// As we choose.
    pub ours: Outcome,
    /// The number of edges, and of derivations of the longest chain.
    pub shape: (usize, usize),
    /// The number of slots.
    pub slots: usize,
    /// The most memory that this process had, in bytes.
    pub memory: u64,
}

/// Simulates a setting with both.
pub fn compare(setting: &Setting) -> Compared {
    let graph = Graph::like_a_distribution(setting.derivations, setting.seed);
    let mut random = StdRng::seed_from_u64(setting.seed + 1);
    let estimates = estimates(&graph, &mut random);
    let machines = || setting.machines(setting.derivations);
    let bounds = Bounds::new(&graph, &machines(), setting.line);
    let scenario = Scenario {
        line: setting.line,
        between_failures: setting.between_failures,
        besides: 0.0,
        most_slots: usize::MAX,
        until: f64::INFINITY,
        requests: requests(&graph, bounds.work, &mut random),
        seed: setting.seed + 3,
    };
    let shortest = (scenario.requests.iter())
        .map(|request| longest_path(&graph, &request.goals))
        .collect();
    let run = |policy: &mut dyn Policy| {
        simulation::run(&graph, &estimates, machines(), &scenario, policy)
    };
    let own = || StdRng::seed_from_u64(setting.seed + 4);
    let ours = match setting.waits {
        true => run(&mut Ours::new(own(), estimates.clone()).waiting()),
        false => run(&mut Ours::new(own(), estimates.clone())),
    };
    let memory = peak_memory();
    let first = run(&mut FirstCome::new(First::Any, own()));
    let edges = graph.derivations.iter().map(|one| one.inputs.len()).sum();
    Compared {
        setting: setting.clone(),
        bounds,
        shortest,
        first,
        ours,
        shape: (edges, graph.depth()),
        slots: machines().iter().map(|machine| machine.slots).sum(),
        memory,
    }
}

/// What each derivation is thought to take, where its like was built before.
pub fn estimates(graph: &Graph, random: &mut StdRng) -> Vec<Option<f64>> {
    let estimate = |derivation: &Derivation| {
        let known = derivation.seconds > LONG || !random.random_bool(UNKNOWN);
        known.then(|| derivation.seconds * about_one(SPREAD, random))
    };
    graph.derivations.iter().map(estimate).collect()
}

/// Somebody wants everything; and meanwhile others each want one thing, and what it needs.
fn requests(graph: &Graph, seconds: f64, random: &mut StdRng) -> Vec<Request> {
    let everything = Request {
        time: 0.0,
        client: 0,
        goals: (0..graph.len() as u32).collect(),
    };
    let one = |number: usize| {
        let wanted = random.random_range(0..graph.len() as u32);
        Request {
            time: seconds * (number as f64 + 0.5) / CLIENTS as f64,
            client: number + 1,
            goals: with_inputs(graph, wanted),
        }
    };
    std::iter::once(everything)
        .chain((0..CLIENTS).map(one))
        .collect()
}

/// A derivation and all that it needs, sorted.
fn with_inputs(graph: &Graph, wanted: u32) -> Vec<u32> {
    let mut is_needed = vec![false; graph.len()];
    is_needed[wanted as usize] = true;
    // Inputs have smaller numbers.
    for number in (0..=wanted as usize).rev() {
        if is_needed[number] {
            for &input in &graph.derivations[number].inputs {
                is_needed[input as usize] = true;
            }
        }
    }
    let all = is_needed.iter().enumerate();
    all.filter(|(_, is_needed)| **is_needed)
        .map(|(number, _)| number as u32)
        .collect()
}

/// How long the longest chain among goals takes on a machine of speed 1.
fn longest_path(graph: &Graph, goals: &[u32]) -> f64 {
    let mut ends = vec![0.0_f64; graph.len()];
    let mut longest = 0.0_f64;
    for &goal in goals {
        let derivation = &graph.derivations[goal as usize];
        let before = derivation.inputs.iter().map(|&input| ends[input as usize]);
        let end = derivation.seconds + before.fold(0.0, f64::max);
        ends[goal as usize] = end;
        longest = longest.max(end);
    }
    longest
}

/// The most memory that this process has had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

impl Compared {
    /// By how much each of the small requests took longer than its longest chain, sorted.
    fn delays(&self, outcome: &Outcome) -> Vec<f64> {
        let times = outcome.requests.iter().zip(&self.shortest).skip(1);
        let mut delays: Vec<f64> = times
            .map(|(&(asked, done), &shortest)| (done - asked) / shortest.max(1.0))
            .collect();
        delays.sort_by(f64::total_cmp);
        delays
    }

    /// What was simulated, and what came of it.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        let (edges, depth) = self.shape;
        let bound = self.bounds.largest();
        table.load_preset(presets::ASCII_MARKDOWN).set_header([
            format!(
                "{} derivations ({edges} edges, {depth} deep), {} machines ({} slots)",
                self.setting.derivations, self.setting.machines, self.slots
            ),
            "ours".to_owned(),
            "first come".to_owned(),
        ]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut row = |name: &str, of: &dyn Fn(&Outcome) -> String| {
            table.add_row([name.to_owned(), of(&self.ours), of(&self.first)]);
        };
        let name = format!(
            "time for everything (bound {}: longest chain {}, work {}, bytes {})",
            time(bound),
            time(self.bounds.path),
            time(self.bounds.work),
            time(self.bounds.bytes)
        );
        row(&name, &|outcome| time(outcome.makespan));
        row("the same, times the bound", &|outcome| {
            format!("{:.2}", outcome.makespan / bound)
        });
        for &(what, part) in PARTS {
            row(&format!("the chain that ended last: {what}"), &|outcome| {
                time(part(&outcome.chain))
            });
        }
        row("sent to machines, GB", &|outcome| {
            format!("{:.1}", outcome.sent as f64 / 1e9)
        });
        row("slots taken while everything is built", &|outcome| {
            let all = self.slots as f64 * outcome.makespan;
            format!("{:.0} %", 100.0 * outcome.taken / all)
        });
        row("builds lost with their machines", &|outcome| {
            outcome.lost.to_string()
        });
        row(
            "somebody who wants one thing waits, times its longest chain, median",
            &|outcome| {
                let delays = self.delays(outcome);
                format!("{:.2}", delays[delays.len() / 2])
            },
        );
        row("the same, longest", &|outcome| {
            format!("{:.2}", self.delays(outcome).last().unwrap_or(&0.0))
        });
        row("a decision takes, mean", &|outcome| {
            microseconds(outcome.deciding / outcome.decisions.max(1) as u32)
        });
        row("the same, longest", &|outcome| {
            microseconds(outcome.longest_decision)
        });
        row("decisions a second", &|outcome| {
            format!(
                "{:.0}",
                outcome.decisions as f64 / outcome.deciding.as_secs_f64()
            )
        });
        table.add_row([
            "memory of the simulation, MiB".to_owned(),
            (self.memory >> 20).to_string(),
            String::new(),
        ]);
        table
    }
}

pub(crate) fn time(seconds: f64) -> String {
    match seconds {
        short if short < 120.0 => format!("{short:.0} s"),
        seconds if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

fn microseconds(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}
