//! `guix-client archive`: exporting and importing items as signed streams.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use formats::{StorePath, nar};
use store::files;

use crate::daemon::Daemon;
use crate::graph;
use crate::keys;
use crate::nar_list;
use crate::options::{BuildOptions, number};
use crate::output;
use crate::progress::TransferProgress;

/// The size of buffers, in bytes.
const TRANSFER_BUFFER_SIZE: usize = 128 * 1024;

/// The action, and the items.
#[derive(Args)]
pub struct Arguments {
    /// Export the items to standard output
    #[arg(long, group = "action")]
    export: bool,
    /// Combined with --export, include dependencies
    #[arg(short, long)]
    recursive: bool,
    /// Import from the archive on standard input
    #[arg(long, group = "action")]
    import: bool,
    /// Print those of the items on standard input that are missing
    #[arg(long, group = "action")]
    missing: bool,
    /// Extract the single nar on standard input to DIR
    #[arg(short = 'x', long, value_name = "DIR", group = "action")]
    extract: Option<PathBuf>,
    /// List the files in the single nar on standard input
    #[arg(short = 't', long, group = "action")]
    list: bool,
    /// Generate a key pair with these parameters
    #[arg(long, value_name = "PARAMETERS", num_args = 0..=1, default_missing_value = keys::PARAMETERS, group = "action")]
    generate_key: Option<String>,
    /// Authorize imports signed by the public key on standard input
    #[arg(long, group = "action")]
    authorize: bool,
    /// How much to show
    #[arg(short, long, value_name = "LEVEL", value_parser = number)]
    verbosity: Option<u32>,
    #[command(flatten)]
    options: BuildOptions,
    /// Items to export
    #[arg(value_name = "ITEM")]
    items: Vec<OsString>,
}

/// Runs the action. There is at most one: Guix takes the first of several, in an order of its own.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    if let Some(parameters) = &arguments.generate_key {
        return keys::generate(parameters);
    }
    if arguments.authorize {
        return keys::authorize();
    }
    let (export, import, missing) = (arguments.export, arguments.import, arguments.missing);
    if !export && !arguments.items.is_empty() {
        let words: Vec<_> = arguments
            .items
            .iter()
            .map(|item| item.to_string_lossy())
            .collect();
        bail!("extraneous arguments: {}", words.join(" "));
    }
    if export && io::stdout().is_terminal() {
        bail!("archives are not for terminals: send standard output to a file or a program");
    }
    if !export && (import || arguments.extract.is_some() || arguments.list) {
        output::say_if_typed("archive", "an archive");
    } else if !export && missing {
        output::say_if_typed("archive", "the names of items");
    }
    if export || import || missing {
        let mut daemon = Daemon::connect()?;
        daemon
            .connection
            .set_options(&arguments.options.to_daemon())?;
        match (export, import) {
            (true, _) => self::export(daemon, &arguments)?,
            (_, true) => self::import(daemon)?,
            _ => self::missing(daemon)?,
        }
    } else if let Some(directory) = &arguments.extract {
        let mut input = BufReader::with_capacity(TRANSFER_BUFFER_SIZE, io::stdin().lock());
        nar::read(&mut input, &mut files::Restore::new(directory))
            .with_context(|| format!("extracting to `{}'", directory.display()))?;
    } else if arguments.list {
        let mut input = BufReader::with_capacity(TRANSFER_BUFFER_SIZE, io::stdin().lock());
        let mut out = output::stdout();
        nar::read(&mut input, &mut nar_list::List::new(&mut out))?;
        out.flush()?;
    } else {
        bail!("either '--export' or '--import' must be specified");
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the items to standard output, each after its references.
fn export(mut daemon: Daemon, arguments: &Arguments) -> Result<()> {
    let items: BTreeSet<StorePath> = arguments
        .items
        .iter()
        .map(|item| daemon.item(item))
        .collect::<Result<_>>()?;
    if items.is_empty() {
        output::warning(
            "archive",
            "no arguments specified; creating an empty archive",
        );
    }
    let connection = &mut daemon.connection;
    let paths = match arguments.recursive {
        true => graph::closure(connection, items)?,
        false => graph::sorted(connection, &items)?,
    };
    let mut total = 0;
    if output::is_watched() {
        for path in &paths {
            let info = connection.query_path_info(path)?;
            total = u64::saturating_add(total, info.nar_size);
        }
    }
    let progress = TransferProgress::new("exporting", Some(total));
    let mut out = progress.writer(output::stdout());
    connection.export_paths(&paths, true, &mut out)?;
    out.flush()?;
    Ok(())
}

/// Sends the daemon the archive on standard input.
fn import(mut daemon: Daemon) -> Result<()> {
    let progress = std::sync::Arc::new(TransferProgress::new("importing", None));
    let bar = progress.clone();
    daemon.connection.set_log(move |text| bar.print(text));
    daemon
        .connection
        .import_paths(&mut progress.reader(io::stdin().lock()))?;
    Ok(())
}

/// Prints the items on standard input that aren't valid.
fn missing(mut daemon: Daemon) -> Result<()> {
    let mut paths = Vec::new();
    for line in io::stdin().lock().split(b'\n') {
        paths.push(daemon.directories.store.parse(line?)?);
    }
    let valid = daemon
        .connection
        .query_valid_paths(paths.iter().cloned().collect())?;
    output::lines(paths.iter().filter(|path| !valid.contains(*path)))?;
    Ok(())
}
