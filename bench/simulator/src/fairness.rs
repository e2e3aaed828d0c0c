//! How fairly clients share a farm: one wants very much, in several requests; others arrive one after the other and each want
//! little.
//!
//! Each of the small ones is compared with itself on the same farm, with nobody else there, and with as
//! many slots as there are slots for each client: that is what it may expect whatever the others want. It may
//! do better, since not all are there all the time.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::bounds::Bounds;
use crate::graph::Graph;
use crate::policy::{First, FirstCome, Ours, Policy};
use crate::report::{Setting, estimates, time};
use crate::simulation::{self, Outcome, Request, Scenario, jain};

/// How many requests the large client has, as somebody who has everything built that has changed.
const REQUESTS: usize = 16;
/// How many derivations each of the small clients wants.
const LITTLE: usize = 100;
/// Small clients arrive within so many seconds, and before half of the work is done.
const ARRIVED: f64 = 1800.0;
/// What a small client wants takes no longer each, in seconds: otherwise its longest build would be all that counts.
const SHORT: f64 = 120.0;

/// What came of it.
pub struct Shared {
    setting: Setting,
    slots: usize,
    /// When each of the small clients arrives, in seconds; they are in that order.
    pub arrivals: Vec<f64>,
    /// How long each of the small ones takes with its share for itself, in seconds.
    alone: Vec<f64>,
    /// How long the large one takes with the whole farm for itself, in seconds.
    large_alone: f64,
    /// The ways to choose, and what came of them.
    pub ways: Vec<(&'static str, Outcome)>,
}

/// Simulates `small` clients besides the one that wants as many derivations as the setting says.
pub fn share(setting: &Setting, small: usize) -> Shared {
    let seed = setting.seed;
    let part = setting.derivations / REQUESTS;
    let large = (0..REQUESTS as u64)
        .map(|part_number| Graph::like_a_distribution(part, seed + part_number));
    let little = (1..).take(small).map(|client| {
        let mut graph = Graph::like_a_distribution(LITTLE, seed + 100 + client);
        for derivation in &mut graph.derivations {
            derivation.seconds = derivation.seconds.min(SHORT);
        }
        graph
    });
    let graph = Graph::side_by_side(large.chain(little));
    let mut random = StdRng::seed_from_u64(seed + 1000);
    let estimates = estimates(&graph, &mut random);
    let machines = || setting.machines(graph.len());
    let work = Bounds::new(&graph, &machines(), setting.line).work;
    let mut arrivals: Vec<f64> = (0..small)
        .map(|_| random.random_range(0.0..ARRIVED.min(work / 2.0)))
        .collect();
    arrivals.sort_by(f64::total_cmp);
    let slots: usize = machines().iter().map(|machine| machine.slots).sum();
    let goals = |begin: usize, count: usize| (begin as u32..(begin + count) as u32).collect();
    let large = |number: usize| Request {
        time: 0.0,
        client: 0,
        goals: goals(number * part, part),
    };
    let large: Vec<Request> = (0..REQUESTS).map(large).collect();
    let small_one = |(client, &time): (usize, &f64)| Request {
        time,
        client: client + 1,
        goals: goals(REQUESTS * part + client * LITTLE, LITTLE),
    };
    let little: Vec<Request> = arrivals.iter().enumerate().map(small_one).collect();
    let own = || StdRng::seed_from_u64(seed + 1002);
    let run = |requests: Vec<Request>, most_slots, policy: &mut dyn Policy| {
        let scenario = Scenario {
            line: setting.line,
            between_failures: f64::INFINITY,
            besides: 0.0,
            most_slots,
            until: f64::INFINITY,
            requests,
            seed,
        };
        simulation::run(&graph, &estimates, machines(), &scenario, policy)
    };
    let ours = || Ours::new(own(), estimates.clone());
    let share = (slots / (small + 1)).max(1);
    let alone =
        |request: &Request| run(vec![request.clone()], share, &mut ours()).makespan - request.time;
    let all = [large.clone(), little.clone()].concat();
    let first = |first| FirstCome::new(first, own());
    let way = |policy: &mut dyn Policy| run(all.clone(), usize::MAX, policy);
    Shared {
        setting: setting.clone(),
        slots,
        alone: little.iter().map(alone).collect(),
        large_alone: run(large, usize::MAX, &mut ours()).makespan,
        ways: vec![
            ("ours", way(&mut ours())),
            ("whoever asks first", way(&mut first(First::Any))),
            ("a queue", way(&mut first(First::Oldest))),
        ],
        arrivals,
    }
}

impl Shared {
    /// For each of the small clients, how long it takes, times how long it takes with its share for itself.
    pub fn slowdowns(&self, outcome: &Outcome) -> Vec<f64> {
        let small = outcome.requests.iter().skip(REQUESTS).zip(&self.alone);
        small
            .map(|(&(asked, done), &alone)| (done - asked) / alone)
            .collect()
    }

    /// How long the large client takes, times how long it takes if nobody else is there.
    fn of_the_large(&self, outcome: &Outcome) -> f64 {
        let large = outcome.requests.iter().take(REQUESTS);
        let done = large.map(|&(_, done)| done).fold(0.0, f64::max);
        done / self.large_alone
    }

    /// What was simulated, and what came of it.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        let small = self.arrivals.len();
        let head = format!(
            "one client with {} derivations in {REQUESTS} requests, {small} with {LITTLE}, {} machines ({} slots)",
            self.setting.derivations, self.setting.machines, self.slots
        );
        let names = self.ways.iter().map(|(name, _)| (*name).to_owned());
        table
            .load_preset(presets::ASCII_MARKDOWN)
            .set_header(std::iter::once(head).chain(names));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut row = |name: &str, of: &dyn Fn(&Outcome) -> String| {
            let cells = self.ways.iter().map(|(_, outcome)| of(outcome));
            table.add_row(std::iter::once(name.to_owned()).chain(cells));
        };
        let sorted = |outcome: &Outcome| {
            let mut all = self.slowdowns(outcome);
            all.sort_by(f64::total_cmp);
            all
        };
        let ratio = |number: f64| format!("{number:.2}");
        let at = |outcome: &Outcome, part: f64| {
            let all = sorted(outcome);
            let index = ((all.len().saturating_sub(1)) as f64 * part).round() as usize;
            all.get(index).copied().unwrap_or(f64::NAN)
        };
        row(
            "a small client takes, times what it takes with its share for itself, median",
            &|o| ratio(at(o, 0.5)),
        );
        row("the same, longest", &|o| ratio(at(o, 1.0)));
        row("the same, longest by shortest", &|o| {
            ratio(at(o, 1.0) / at(o, 0.0))
        });
        row("Jain's index of their speeds", &|o| {
            ratio(jain(
                self.slowdowns(o).iter().map(|slowdown| 1.0 / slowdown),
            ))
        });
        let waits = |waits: &[(usize, f64)]| {
            let count: usize = waits.iter().map(|(count, _)| count).sum();
            time(waits.iter().map(|(_, seconds)| seconds).sum::<f64>() / count as f64)
        };
        row("what a small client wants waits for a slot, mean", &|o| {
            waits(&o.waits[REQUESTS..])
        });
        row("what the large client wants, mean", &|o| {
            waits(&o.waits[..REQUESTS])
        });
        row("the large client takes, times what it takes alone", &|o| {
            ratio(self.of_the_large(o))
        });
        row("everything takes", &|o| time(o.makespan));
        row("a decision takes, mean", &|o| {
            let each: Duration = o.deciding / o.decisions.max(1) as u32;
            format!("{:.1} µs", each.as_secs_f64() * 1e6)
        });
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_clients_do_not_wait_for_a_large_one() {
        let shared = share(
            &Setting {
                machines: 8,
                alike: true,
                waits: false,
                derivations: 3000,
                line: 1.25e9,
                between_failures: f64::INFINITY,
                seed: 1,
            },
            4,
        );
        let longest = |way: usize| {
            let (_, outcome) = &shared.ways[way];
            shared.slowdowns(outcome).into_iter().fold(0.0, f64::max)
        };
        let (ours, queue) = (longest(0), longest(2));
        // Its share is a fifth, and builds that have begun are not interrupted.
        assert!(ours < 2.0, "{ours}");
        assert!(queue > 2.0 * ours, "{queue}, {ours}");
        let large = shared.of_the_large(&shared.ways[0].1);
        assert!(large < 1.3, "{large}");
    }
}
