//! What remembering and choosing cost: the same builds with the history and without, and by these programs and
//! by earlier ones.
//!
//! The two sides take turns, in pairs, each being the first of every other pair, so that other load on the machine
//! affects both alike. Besides the time that passes, the processor time of the head's daemon and of all that it
//! has started is compared, on which other load has less influence. A control compares two daemons that are
//! alike: what it differs from 1 by is what this measurement can't tell.
//!
//! `GUIX_BENCH_PAIRS`: how many pairs there are (60). Earlier programs:
//! `GUIX_REFERENCE_DAEMON=DIRECTORY/guix-daemon GUIX_REFERENCE_GUIX=DIRECTORY/guix-offload`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use nix::unistd::{SysconfVar, sysconf};

use crate::Implementation;
use crate::farm::Farm;
use crate::host::Host;
use crate::offload::offload;
use crate::placement::MACHINES;
use crate::work::local_builds;

/// The name by which all this is asked for.
pub const NAME: &str = "costs of history and placement";
/// How many pairs are measured if nobody says.
const PAIRS: usize = 60;
/// How many trivial builds each measurement of local builds has.
const LOCAL: usize = 20;
/// The same of offloads.
const OFFLOADS: usize = 5;
/// What makes a daemon, and its hook, remember nothing.
const NO_HISTORY: &str = "--history=no";

/// Measures everything, and prints it.
pub fn print(ours: &Implementation, theirs: Option<&Implementation>) -> Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "compared",
        "time (median)",
        "ratio (95 % of medians)",
        "processor time",
        "ratio (95 % of means)",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let local = |options: &[&str]| Host::start(ours, options);
    let farm = |implementation: &Implementation, machines: usize, options: &[&str]| {
        Farm::start_with(implementation, machines, options)
    };
    let build = |host: &Host, round: usize| local_builds(host, LOCAL, &format!("cost-{round}"));
    let send = |farm: &Farm, round: usize| {
        (0..OFFLOADS)
            .map(|number| offload(farm, 1, &format!("cost-{round}-{number}"), &[]))
            .sum()
    };
    let mut add = |name: &str, count: usize, pairs: Result<Vec<Pair>>| {
        let cells = pairs.map(|pairs| row(name, count, &pairs));
        let cells = cells.unwrap_or_else(|error| vec![format!("{name}: {error:#}")]);
        eprintln!("{}", cells.join("\t"));
        table.add_row(cells);
    };
    let (on, off) = (|| local(&[]), || local(&[NO_HISTORY]));
    add(
        "a local build, with history / without",
        LOCAL,
        alternate(on, off, build),
    );
    add(
        "… control: without / without",
        LOCAL,
        alternate(off, off, build),
    );
    // Where there is one machine, nothing needs to be known to choose it.
    for machines in [1, MACHINES] {
        let on = || farm(ours, machines, &[]);
        let off = || farm(ours, machines, &[NO_HISTORY]);
        let mut compare = |what: &str, pairs| {
            let name = format!("a warm offload to one of {machines}, {what}");
            add(&name, OFFLOADS, pairs);
        };
        compare("with history / without", alternate(on, off, send));
        compare("control: without / without", alternate(off, off, send));
        if let Some(theirs) = theirs {
            let old = || farm(theirs, machines, &[]);
            compare("now / before", alternate(on, old, send));
        }
    }
    println!("{table}");
    Ok(())
}

/// What one side took in one round.
#[derive(Clone, Copy)]
struct Cost {
    passed: f64,
    processor: f64,
}

/// Both sides in one round.
type Pair = [Cost; 2];

/// What has a head daemon.
trait Head {
    fn head(&self) -> &Host;
}

impl Head for Host {
    fn head(&self) -> &Host {
        self
    }
}

impl Head for Farm {
    fn head(&self) -> &Host {
        &self.head
    }
}

/// Has two sides do the same in turn.
fn alternate<On: Head>(
    first: impl Fn() -> Result<On>,
    second: impl Fn() -> Result<On>,
    run: impl Fn(&On, usize) -> Result<Duration>,
) -> Result<Vec<Pair>> {
    let sides = [first()?, second()?];
    let pairs = std::env::var("GUIX_BENCH_PAIRS").ok();
    let pairs = pairs.and_then(|text| text.parse().ok()).unwrap_or(PAIRS);
    let measure = |side: usize, round: usize| -> Result<Cost> {
        let pid = sides[side].head().pid();
        let before = processor_time(pid)?;
        let passed = run(&sides[side], round)?.as_secs_f64();
        let processor = processor_time(pid)? - before;
        Ok(Cost { passed, processor })
    };
    // Connections, caches and files that only the first ones make.
    for side in 0..2 {
        for round in 0..3 {
            measure(side, round)?;
        }
    }
    (0..pairs)
        .map(|pair| {
            let first = pair % 2;
            let (one, other) = (measure(first, 3 + pair)?, measure(1 - first, 3 + pair)?);
            Ok(if first == 0 {
                [one, other]
            } else {
                [other, one]
            })
        })
        .collect()
}

/// A row of the table; each measurement is of `count` builds.
fn row(name: &str, count: usize, pairs: &[Pair]) -> Vec<String> {
    let median_of = |side: usize| {
        let times = pairs.iter().map(|pair| pair[side].passed / count as f64);
        crate::median(times.collect()).unwrap_or(f64::NAN)
    };
    let mean_of = |side: usize| {
        let times = pairs.iter().map(|pair| pair[side].processor);
        times.sum::<f64>() / (pairs.len() * count) as f64
    };
    let mut ratios: Vec<f64> = pairs
        .iter()
        .map(|[one, other]| one.passed / other.passed)
        .collect();
    ratios.sort_by(f64::total_cmp);
    let quantile = |part: f64| {
        let index = (ratios.len().saturating_sub(1) as f64 * part).round() as usize;
        ratios.get(index).copied().unwrap_or(f64::NAN)
    };
    // Of the ranks that the true median has in 95 of 100 samples.
    let spread = 0.98 / (pairs.len() as f64).sqrt();
    let milliseconds = |one: f64, other: f64| format!("{:.2} / {:.2} ms", one * 1e3, other * 1e3);
    let (ratio, error) = ratio_of_means(pairs);
    vec![
        name.to_owned(),
        milliseconds(median_of(0), median_of(1)),
        format!(
            "{:.3} ({:.3} to {:.3})",
            quantile(0.5),
            quantile((0.5 - spread).max(0.0)),
            quantile((0.5 + spread).min(1.0))
        ),
        milliseconds(mean_of(0), mean_of(1)),
        format!("{ratio:.3} ({:.3} to {:.3})", ratio - error, ratio + error),
    ]
}

/// The ratio of the processor times of both sides, and twice its standard error.
fn ratio_of_means(pairs: &[Pair]) -> (f64, f64) {
    let sum = |side: usize| pairs.iter().map(|pair| pair[side].processor).sum::<f64>();
    let ratio = sum(0) / sum(1);
    let off = |pair: &Pair| pair[0].processor - ratio * pair[1].processor;
    let squares: f64 = pairs.iter().map(|pair| off(pair).powi(2)).sum();
    let count = pairs.len() as f64;
    let error = (squares / (count * (count - 1.0).max(1.0))).sqrt() / (sum(1) / count);
    (ratio, 2.0 * error)
}

/// How many seconds of processor time a process has had, with all of its descendants, those that have ended
/// among them.
fn processor_time(pid: u32) -> Result<f64> {
    let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")? as f64;
    let mut parents: HashMap<u32, (u32, u64)> = HashMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // One that has just ended counts as its parent's.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, fields)) = stat.rsplit_once(')') else {
            continue;
        };
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |index: usize| {
            fields
                .get(index)
                .and_then(|field| field.parse::<u64>().ok())
        };
        let used = (11..15).filter_map(number).sum();
        parents.insert(pid, (number(1).unwrap_or(0) as u32, used));
    }
    let is_descendant = |process: u32| {
        let ancestors = std::iter::successors(Some(process), |at| {
            parents.get(at).map(|&(parent, _)| parent)
        });
        // Process ids are reused while this reads them: there may be circles.
        ancestors.take(parents.len()).any(|at| at == pid)
    };
    let own = parents
        .iter()
        .filter(|(process, _)| is_descendant(**process));
    Ok(own.map(|(_, &(_, used))| used).sum::<u64>() as f64 / ticks)
}
