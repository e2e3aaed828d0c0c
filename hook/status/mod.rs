//! `offload status`: load, slots and builds of all machines, for users and for monitoring.

mod json;
pub mod known;
mod machine_status;
mod prometheus;
mod screen;
mod table;
mod watch;
mod words;

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use store::Directories;
use system::terminal;

use crate::directories::HookDirectories;
use crate::selection::Selection;

/// The output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a terminal.
    Table,
    /// For programs.
    Json,
    /// For Prometheus, in its text format.
    Prometheus,
}

/// Asks all selected machines in parallel, and writes their status to `out`.
pub fn write(
    daemon_directories: &Directories,
    selection: &Selection,
    format: Format,
    out: &mut dyn Write,
) -> Result<()> {
    let directories = HookDirectories::new(daemon_directories).context("looking up our user")?;
    let list = selection.load(&directories)?;
    let machines = machine_status::gather(&list.machines, &directories)?;
    let text = match format {
        Format::Table => table::table(&machines),
        Format::Json => json::json(&machines),
        Format::Prometheus => prometheus::prometheus(&machines),
    };
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Shows the status every `seconds`, until interrupted: on a terminal by filling the screen, otherwise as one
/// table after the other.
pub fn watch(
    daemon_directories: &Directories,
    selection: &Selection,
    seconds: u64,
    out: &mut dyn Write,
) -> Result<()> {
    let seconds = seconds.max(1);
    if terminal::is_screen(&io::stdout()) {
        return watch::on_screen(daemon_directories, selection, seconds, out);
    }
    loop {
        write(daemon_directories, selection, Format::Table, out)?;
        std::thread::sleep(Duration::from_secs(seconds));
    }
}
