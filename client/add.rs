//! `guix-client add` and `add-text`: files and texts into the store.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use formats::Algorithm;
use protocol::client::Error;
use store::files;

use crate::daemon::Daemon;
use crate::output;

/// The options of `add`.
#[derive(Args)]
pub struct Files {
    /// What to call the item instead of the file's own name
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// Name the item after the hash of the contents of a single file, not of its nar
    #[arg(long)]
    flat: bool,
    /// The algorithm of the hash that names the item
    #[arg(short = 'H', long, default_value = "sha256")]
    hash: Algorithm,
    /// Files or directories
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Adds files, and prints the items' paths.
pub fn files(arguments: Files) -> Result<ExitCode> {
    let mut daemon = Daemon::connect()?;
    for file in &arguments.files {
        let doing = || format!("adding `{}'", file.display());
        if arguments.flat && !file.symlink_metadata().with_context(doing)?.is_file() {
            bail!("{}: '--flat' needs a regular file", doing());
        }
        let name = match &arguments.name {
            Some(name) => name.clone(),
            None => own_name(file).with_context(doing)?,
        };
        let path = daemon
            .connection
            .add_to_store(&name, !arguments.flat, arguments.hash, |writer| {
                files::dump(file, writer)
            })
            .map_err(|error| match error {
                // The error already has the file's name.
                Error::Local { source, .. } => anyhow::Error::from(source),
                other => other.into(),
            })
            .with_context(doing)?;
        output::lines([path])?;
    }
    Ok(ExitCode::SUCCESS)
}

fn own_name(file: &Path) -> Result<String> {
    let name = match file.file_name() {
        Some(name) => name.to_owned(),
        // `.', for example.
        None => file
            .canonicalize()?
            .file_name()
            .context("it has no name: give it one with '--name'")?
            .to_owned(),
    };
    name.into_string()
        .ok()
        .context("its name is not UTF-8: give it another with '--name'")
}

/// The options of `add-text`.
#[derive(Args)]
pub struct Text {
    /// An item that the text refers to
    #[arg(short, long = "reference", value_name = "ITEM")]
    references: Vec<OsString>,
    /// What to call the item
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// The file with the text; standard input without it
    file: Option<PathBuf>,
}

/// Adds a text, such as a derivation, and prints the item's path.
pub fn text(arguments: Text) -> Result<ExitCode> {
    let mut daemon = Daemon::connect()?;
    let mut text = Vec::new();
    match &arguments.file {
        Some(file) => {
            text = std::fs::read(file).with_context(|| format!("reading `{}'", file.display()))?;
        }
        None => {
            output::say_if_typed("add-text", "the text");
            io::stdin().lock().read_to_end(&mut text)?;
        }
    }
    let references = arguments
        .references
        .iter()
        .map(|item| daemon.item(item))
        .collect::<Result<BTreeSet<_>>>()?;
    let path = daemon
        .connection
        .add_text_to_store(&arguments.name, text, references)?;
    output::lines([path])?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_files() {
        assert_eq!(own_name(Path::new("/etc/..//passwd")).unwrap(), "passwd");
        assert_eq!(own_name(Path::new("/etc/.")).unwrap(), "etc");
        assert!(own_name(Path::new("/")).is_err());
        assert!(own_name(Path::new("/nowhere/..")).is_err());
    }
}
