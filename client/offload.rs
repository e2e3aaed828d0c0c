//! `guix-client offload`: the status of the build machines, and whether they work.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use hook::check_machines;
use hook::selection::Selection;
use hook::status::{self, Format};

use super::{daemon, output};

/// Options of `offload`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show every build machine: slots, load, space, what it builds
    Status {
        /// Machine file, and a regular expression that matches the machines' names
        #[arg(value_name = "FILE [REGEXP]", num_args = 0..=2)]
        which: Vec<String>,
        /// Print JSON
        #[arg(long, conflicts_with_all = ["prometheus", "watch"])]
        json: bool,
        /// Print Prometheus's text format
        #[arg(long, conflicts_with = "watch")]
        prometheus: bool,
        /// Show it again every few seconds
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true)]
        watch: Option<u64>,
    },
    /// Check everything that must hold for the build machines to work
    Test {
        /// Machine file, and a regular expression that matches the machines' names
        #[arg(value_name = "FILE [REGEXP]", num_args = 0..=2)]
        which: Vec<String>,
    },
}

/// Runs it.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let directories = daemon::directories()?;
    let mut out = output::stdout();
    match arguments.command {
        Command::Status {
            which,
            watch: Some(seconds),
            ..
        } => {
            let selection = Selection::new(&which)?;
            status::watch(&directories, &selection, seconds, &mut out)?;
        }
        Command::Status {
            which,
            json,
            prometheus,
            ..
        } => {
            let format = match (json, prometheus) {
                (true, _) => Format::Json,
                (_, true) => Format::Prometheus,
                _ => Format::Table,
            };
            status::write(&directories, &Selection::new(&which)?, format, &mut out)?;
        }
        Command::Test { which } => {
            let all_right = check_machines::run(&directories, &Selection::new(&which)?, &mut out)?;
            return Ok(ExitCode::from(u8::from(!all_right)));
        }
    }
    Ok(ExitCode::SUCCESS)
}
