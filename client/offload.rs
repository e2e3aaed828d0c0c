//! `guix-client offload`: how the build machines are, and whether they work.

use std::process::ExitCode;

use ::offload::status::{self, Form, Which};
use anyhow::Result;
use clap::Subcommand;

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
        /// Machine file, and a part of the machines' names
        #[arg(value_name = "FILE [PATTERN]", num_args = 0..=2)]
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
    /// Try everything that must hold for the build machines to work
    Test {
        /// Machine file, and a part of the machines' names
        #[arg(value_name = "FILE [PATTERN]", num_args = 0..=2)]
        which: Vec<String>,
    },
}

/// Does it.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let directories = daemon::directories()?;
    let mut out = output::stdout();
    match arguments.command {
        Command::Status {
            which,
            watch: Some(seconds),
            ..
        } => {
            status::watch(&directories, &Which::new(&which)?, seconds, &mut out)?;
        }
        Command::Status {
            which,
            json,
            prometheus,
            ..
        } => {
            let form = match (json, prometheus) {
                (true, _) => Form::Json,
                (_, true) => Form::Prometheus,
                _ => Form::Table,
            };
            status::run_status(&directories, &Which::new(&which)?, form, &mut out)?;
        }
        Command::Test { which } => {
            let failed = status::run_test(&directories, &Which::new(&which)?, &mut out)?;
            return Ok(ExitCode::from(u8::from(failed)));
        }
    }
    Ok(ExitCode::SUCCESS)
}
