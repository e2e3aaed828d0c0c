//! Simulates a farm: the functions with which daemon and hook choose what is built next and where
//! (`crates/farm`), over a simulated clock, machines and network.
//!
//! Beside them, first come, first served, as with Guix. Prints tables; with `--plots=DIRECTORY`, draws them.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use guix_simulator::{fairness, farm_files, plots, report, sweep};

/// Simulate a farm.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// How many build machines there are
    #[arg(long, value_name = "N", default_value_t = 1000)]
    machines: usize,
    /// What if long builds waited for fast machines? The hook doesn't have them wait
    #[arg(long)]
    waiting: bool,
    /// All machines have speed 1, four slots and a line of 1 Gbit/s
    #[arg(long)]
    alike: bool,
    /// How many derivations are to be built
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    derivations: usize,
    /// What the head's line carries, in MB each second
    #[arg(long, value_name = "MB", default_value_t = 1250.0)]
    line: f64,
    /// After how many hours a machine usually fails
    #[arg(long, value_name = "HOURS", default_value_t = 100.0)]
    between_failures: f64,
    /// One client wants all of these, and this many others a hundred derivations of their own each: says how fairly
    /// they share the farm
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Simulate farms of several sizes, instead of one of `--machines'
    #[arg(
        long,
        value_name = "N,...",
        value_delimiter = ',',
        conflicts_with = "clients"
    )]
    sizes: Vec<usize>,
    /// What random numbers begin with
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Draw what has happened, in this directory
    #[arg(long, value_name = "DIRECTORY")]
    plots: Option<PathBuf>,
    /// Write the files of a farm that has worked for a day, and still does, in this directory: a machine file, the
    /// history, what hooks know of machines, and `status.json', what the daemon would tell
    #[arg(long, value_name = "DIRECTORY", conflicts_with_all = ["clients", "sizes", "plots"])]
    write_farm: Option<PathBuf>,
    /// `cargo bench' adds it
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let setting = report::Setting {
        machines: arguments.machines,
        alike: arguments.alike,
        waits: arguments.waiting,
        derivations: arguments.derivations,
        line: arguments.line * 1e6,
        between_failures: arguments.between_failures * 3600.0,
        seed: arguments.seed,
    };
    if let Some(directory) = arguments.write_farm {
        return farm_files::write(&setting, &directory);
    }
    if let Some(clients) = arguments.clients {
        let shared = fairness::share(&setting, clients);
        println!("{}", shared.table());
        if let Some(directory) = arguments.plots {
            plots::draw_shares(&shared, &directory)?;
        }
        return Ok(());
    }
    if !arguments.sizes.is_empty() {
        let swept = sweep::sweep(&setting, &arguments.sizes);
        println!("{}", swept.table());
        if let Some(directory) = arguments.plots {
            plots::draw_sizes(&swept, &directory)?;
        }
        return Ok(());
    }
    let compared = report::compare(&setting);
    println!("{}", compared.table());
    if let Some(directory) = arguments.plots {
        plots::draw(&compared, &directory)?;
    }
    Ok(())
}
