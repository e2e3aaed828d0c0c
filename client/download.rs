//! `guix-client download`: a file from the network, into the store.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use formats::hash::HashReader;
use formats::nar::Sink;
use formats::printable::printable_lines;
use formats::{Algorithm, Hash};
use percent_encoding::percent_decode_str;
use protocol::trace::Trace;

use crate::daemon::{self, Daemon};
use crate::destination::Destination;
use crate::hash::Format;
use crate::network;
use crate::output;
use crate::progress::TransferProgress;

/// How much the program that downloads can say, in bytes.
const MESSAGES_LIMIT: u64 = 64 << 10;

/// Options of `download`.
#[derive(Args)]
pub struct Arguments {
    /// Write the contents to FILE, and add nothing to the store
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What to call the item, instead of what the URL ends with
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    /// The algorithm of the hash that is printed
    #[arg(short = 'H', long, default_value = "sha256")]
    hash: Algorithm,
    /// How to write the hash
    #[arg(short, long, value_enum, default_value = "nix-base32")]
    format: Format,
    /// Do not check the server's certificate
    #[arg(long)]
    no_check_certificate: bool,
    /// An address of http, https or ftp, or a file
    #[arg(value_name = "URL")]
    url: OsString,
}

/// Downloads, and prints where the file is, and its hash.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let place = Place::of(&arguments.url);
    if let Some(path) = &arguments.output {
        let mut destination = Destination::open(path)?;
        let hash = fetch(&place, &arguments, &mut destination.file)?;
        destination.finish()?;
        let path = path.display().to_string();
        output::lines([path, arguments.format.show(&hash)])?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => place.name()?,
    };
    // Before anything is fetched for nothing.
    let mut daemon = Daemon::connect()?;
    let mut file = anonymous_file()?;
    let hash = fetch(&place, &arguments, &mut file)?;
    let size = file.metadata()?.len();
    file.rewind()?;
    let path = daemon
        .connection
        .add_to_store(&name, false, Algorithm::Sha256, |nar| {
            nar.regular(false, size, &mut file)
        })?;
    output::lines([path.to_string(), arguments.format.show(&hash)])?;
    Ok(ExitCode::SUCCESS)
}

/// Where the contents are.
enum Place {
    /// In a file of this machine.
    File(PathBuf),
    /// At this address.
    Url(String),
}

impl Place {
    fn of(argument: &OsString) -> Place {
        let text = argument.to_string_lossy();
        match text.split_once("://") {
            Some((scheme, path)) if scheme.eq_ignore_ascii_case("file") => {
                let path = percent_decode_str(path).collect();
                Place::File(OsString::from_vec(path).into())
            }
            Some(_) => Place::Url(text.into_owned()),
            None => Place::File(argument.into()),
        }
    }

    /// What to call the item.
    fn name(&self) -> Result<String> {
        let name = match self {
            Place::File(file) => file.file_name().map(|name| name.as_bytes().to_vec()),
            Place::Url(url) => {
                let (_, rest) = url.split_once("://").unwrap_or(("", url));
                let path = rest.split(['?', '#']).next().unwrap_or_default();
                let (_, path) = path.split_once('/').unwrap_or_default();
                let name = path.rsplit('/').next().unwrap_or_default();
                Some(percent_decode_str(name).collect())
            }
        };
        match name.map(String::from_utf8) {
            Some(Ok(name)) if !name.is_empty() => Ok(name),
            _ => bail!("there is no name in the address: give it one with '--name'"),
        }
    }
}

/// A file that nobody else can open, and that is gone when it is closed.
fn anonymous_file() -> Result<File> {
    let path = std::env::temp_dir().join(format!("guix-client-{:032x}", rand::random::<u128>()));
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    let file = opened.with_context(|| format!("making the temporary file `{}'", path.display()))?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Copies the contents to `file`; returns their hash.
fn fetch(place: &Place, arguments: &Arguments, file: &mut File) -> Result<Hash> {
    match place {
        Place::File(path) => {
            let doing = || format!("reading `{}'", path.display());
            copy(File::open(path).with_context(doing)?, arguments, file).with_context(doing)
        }
        Place::Url(url) => download(url, arguments, file),
    }
}

fn copy(source: impl Read, arguments: &Arguments, file: &mut File) -> io::Result<Hash> {
    let mut source = HashReader::new(source, arguments.hash);
    io::copy(&mut source, file)?;
    Ok(source.finish().1)
}

/// Has the program that touches the network get the contents.
fn download(url: &str, arguments: &Arguments, file: &mut File) -> Result<Hash> {
    let program = network::program(&daemon::directories()?);
    let mut command = Command::new(&program);
    command.arg("get");
    if arguments.no_check_certificate {
        command.arg("--insecure");
    }
    command.args(["--", url]);
    let running = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut running = running.with_context(|| format!("starting `{}'", program.display()))?;
    let (Some(contents), Some(messages)) = (running.stdout.take(), running.stderr.take()) else {
        bail!("`{}' has no output", program.display());
    };
    let mut messages = BufReader::new(messages.take(MESSAGES_LIMIT));
    // The first line comes before the contents.
    let mut first = String::new();
    messages.read_line(&mut first)?;
    let copied = match Trace::parse(&first) {
        Some(Trace::DownloadStarted { size, .. }) => {
            let progress = TransferProgress::new("downloading", size);
            copy(progress.reader(contents), arguments, file).map(Some)
        }
        _ => Ok(None),
    };
    if copied.is_err() {
        let _ = running.kill();
    }
    let mut reason = match copied {
        Ok(None) => first,
        _ => String::new(),
    };
    let _ = messages.read_to_string(&mut reason);
    let status = running.wait()?;
    match copied {
        Err(error) => Err(error).context(format!("downloading {url}")),
        Ok(Some(hash)) if status.success() => Ok(hash),
        Ok(_) if !reason.trim().is_empty() => {
            let reason = reason.trim();
            let reason = reason.strip_prefix("guix-fetch: error: ").unwrap_or(reason);
            bail!("{}", printable_lines(reason))
        }
        Ok(_) => bail!("downloading {url}: `{}' ended early", program.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_called_as_the_address_ends() {
        let name = |url: &str| Place::of(&url.into()).name().ok();
        for (url, expected) in [
            ("http://a/b/c.tar.gz", Some("c.tar.gz")),
            ("https://a/b%20c?x=/y#/z", Some("b c")),
            ("ftp://a/x#y/z", Some("x")),
            ("/a/b", Some("b")),
            ("b", Some("b")),
            ("file:///a/b%41", Some("bA")),
            ("http://a", None),
            ("http://a/", None),
            ("http://a/b/", None),
            ("http://a/%ff", None),
            ("/", None),
        ] {
            assert_eq!(name(url).as_deref(), expected, "{url}");
        }
    }
}
