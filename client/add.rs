//! `guix-client add`, `add-text` and `hash`: files into the store, and their hashes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use formats::nar::Writer;
use formats::{Algorithm, Hasher};

use crate::output;
use crate::session::Session;
use crate::tree;

/// Files to add.
#[derive(Args)]
pub struct Files {
    /// What to call the item instead of the file's own name
    #[arg(long)]
    name: Option<String>,
    /// Add a single file as it is, so that it may be found by the hash of its contents
    #[arg(long)]
    flat: bool,
    /// The algorithm of the hash that names the item
    #[arg(short = 'H', long, default_value = "sha256")]
    hash: Algorithm,
    /// Files or directories
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Adds files, and prints where they are.
pub fn files(arguments: Files) -> Result<ExitCode> {
    let mut session = Session::open()?;
    for file in &arguments.files {
        let name = match &arguments.name {
            Some(name) => name.clone(),
            None => own_name(file)?,
        };
        let path = session
            .daemon
            .add_to_store(&name, !arguments.flat, arguments.hash, |writer| {
                tree::dump(file, writer)
            })
            .with_context(|| format!("adding `{}'", file.display()))?;
        output::lines([path])?;
    }
    Ok(ExitCode::SUCCESS)
}

fn own_name(file: &Path) -> Result<String> {
    let name = match file.file_name() {
        Some(name) => name.to_owned(),
        None => file
            .canonicalize()?
            .file_name()
            .unwrap_or_default()
            .to_owned(),
    };
    name.into_string()
        .ok()
        .with_context(|| format!("{} needs a --name", file.display()))
}

/// A text to add.
#[derive(Args)]
pub struct Text {
    /// An item that the text refers to
    #[arg(short, long = "reference", value_name = "ITEM")]
    references: Vec<OsString>,
    /// What to call the item
    name: String,
    /// Where the text is, if not on standard input
    file: Option<PathBuf>,
}

/// Adds a text, such as a derivation, and prints where it is.
pub fn text(arguments: Text) -> Result<ExitCode> {
    let mut session = Session::open()?;
    let mut text = Vec::new();
    match &arguments.file {
        Some(file) => {
            text = std::fs::read(file).with_context(|| format!("reading `{}'", file.display()))?;
        }
        None => _ = io::stdin().lock().read_to_end(&mut text)?,
    }
    let references = arguments
        .references
        .iter()
        .map(|item| session.item(item))
        .collect::<Result<BTreeSet<_>>>()?;
    let path = session
        .daemon
        .add_text_to_store(&arguments.name, text, references)?;
    output::lines([path])?;
    Ok(ExitCode::SUCCESS)
}

/// How hashes are written.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    NixBase32,
    Hex,
}

/// Files to hash.
#[derive(Args)]
pub struct Hashes {
    /// Hash the nar of the files, so that directories have a hash too
    #[arg(short = 'r', long)]
    recursive: bool,
    /// The algorithm
    #[arg(short = 'H', long, default_value = "sha256")]
    hash: Algorithm,
    /// How to write the hash
    #[arg(short, long, value_enum, default_value = "nix-base32")]
    format: Format,
    /// The files
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Prints hashes.
pub fn hashes(arguments: Hashes) -> Result<ExitCode> {
    for file in &arguments.files {
        let mut hasher = Hasher::new(arguments.hash);
        let read = if arguments.recursive {
            let mut writer = Writer::new(hasher);
            let read = tree::dump(file, &mut writer);
            hasher = writer.into_inner();
            read
        } else {
            std::fs::File::open(file)
                .and_then(|mut file| io::copy(&mut file, &mut hasher).map(drop))
        };
        read.with_context(|| format!("hashing `{}'", file.display()))?;
        let (hash, _) = hasher.finish();
        output::lines([match arguments.format {
            Format::NixBase32 => hash.base32(),
            Format::Hex => hash.hex(),
        }])?;
    }
    Ok(ExitCode::SUCCESS)
}
