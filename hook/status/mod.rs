//! `offload status`: load, slots and builds of all machines, for users and for monitoring.

mod json;
mod machine_status;
mod prometheus;
mod table;
mod words;

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use store::Directories;

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

/// Writes the table every `seconds`, until interrupted.
pub fn watch(
    daemon_directories: &Directories,
    selection: &Selection,
    seconds: u64,
    out: &mut dyn Write,
) -> Result<()> {
    loop {
        let mut screen = Vec::new();
        write(daemon_directories, selection, Format::Table, &mut screen)?;
        // Clears the screen, so that the table stays in the same place.
        out.write_all(b"\x1b[H\x1b[2J")?;
        out.write_all(&screen)?;
        out.flush()?;
        std::thread::sleep(Duration::from_secs(seconds.max(1)));
    }
}
