//! Whether what the simulator predicts comes true: the same derivations on machines in namespaces, and in the
//! simulator with the same slots, speeds and lines.
//!
//! Builds sleep, so that machines can have speeds: where a build may use two cores, it sleeps half as long. What
//! a build takes besides is measured before, with trivial ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use formats::derivation::{ModuloHashes, Recipe};
use formats::hash::Algorithm;
use formats::nar::Sink;
use formats::store_path::StorePath;
use protocol::client::Connection;
use protocol::operations::Target;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use simulator::graph::{self, Graph};
use simulator::machines::Machine;
use simulator::policy::{First, FirstCome, Ours, Policy};
use simulator::simulation::{self, Outcome, Request, Scenario};

use crate::Implementation;
use crate::farm::Farm;
use crate::median;
use crate::offload::{client, offload};
use crate::placement::{add, add_busybox, behind_one_line};
use crate::work::{Noise, build};

/// The name by which this is asked for.
pub const NAME: &str = "prediction of the simulator";

/// How much passes the head's line in a second, in either direction: 40 Mbit.
const HEAD: u64 = 5_000_000;
/// The machines: their own line if that is slower than the head's, slots and speed.
const MACHINES: [(Option<u64>, usize, u32); 4] = [
    (Some(500_000), 2, 1),
    (None, 2, 1),
    (None, 1, 2),
    (None, 3, 1),
];
/// The number of derivations.
const DERIVATIONS: u32 = 200;
/// Kinds of derivations: the name, one of how many is of this kind, seconds and bytes.
const KINDS: [(&str, f64, f64, u64); 3] = [
    ("short", 0.5, 1.0, 256 << 10),
    ("middle", 0.35, 3.0, 1 << 20),
    ("long", 0.15, 8.0, 2 << 20),
];
/// The most inputs of a derivation, which are among so many before it.
const INPUTS: (u32, u32) = (3, 40);
/// The size of what all derivations need, in bytes.
const COMMON: u64 = 8 << 20;
/// How often it is done, with another graph each time.
const ROUNDS: u64 = 2;
/// How often each is simulated, with other random numbers.
const SIMULATIONS: u64 = 21;

/// Does both, and prints how they compare; by earlier programs, too, if there are any, with first come, first
/// served.
pub fn print(ours: &Implementation, theirs: Option<&Implementation>) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "200 derivations, four machines, one slow line",
        "real",
        "simulated",
        "differs by",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut sides = Vec::new();
    for (implementation, is_ours) in
        std::iter::once((ours, true)).chain(theirs.map(|theirs| (theirs, false)))
    {
        let farm = Farm::start(implementation, MACHINES.len())?;
        let besides = warm_up(&farm)?;
        eprintln!(
            "{}: a build takes {besides:.3} s besides",
            implementation.name
        );
        sides.push((implementation.name, is_ours, farm, besides));
    }
    for round in 0..ROUNDS {
        let plan = Plan::new(round);
        for (name, is_ours, farm, besides) in &sides {
            let real = plan.build(farm, round)?;
            let simulated = plan.simulate(*besides, *is_ours);
            for (what, index, unit) in [("time", 0, "s"), ("sent", 1, "MiB")] {
                let (real, simulated) = (real[index], simulated[index]);
                let row = [
                    format!("{name}, graph {round}: {what}"),
                    format!("{real:.1} {unit}"),
                    format!("{simulated:.1} {unit}"),
                    format!("{:+.0} %", 100.0 * (simulated / real - 1.0)),
                ];
                eprintln!("{}", row.join("\t"));
                table.add_row(row);
            }
        }
    }
    println!("{table}");
    Ok(())
}

/// Builds each kind, so that the history knows what they take; returns what a build takes besides, in seconds.
fn warm_up(farm: &Farm) -> Result<f64> {
    let mut daemon = client(farm)?;
    let busybox = add_busybox(&mut daemon, "busybox")?;
    let mut hashes = ModuloHashes::new();
    for number in 0..2 {
        for (kind, (name, ..)) in KINDS.iter().enumerate() {
            let task = Planned {
                kind,
                inputs: Vec::new(),
            };
            let name = format!("{name}-0.{number}");
            let recipe = task.recipe(&[], BTreeSet::new(), &busybox);
            let drv = add(farm, &mut daemon, &mut hashes, &name, recipe)?;
            build(&mut daemon, vec![Target::from(drv)])?;
        }
    }
    let trivial = |number: usize| offload(farm, 1, &format!("besides-{number}"), &[]);
    trivial(0)?;
    let times = (1..8).map(|number| Ok(trivial(number)?.as_secs_f64()));
    let times = times.collect::<Result<Vec<f64>>>()?;
    median(times).context("nothing was measured")
}

/// A derivation to be built.
struct Planned {
    kind: usize,
    /// What it needs of those before it.
    inputs: Vec<u32>,
}

/// What is built.
struct Plan {
    derivations: Vec<Planned>,
}

impl Planned {
    fn recipe(
        &self,
        drvs: &[StorePath],
        sources: BTreeSet<StorePath>,
        busybox: &StorePath,
    ) -> Recipe {
        let (_, _, seconds, bytes) = KINDS[self.kind];
        let program = format!("{busybox}/busybox");
        let script = format!(
            "if [ \"$NIX_BUILD_CORES\" = 2 ]; then time={}; else time={seconds}; fi\n\
             {program} sleep $time; {program} head -c {bytes} /dev/urandom >$out",
            seconds / 2.0
        );
        let input = |&input: &u32| {
            let outputs = BTreeSet::from(["out".to_owned()]);
            (drvs[input as usize].clone(), outputs)
        };
        Recipe {
            outputs: BTreeMap::from([("out".to_owned(), None)]),
            inputs: self.inputs.iter().map(input).collect(),
            sources: sources.into_iter().chain([busybox.clone()]).collect(),
            system: env!("GUIX_SYSTEM").into(),
            builder: program.as_str().into(),
            arguments: ["sh", "-e", "-c", &script].map(Into::into).into(),
            ..Recipe::default()
        }
    }
}

impl Plan {
    fn new(seed: u64) -> Plan {
        let mut random = StdRng::seed_from_u64(seed);
        let (most, among) = INPUTS;
        let planned = |number: u32| {
            let part: f64 = random.random();
            let kind = match part {
                part if part < KINDS[0].1 => 0,
                part if part < KINDS[0].1 + KINDS[1].1 => 1,
                _ => 2,
            };
            let count = random.random_range(0..=most).min(number);
            let first = number.saturating_sub(among);
            let inputs = (0..count).map(|_| random.random_range(first..number));
            let inputs: BTreeSet<u32> = inputs.collect();
            Planned {
                kind,
                inputs: inputs.into_iter().collect(),
            }
        };
        Plan {
            derivations: (0..DERIVATIONS).map(planned).collect(),
        }
    }

    /// Builds it on a farm whose machines have nothing of it; returns the seconds, and the MiB that have left
    /// the head.
    fn build(&self, farm: &Farm, round: u64) -> Result<[f64; 2]> {
        // The proxies have new ports: the hook takes the machines for others, which it has never seen.
        let counters = farm.configure_each(&behind_one_line(HEAD, MACHINES))?;
        let mut daemon = client(farm)?;
        let targets = self.write(farm, &mut daemon, round)?;
        let took: Duration = build(&mut daemon, targets)?;
        let sent = counters.iter().map(|bytes| bytes.load(Ordering::Relaxed));
        let sent: u64 = sent.sum();
        farm.configure(None)?;
        Ok([took.as_secs_f64(), sent as f64 / f64::from(1 << 20)])
    }

    fn write(&self, farm: &Farm, daemon: &mut Connection, round: u64) -> Result<Vec<Target>> {
        let busybox = add_busybox(daemon, &format!("busybox-{round}"))?;
        let common = daemon.add_to_store("common", true, Algorithm::Sha256, |writer| {
            writer.regular(false, COMMON, &mut Noise((round + 1) << 32))
        })?;
        let mut hashes = ModuloHashes::new();
        let mut drvs = Vec::new();
        for (number, task) in self.derivations.iter().enumerate() {
            let sources = BTreeSet::from([common.clone()]);
            let recipe = task.recipe(&drvs, sources, &busybox);
            let name = format!("{}-{}.{number}", KINDS[task.kind].0, round + 1);
            drvs.push(add(farm, daemon, &mut hashes, &name, recipe)?);
        }
        Ok(drvs.into_iter().map(Target::from).collect())
    }

    /// Simulates it; returns the medians of seconds and MiB.
    fn simulate(&self, besides: f64, is_ours: bool) -> [f64; 2] {
        let graph = self.graph();
        let items = graph.sizes().len();
        let kinds = self.derivations.iter().map(|task| KINDS[task.kind]);
        let estimates: Vec<Option<f64>> = kinds.map(|(_, _, time, _)| Some(time)).collect();
        // All of them are namespaces of this machine.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let machine = |(own, slots, speed): (Option<u64>, usize, u32)| {
            let line = own.unwrap_or(HEAD) as f64;
            let mut machine = Machine::new(speed.into(), slots, line, items);
            machine.cores = cores;
            machine
        };
        let run = |seed: u64| -> Outcome {
            let scenario = Scenario {
                line: HEAD as f64,
                between_failures: f64::INFINITY,
                besides,
                most_slots: usize::MAX,
                until: f64::INFINITY,
                requests: vec![Request {
                    time: 0.0,
                    client: 0,
                    goals: (0..DERIVATIONS).collect(),
                }],
                seed,
            };
            let random = StdRng::seed_from_u64(seed);
            let mut policy: Box<dyn Policy> = match is_ours {
                true => Box::new(Ours::new(random, estimates.clone())),
                false => Box::new(FirstCome::new(First::Any, random)),
            };
            let machines = MACHINES.map(machine).into_iter().collect();
            simulation::run(&graph, &estimates, machines, &scenario, &mut *policy)
        };
        let outcomes: Vec<Outcome> = (0..SIMULATIONS).map(run).collect();
        let middle =
            |of: fn(&Outcome) -> f64| median(outcomes.iter().map(of).collect()).unwrap_or(f64::NAN);
        let sent = |outcome: &Outcome| outcome.sent as f64 / f64::from(1 << 20);
        [middle(|outcome| outcome.makespan), middle(sent)]
    }

    fn graph(&self) -> Graph {
        let busybox = std::fs::metadata("/bin/busybox").map_or(0, |metadata| metadata.len());
        let sources = vec![busybox, COMMON];
        let derivation = |task: &Planned| {
            let (_, _, seconds, bytes) = KINDS[task.kind];
            graph::Derivation {
                inputs: task.inputs.clone(),
                closure: (task.inputs.iter().copied())
                    .chain([DERIVATIONS, DERIVATIONS + 1])
                    .collect(),
                seconds,
                bytes,
            }
        };
        Graph::new(self.derivations.iter().map(derivation).collect(), sources)
    }
}
