//! Simulates a farm: the functions with which daemon and hook choose what is built next and where
//! (`crates/farm`), over a simulated clock, machines and network.
//!
//! Beside them, first come, first served, as with Guix. Prints tables; with `--plots=DIRECTORY`, draws them.

mod bounds;
mod graph;
mod line;
mod machines;
mod plots;
mod policy;
mod report;
mod seconds;
mod simulation;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Simulate a farm.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// How many build machines there are
    #[arg(long, value_name = "N", default_value_t = 1000)]
    machines: usize,
    /// How many derivations are to be built
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    derivations: usize,
    /// What the head's line carries, in MB each second
    #[arg(long, value_name = "MB", default_value_t = 1250.0)]
    line: f64,
    /// After how many hours a machine usually fails
    #[arg(long, value_name = "HOURS", default_value_t = 100.0)]
    between_failures: f64,
    /// What random numbers begin with
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Draw what has happened, in this directory
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
    /// `cargo bench' adds it
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let setting = report::Setting {
        machines: arguments.machines,
        derivations: arguments.derivations,
        line: arguments.line * 1e6,
        between_failures: arguments.between_failures * 3600.0,
        seed: arguments.seed,
    };
    let compared = report::compare(&setting);
    println!("{}", compared.table());
    if let Some(directory) = arguments.plots {
        plots::draw(&compared, &directory)?;
    }
    Ok(())
}
