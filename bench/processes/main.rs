//! Compares the times of whole programs: our daemon and hook, and those of Guix in environment
//! variables.
//!
//! * `GUIX_REFERENCE_DAEMON`: another guix-daemon;
//! * `GUIX_REFERENCE_GUIX` (or `GUIX`): its `guix`, which has its hook and signs for it, or an earlier
//!   `guix-offload`;
//! * `GUIX_BENCH_ROUNDS`: how many times each task is measured at most (5). The programs take turns,
//!   so that other load on the machine affects all alike.
//!
//! Words on the command line select the tasks whose names contain one of them; tasks that take
//! minutes run only with `--long`. Without the first two variables, only our own times are printed.
//! A ratio is their time divided by ours: above 1, we are faster.

mod costs;
mod farm;
mod hook;
mod host;
mod items;
mod memory;
mod offload;
mod placement;
mod prediction;
mod proxy;
// The tests use more of these than we do.
#[allow(dead_code)]
#[path = "../../tests/harness/substitutes.rs"]
mod publisher;
mod served;
#[allow(dead_code)]
#[path = "../../tests/harness/users.rs"]
mod users;
#[allow(dead_code)]
#[path = "../../tests/harness/web_server.rs"]
mod web_server;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};

use farm::Farm;
use host::Host;
use served::Served;

/// How long to wait for something that should happen soon.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The programs of one implementation.
pub struct Implementation {
    /// Four letters.
    name: &'static str,
    daemon: PathBuf,
    /// The hook and its first arguments; empty if there is none.
    hook: Vec<PathBuf>,
}

/// A benchmark on a host or a farm.
pub struct Task<On: 'static> {
    name: &'static str,
    /// Runs it in the given round.
    run: Measure<On>,
    /// The maximum number of rounds.
    rounds: usize,
    /// Whether it takes minutes.
    long: bool,
}

/// What a task measures.
enum Measure<On> {
    /// The time of one operation.
    Time(fn(&On, usize) -> Result<Duration>),
    /// How many times something was done that once would do.
    Times(fn(&On, usize) -> Result<f64>),
    /// A number of bytes.
    Bytes(fn(&On, usize) -> Result<u64>),
}

impl<On> Measure<On> {
    fn run(&self, on: &On, round: usize) -> Result<f64> {
        match self {
            Measure::Time(run) => run(on, round).map(|time| time.as_secs_f64()),
            Measure::Times(run) => run(on, round),
            Measure::Bytes(run) => run(on, round).map(|bytes| bytes as f64),
        }
    }

    fn format(&self, value: Option<f64>) -> String {
        match (value, self) {
            (None, _) => "-".to_owned(),
            (Some(times), Measure::Times(_)) => format!("{times:.3} ×"),
            (Some(bytes), Measure::Bytes(_)) => format!("{:.1} MiB", bytes / f64::from(1 << 20)),
            (Some(time), _) if time < 0.01 => format!("{:.1} µs", time * 1e6),
            (Some(time), _) => format!("{:.1} ms", time * 1e3),
        }
    }
}

impl<On> Task<On> {
    /// A task that takes at most seconds.
    pub const fn new(name: &'static str, run: fn(&On, usize) -> Result<Duration>) -> Self {
        Task::measuring(name, Measure::Time(run))
    }

    /// A task that counts how many times something is done that once would do.
    pub const fn counting(name: &'static str, run: fn(&On, usize) -> Result<f64>) -> Self {
        Task::measuring(name, Measure::Times(run))
    }

    /// A task that measures how much memory something takes.
    pub const fn weighing(name: &'static str, run: fn(&On, usize) -> Result<u64>) -> Self {
        Task::measuring(name, Measure::Bytes(run))
    }

    const fn measuring(name: &'static str, run: Measure<On>) -> Self {
        Task {
            name,
            run,
            rounds: usize::MAX,
            long: false,
        }
    }

    /// Limits the number of rounds.
    pub const fn rounds(self, rounds: usize) -> Self {
        Task { rounds, ..self }
    }

    /// Marks a task that takes minutes.
    pub const fn long(self) -> Self {
        Task { long: true, ..self }
    }
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only checks that this starts.
    if !words.iter().any(|word| word == "--bench") {
        return Ok(());
    }
    let ours = Implementation {
        name: "ours",
        daemon: env!("CARGO_BIN_EXE_guix-daemon").into(),
        hook: vec![env!("CARGO_BIN_EXE_guix-offload").into()],
    };
    let guix = std::env::var_os("GUIX_REFERENCE_GUIX").or_else(|| std::env::var_os("GUIX"));
    let theirs = std::env::var_os("GUIX_REFERENCE_DAEMON").map(|daemon| Implementation {
        name: "them",
        daemon: daemon.into(),
        hook: guix.map(PathBuf::from).map_or_else(Vec::new, hook_of),
    });
    let mut bench = Bench::new(words);

    let start = |implementation: &Implementation| Host::start(implementation, &[]);
    bench.measure(&ours, theirs.as_ref(), start, work::TASKS);
    bench.measure(&ours, theirs.as_ref(), start, items::TASKS);
    let with_hook = theirs.as_ref().filter(|theirs| !theirs.hook.is_empty());
    bench.measure(&ours, with_hook, start, hook::TASKS);
    for (machines, tasks) in offload::TASKS {
        let start = |implementation: &Implementation| Farm::start(implementation, *machines);
        bench.measure(&ours, with_hook, start, tasks);
    }
    let start = |implementation: &Implementation| Farm::start(implementation, placement::MACHINES);
    bench.measure(&ours, with_hook, start, placement::TASKS);
    for (delay, tasks) in served::TASKS {
        let start = |implementation: &Implementation| Served::start(implementation, *delay);
        bench.measure(&ours, with_hook, start, tasks);
    }
    println!("{}", bench.table);
    if bench.wants_long(costs::NAME) {
        costs::print(&ours, with_hook)?;
    }
    if bench.wants_long(prediction::NAME) {
        prediction::print(&ours, with_hook)?;
    }
    Ok(())
}

/// The hook of Guix's `guix', which is a subcommand, or an earlier hook of ours.
fn hook_of(guix: PathBuf) -> Vec<PathBuf> {
    match guix.file_name().is_some_and(|name| name == "guix-offload") {
        true => vec![guix],
        false => vec![guix, "offload".into()],
    }
}

/// The tasks to be measured, and the results so far.
struct Bench {
    table: Table,
    words: Vec<String>,
    long: bool,
    rounds: usize,
}

impl Bench {
    fn new(mut words: Vec<String>) -> Bench {
        let long = words.iter().any(|word| word == "--long");
        words.retain(|word| !word.starts_with('-'));
        let rounds = std::env::var("GUIX_BENCH_ROUNDS").ok();
        let mut table = Table::new();
        table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
            "measured (median)",
            "ours",
            "reference",
            "ratio",
        ]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        Bench {
            table,
            words,
            long,
            rounds: rounds.and_then(|text| text.parse().ok()).unwrap_or(5),
        }
    }

    fn wants<On>(&self, task: &Task<On>) -> bool {
        self.names(task.name) && (self.long || !task.long)
    }

    /// Whether something is to be measured that takes minutes, and has a table of its own.
    fn wants_long(&self, name: &str) -> bool {
        self.names(name) && self.long
    }

    fn names(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word))
    }

    /// Measures tasks on the hosts or farms that `start` starts for the implementations. A failure
    /// is printed and does not end the other measurements.
    fn measure<On>(
        &mut self,
        ours: &Implementation,
        theirs: Option<&Implementation>,
        start: impl Fn(&Implementation) -> Result<On>,
        tasks: &[Task<On>],
    ) {
        let tasks: Vec<_> = tasks.iter().filter(|task| self.wants(task)).collect();
        if tasks.is_empty() {
            return;
        }
        let start = |implementation: &Implementation| {
            ok_or_print(implementation.name, start(implementation))
        };
        let (ours, theirs) = (start(ours), theirs.and_then(start));
        for task in tasks {
            let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
            for round in 0..self.rounds.min(task.rounds) {
                let run =
                    |on: &Option<On>| ok_or_print(task.name, task.run.run(on.as_ref()?, round));
                our_times.extend(run(&ours));
                their_times.extend(run(&theirs));
            }
            self.report(task, median(our_times), median(their_times));
        }
    }

    fn report<On>(&mut self, task: &Task<On>, ours: Option<f64>, theirs: Option<f64>) {
        let ratio = match (ours, theirs) {
            (Some(ours), Some(theirs)) => format!("{:.2}", theirs / ours),
            _ => "-".to_owned(),
        };
        let row = [
            task.name.to_owned(),
            task.run.format(ours),
            task.run.format(theirs),
            ratio,
        ];
        eprintln!("{}", row.join("\t"));
        self.table.add_row(row);
    }
}

/// The value of a result; prints an error.
fn ok_or_print<T>(name: &str, result: Result<T>) -> Option<T> {
    result
        .inspect_err(|error| eprintln!("{name}: {error:#}"))
        .ok()
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}
