//! `guix-client`: the part of `guix` that needs no Guile: building derivations, moving items
//! between stores, collecting garbage, looking after offloading.
//!
//! Each subcommand is a file: its options, and a `run` that asks a [`daemon`] to do it. Options,
//! output and exit codes are those of the `guix` command of that name. Everything is printed
//! through [`output`].

mod add;
mod archive;
mod build;
mod builds;
mod daemon;
mod dashboard;
mod destination;
mod download;
mod downloads;
mod failures;
mod gc;
mod graph;
mod hash;
mod hello;
mod history;
mod keys;
mod log;
mod log_printer;
mod manual;
mod nar_list;
mod network;
mod offload;
mod options;
mod output;
mod plain_lines;
mod plan;
mod processes;
mod progress;
mod roots;
mod status;
mod table;
mod view;
mod weather;
mod whom;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};

/// A client of the build daemon of GNU Guix.
#[derive(Parser)]
#[command(name = "guix-client", version = env!("GUIX_VERSION"), max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build derivations, and print where their outputs are
    Build(build::Arguments),
    /// Show the log of a build, and follow it while it runs
    Log(log::Arguments),
    /// Export and import items, and choose whose imports are accepted
    Archive(archive::Arguments),
    /// Collect garbage; ask about items; check and optimise the store
    Gc(gc::Arguments),
    /// List the daemon's sessions and their processes
    Processes(processes::Arguments),
    /// Show what is being built for everybody, what waits and why
    Status(status::Arguments),
    /// Accept imports signed by the public key on standard input
    Authorize,
    /// Show the state of the build machines, and test them
    Offload(offload::Arguments),
    /// Show what was built where, how long it took, and how it ended
    History(history::Arguments),
    /// Serve a page that shows all of that to browsers
    Dashboard(dashboard::Arguments),
    /// Show which substitute servers have items
    Weather(weather::Arguments),
    /// Download a file to the store, and print its hash
    Download(download::Arguments),
    /// Add files to the store
    Add(add::Files),
    /// Add the text of a file, or of standard input, to the store
    AddText(add::Text),
    /// Print hashes of files
    Hash(hash::Arguments),
    /// Write the man page and the shell completions of this program
    #[command(hide = true)]
    Manual(manual::Arguments),
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Command::Build(_) => "build",
            Command::Log(_) => "log",
            Command::Archive(_) => "archive",
            Command::Gc(_) => "gc",
            Command::Processes(_) => "processes",
            Command::Status(_) => "status",
            Command::Authorize => "authorize",
            Command::Offload(_) => "offload",
            Command::History(_) => "history",
            Command::Dashboard(_) => "dashboard",
            Command::Weather(_) => "weather",
            Command::Download(_) => "download",
            Command::Add(_) => "add",
            Command::AddText(_) => "add-text",
            Command::Hash(_) => "hash",
            Command::Manual(_) => "manual",
        }
    }

    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Build(arguments) => build::run(arguments),
            Command::Log(arguments) => log::run(arguments),
            Command::Archive(arguments) => archive::run(arguments),
            Command::Gc(arguments) => gc::run(arguments),
            Command::Processes(arguments) => processes::run(arguments),
            Command::Status(arguments) => status::run(arguments),
            Command::Authorize => keys::authorize(),
            Command::Offload(arguments) => offload::run(arguments),
            Command::History(arguments) => history::run(arguments),
            Command::Dashboard(arguments) => dashboard::run(arguments),
            Command::Weather(arguments) => weather::run(arguments),
            Command::Download(arguments) => download::run(arguments),
            Command::Add(arguments) => add::files(arguments),
            Command::AddText(arguments) => add::text(arguments),
            Command::Hash(arguments) => hash::run(arguments),
            Command::Manual(arguments) => {
                manual::run(arguments, <Arguments as CommandFactory>::command())
            }
        }
    }
}

fn main() -> ExitCode {
    let command = match Arguments::try_parse() {
        Ok(arguments) => arguments.command,
        Err(error) => return usage(error),
    };
    let name = command.name();
    let expecting = system::signal::expect_children().map_err(Into::into);
    expecting
        .and_then(|()| command.run())
        .unwrap_or_else(|error| {
            output::error(name, &error);
            ExitCode::FAILURE
        })
}

/// Prints help or version, if requested, or the error in the arguments.
fn usage(mut error: clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::UnknownArgument {
        // That one could write `-- --typo': nobody means that.
        error.remove(ContextKind::Suggested);
    }
    let text = error.render();
    if error.use_stderr() {
        let text = match output::has_colors(&io::stderr()) {
            true => text.ansi().to_string(),
            false => text.to_string(),
        };
        let _ = output::stderr().write_all(text.as_bytes());
        // Not clap's 2: callers of `guix` expect 1.
        return ExitCode::FAILURE;
    }
    let text = match output::has_colors(&io::stdout()) {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    let mut out = output::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error("", &error.into());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_options_is_consistent() {
        <Arguments as CommandFactory>::command().debug_assert();
    }
}
