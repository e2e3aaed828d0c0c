//! `guix-client hash`: hashes of files, in Guix's formats.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use data_encoding::{BASE32_NOPAD, BASE64};
use formats::nar::Writer;
use formats::{Algorithm, Hash, Hasher};
use store::files;

use crate::output;

/// The formats of hashes.
#[derive(Clone, Copy, ValueEnum)]
pub enum Format {
    NixBase32,
    Base32,
    Base64,
    #[value(aliases = ["base16", "hexadecimal"])]
    Hex,
}

impl Format {
    /// The hash in this format.
    pub fn show(self, hash: &Hash) -> String {
        match self {
            Format::NixBase32 => hash.base32(),
            // Guix uses lower case, without padding.
            Format::Base32 => BASE32_NOPAD.encode(hash.bytes()).to_lowercase(),
            Format::Base64 => BASE64.encode(hash.bytes()),
            Format::Hex => hash.hex(),
        }
    }
}

/// What is hashed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Serializer {
    /// Its contents
    None,
    /// Its nar, which directories have too
    Nar,
}

/// Options of `hash`.
#[derive(Args)]
pub struct Arguments {
    /// What of a file to hash
    #[arg(
        short = 'S',
        long,
        value_name = "TYPE",
        value_enum,
        default_value = "none"
    )]
    serializer: Serializer,
    /// The same as --serializer=nar
    #[arg(short, long)]
    recursive: bool,
    /// The algorithm
    #[arg(short = 'H', long, default_value = "sha256")]
    hash: Algorithm,
    /// How to write the hash
    #[arg(short, long, value_enum, default_value = "nix-base32")]
    format: Format,
    /// Files; `-' is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Prints hashes.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let serializer = match arguments.recursive {
        true => Serializer::Nar,
        false => arguments.serializer,
    };
    for file in &arguments.files {
        let hash = hash_of(file, serializer, arguments.hash)
            .with_context(|| format!("hashing `{}'", file.display()))?;
        output::lines([arguments.format.show(&hash)])?;
    }
    Ok(ExitCode::SUCCESS)
}

fn hash_of(file: &Path, serializer: Serializer, algorithm: Algorithm) -> io::Result<Hash> {
    let mut hasher = Hasher::new(algorithm);
    match serializer {
        Serializer::Nar if file.as_os_str() == "-" => {
            let reason = "standard input is no file that a nar could be made of";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        Serializer::Nar => {
            let mut writer = Writer::new(hasher);
            files::dump(file, &mut writer)?;
            hasher = writer.into_inner();
        }
        Serializer::None if file.as_os_str() == "-" => {
            output::say_if_typed("hash", "what to hash");
            io::copy(&mut io::stdin().lock(), &mut hasher)?;
        }
        Serializer::None => _ = io::copy(&mut File::open(file)?, &mut hasher)?,
    }
    Ok(hasher.finish().0)
}
