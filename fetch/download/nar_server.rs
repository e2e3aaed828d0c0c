//! The files of a commit, from substitute servers that are asked without narinfos: whether the
//! contents are right is known from the hash.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::Path;

use formats::{StorePath, nar};
use lzma_rust2::LzipReader;

use super::output::Output;
use super::place::host;
use super::report::{self, Progress};
use super::request::Request;
use super::transfer::{Failure, Transfer};
use super::tree::Tree;

/// Guix's own servers.
const SERVERS: &str = "http://bordeaux.guix.gnu.org http://ci.guix.gnu.org";
/// The variable of the daemon's environment that names others.
const VARIABLE: &str = "GUIX_FETCH_NAR_SERVERS";

/// What an attempt brought.
pub enum Fetched {
    /// All files.
    Whole,
    /// Some, and not what was there before.
    Part,
    /// Nothing; the tree is as it was.
    Nothing,
}

/// Where the archive of an item may be.
pub fn urls(item: &StorePath) -> Vec<String> {
    let servers = std::env::var(VARIABLE).unwrap_or_else(|_| SERVERS.to_owned());
    let servers: Vec<&str> = servers.split_whitespace().collect();
    let of = |kind: &'static str| {
        let name = item.base_name();
        servers
            .iter()
            .map(move |server| format!("{}/{kind}/{name}", server.trim_end_matches('/')))
    };
    of("nar/lzip").chain(of("nar")).collect()
}

/// Fetches the archive at `url`, and unpacks it to `tree`.
pub fn fetch(request: &Request, url: &str, tree: &Tree, scratch: &Path) -> io::Result<Fetched> {
    let name = host(url);
    report::line(&format!("Trying content-addressed mirror at {name}..."));
    let archive = scratch.join("archive.nar");
    let progress = Progress::new(request.traces, request.item.as_str());
    let mut transfer = Transfer::new(Output::unhashed(&archive), progress);
    let result = match transfer.fetch(url) {
        Ok(_) => unpack(&archive, url.contains("/nar/lzip/"), tree),
        Err(Failure::Place(reason)) => {
            report::line(&format!("Unable to fetch from {name}, {reason}"));
            Ok(Fetched::Nothing)
        }
        Err(Failure::Output(error)) => Err(error),
    };
    // There may be none.
    let _ = fs::remove_file(&archive);
    result
}

fn unpack(archive: &Path, is_lzip: bool, tree: &Tree) -> io::Result<Fetched> {
    tree.remove()?;
    let file = BufReader::new(File::open(archive)?);
    let mut reader: Box<dyn Read> = match is_lzip {
        true => Box::new(LzipReader::new(file)),
        false => Box::new(file),
    };
    let mut sink = store::files::Restore::new(tree.path());
    match nar::read(&mut reader, &mut sink) {
        Ok(()) => Ok(Fetched::Whole),
        Err(nar::Error::Sink(error)) => Err(error),
        Err(error) => {
            report::line(&format!("not an archive: {error}"));
            tree.remove()?;
            Ok(Fetched::Part)
        }
    }
}
