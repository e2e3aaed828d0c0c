//! Compares builds through a Slurm cluster with the same builds over SSH, and what is sent to a job
//! with what `srun` sends to `cat`. The cluster, the machines and their head are those of the tests
//! (`tests/offload/cluster.rs`, `farm.rs`): real daemons of Slurm and SSH, in namespaces.
//!
//! Both sides take turns, so that other load on the machine affects both alike. A ratio is the time of
//! the build through Slurm divided by that of its reference; the last column has the largest that is
//! wanted.
//!
//! `GUIX_BENCH_ROUNDS` is how many times each is measured at most (5). Words on the command line select
//! the comparisons whose names contain one of them; those that take minutes run only with `--long`.

mod comparisons;
mod site;
mod text;

// The tests use more of these than we do.
#[allow(dead_code)]
#[path = "../../tests/offload/cable.rs"]
mod cable;
#[allow(dead_code)]
#[path = "../../tests/offload/cluster.rs"]
mod cluster;
#[allow(dead_code)]
#[path = "../../tests/offload/entry.rs"]
mod entry;
#[allow(dead_code, unused_imports)]
#[path = "../../tests/offload/farm.rs"]
mod farm;
#[path = "../../tests/harness/mod.rs"]
mod harness;
#[allow(dead_code)]
#[path = "../../tests/offload/inspection.rs"]
mod inspection;
#[allow(dead_code)]
#[path = "../../tests/offload/machine.rs"]
mod machine;
#[allow(dead_code)]
#[path = "../../tests/offload/namespaces.rs"]
mod namespaces;
#[allow(dead_code)]
#[path = "../../tests/offload/slurm_farm.rs"]
mod slurm_farm;

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use comparisons::{COMPARISONS, Comparison};
use site::Site;

fn main() {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only checks that this starts.
    if !words.iter().any(|word| word == "--bench") {
        return;
    }
    let long = words.iter().any(|word| word == "--long");
    words.retain(|word| !word.starts_with('-'));
    let is_wanted = |comparison: &&Comparison| {
        let named = words.iter().any(|word| comparison.name.contains(word));
        (words.is_empty() || named) && (long || !comparison.long)
    };
    let wanted: Vec<&Comparison> = COMPARISONS.iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        return;
    }
    let rounds = std::env::var("GUIX_BENCH_ROUNDS").ok();
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(5);
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header([
        "measured (median)",
        "Slurm",
        "reference",
        "ratio",
        "wanted",
    ]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut site = Site::start();
    for comparison in wanted {
        let row = measure(&mut site, comparison, rounds);
        eprintln!("{}", row.join("\t"));
        table.add_row(row);
    }
    drop(site);
    println!("{table}");
}

/// Measures both sides in turn; returns the row of the table.
fn measure(site: &mut Site, comparison: &Comparison, rounds: usize) -> Vec<String> {
    let (mut ours, mut references) = (Vec::new(), Vec::new());
    for round in 0..rounds.min(comparison.rounds) {
        ours.push((comparison.ours)(site, round));
        references.push((comparison.reference)(site, round));
        let in_seconds = |times: &[Duration]| times.last().map_or(0.0, Duration::as_secs_f64);
        eprintln!(
            "{}: {:.3} s, {:.3} s",
            comparison.name,
            in_seconds(&ours),
            in_seconds(&references)
        );
    }
    let (ours, reference) = (median(ours), median(references));
    vec![
        comparison.name.to_owned(),
        format!("{:.0} ms", ours * 1e3),
        format!("{:.0} ms", reference * 1e3),
        format!("{:.2}", ours / reference),
        format!("≤ {:.2}", comparison.wanted),
    ]
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}
