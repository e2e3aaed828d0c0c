//! `guix-client offload`: the status of the build machines, whether they work, and which of them get
//! builds.

mod add;
mod drain;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use hook::check_machines;
use hook::selection::Selection;
use hook::status::{self, Format};

use crate::{daemon, options::positive, output, whom};

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
        #[command(flatten)]
        which: Which,
        /// Print JSON
        #[arg(long, conflicts_with_all = ["prometheus", "watch"])]
        json: bool,
        /// Print Prometheus's text format
        #[arg(long, conflicts_with = "watch")]
        prometheus: bool,
        /// Show it again every few seconds
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
            require_equals = true, value_parser = positive)]
        watch: Option<u32>,
    },
    /// Check everything that must hold for the build machines to work
    Test {
        #[command(flatten)]
        which: Which,
    },
    /// Test a machine, and add it to machines.toml
    Add(Box<add::Arguments>),
    /// Remove machines from machines.toml
    Remove {
        /// Machines: NAME or NAME:PORT, also a shell's pattern, such as 'build1*'
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Print what would be removed, and change nothing
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Give machines no new builds; those that they have go on
    Drain {
        /// Machines: NAME or NAME:PORT, also a shell's pattern, such as 'build1*'
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Why, for all who see the machines' status
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Wait until their last builds have ended
        #[arg(long)]
        wait: bool,
    },
    /// Let drained machines have builds again
    #[command(alias = "resume")]
    Return {
        /// Machines: NAME or NAME:PORT, also a shell's pattern, such as 'build1*'
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// Which machines.
#[derive(clap::Args)]
struct Which {
    /// Machine file to read instead of the usual ones
    file: Option<String>,
    /// Only machines in whose names this extended regular expression (as of `grep -E`) matches
    #[arg(requires = "file")]
    regexp: Option<String>,
}

impl Which {
    fn selection(self) -> Result<Selection> {
        let words: Vec<String> = self.file.into_iter().chain(self.regexp).collect();
        Selection::new(&words)
    }
}

/// Runs it.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let directories = daemon::directories()?;
    whom::become_owner(match arguments.command {
        // It only changes the machine file.
        Command::Remove { .. } => &directories.configuration,
        _ => &directories.state,
    })?;
    let mut out = output::stdout();
    match arguments.command {
        Command::Status {
            which,
            watch: Some(seconds),
            ..
        } => {
            let selection = which.selection()?;
            status::watch(&directories, &selection, seconds.into(), &mut out)?;
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
            status::write(&directories, &which.selection()?, format, &mut out)?;
        }
        Command::Test { which } => {
            let all_right = check_machines::run(&directories, &which.selection()?, &mut out)?;
            return Ok(ExitCode::from(u8::from(!all_right)));
        }
        Command::Add(arguments) => return add::add(&directories, *arguments, &mut out),
        Command::Remove { names, dry_run } => {
            add::remove(&directories, &names, dry_run, &mut out)?;
        }
        Command::Drain {
            names,
            reason,
            wait,
        } => drain::drain(&directories, &names, reason.as_deref(), wait, &mut out)?,
        Command::Return { names } => drain::put_back(&directories, &names, &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}
