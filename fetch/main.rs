//! `guix-fetch`: what touches the network, without privileges.

mod confine;
mod download;
mod get;
mod libcurl;
mod network;
mod proxy;
mod substitute;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Parser, Subcommand};

/// Fetch from the network for a build daemon.
///
/// This tool is meant to be used internally by `guix-daemon'.
#[derive(Parser)]
#[command(name = "guix-fetch", version = concat!("(GNU Guix) ", env!("GUIX_VERSION")))]
struct Options {
    #[command(subcommand)]
    subcommand: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Serve requests of the daemon, on the socket that is descriptor 0
    Network,
    /// Build DERIVATION, a download, at OUTPUT
    PerformDownload {
        #[arg(value_name = "DERIVATION OUTPUT", allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Stand in for `guix substitute`, under Guix's own daemon
    Substitute {
        #[arg(value_name = "--query|--substitute", allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Write the contents of a URL to standard output, for `guix-client download'
    Get(get::Options),
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

fn main() -> ExitCode {
    let result = match Options::parse().subcommand {
        Task::Network => network::run(),
        Task::PerformDownload { arguments } => return download::run(&arguments),
        Task::Substitute { arguments } => return substitute::run(&arguments),
        Task::Get(options) => get::run(&options),
        Task::Other(words) => unknown(&words),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If nobody reads it, the exit code says enough.
            let _ = writeln!(io::stderr(), "guix-fetch: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn unknown(words: &[OsString]) -> anyhow::Result<()> {
    let name = words.first().map(|word| word.to_string_lossy());
    bail!(
        "there is no subcommand `{}' here; Guix's own `guix' is needed for all others",
        name.unwrap_or_default()
    )
}
