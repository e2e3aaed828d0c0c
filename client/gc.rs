//! `guix-client gc`: collects garbage, answers questions about items, checks the store.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use formats::size::Rounded;
use formats::{StoreDir, StorePath};
use protocol::client::{Connection, Error, Options};
use protocol::operations::GcAction;

use crate::daemon::{self, Daemon};
use crate::graph;
use crate::output;

/// Options of `gc`: without any, all garbage is collected.
#[derive(Args)]
pub struct Arguments {
    /// Collect at least MIN bytes of garbage
    #[arg(short = 'C', long, value_name = "MIN", num_args = 0..=1)]
    collect_garbage: Option<Option<String>>,
    /// Attempt to reach FREE available space in the store
    #[arg(short = 'F', long, value_name = "FREE")]
    free_space: Option<String>,
    #[command(flatten)]
    action: Action,
    /// Items, or files that lead to them
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

/// What to do instead of collecting garbage; one thing at a time.
#[derive(Args)]
#[group(multiple = false)]
struct Action {
    /// Attempt to delete the items
    #[arg(short = 'D', long)]
    delete: bool,
    /// List the links that keep items
    #[arg(long)]
    list_roots: bool,
    /// List items used by running processes
    #[arg(long)]
    list_busy: bool,
    /// Deduplicate identical files
    #[arg(long, alias = "optimise")]
    optimize: bool,
    /// List dead items
    #[arg(long)]
    list_dead: bool,
    /// List live items
    #[arg(long)]
    list_live: bool,
    /// List what the items refer to
    #[arg(long)]
    references: bool,
    /// List what the items need, themselves included
    #[arg(short = 'R', long)]
    requisites: bool,
    /// List what refers to the items
    #[arg(long)]
    referrers: bool,
    /// List the derivations that the items are outputs of
    #[arg(long)]
    derivers: bool,
    /// Check the store; OPTS is a comma-separated combination of 'repair' and 'contents'
    #[arg(
        long,
        value_name = "OPTS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = ""
    )]
    verify: Option<String>,
    /// List cached build failures
    #[arg(long)]
    list_failures: bool,
    /// Remove the items from the set of cached failures
    #[arg(long)]
    clear_failures: bool,
}

/// The relation of items to a given one.
#[derive(Clone, Copy)]
enum Relation {
    References,
    Requisites,
    Referrers,
    Derivers,
}

/// What to do.
enum Operation<'a> {
    Collect,
    Delete,
    ListDead,
    ListLive,
    ListRoots,
    ListBusy,
    Optimize,
    ListRelated(Relation),
    Verify(&'a str),
    ListFailures,
    ClearFailures,
}

impl Operation<'_> {
    /// Whether it does nothing without items.
    fn is_about_paths(&self) -> bool {
        use Operation::{ClearFailures, Delete, ListRelated};
        matches!(self, Delete | ListRelated(_) | ClearFailures)
    }
}

impl Action {
    fn operation(&self) -> Operation<'_> {
        let switches = [
            (self.delete, Operation::Delete),
            (self.list_dead, Operation::ListDead),
            (self.list_live, Operation::ListLive),
            (self.list_roots, Operation::ListRoots),
            (self.list_busy, Operation::ListBusy),
            (self.optimize, Operation::Optimize),
            (
                self.references,
                Operation::ListRelated(Relation::References),
            ),
            (
                self.requisites,
                Operation::ListRelated(Relation::Requisites),
            ),
            (self.referrers, Operation::ListRelated(Relation::Referrers)),
            (self.derivers, Operation::ListRelated(Relation::Derivers)),
            (self.list_failures, Operation::ListFailures),
            (self.clear_failures, Operation::ClearFailures),
        ];
        let verify = self.verify.as_deref().map(Operation::Verify);
        let chosen = switches.into_iter().find(|(chosen, _)| *chosen);
        chosen
            .map(|(_, operation)| operation)
            .or(verify)
            .unwrap_or(Operation::Collect)
    }
}

/// Does what was chosen.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let operation = arguments.action.operation();
    let paths = &arguments.paths;
    assert_takes_paths(&operation, paths)?;
    let options = Options {
        // The reserve makes it possible to collect on a full disk, so collecting frees it.
        reserve_space: !matches!(operation, Operation::Collect | Operation::Delete),
        ..Options::default()
    };
    let connect = || Daemon::connect_with(&options);
    let log = &mut |text: &[u8]| _ = output::stderr().write_all(text);
    match operation {
        Operation::Collect => {
            let least = arguments.collect_garbage.as_ref().and_then(Option::as_ref);
            collect(&mut connect()?, least, arguments.free_space.as_ref())?;
        }
        Operation::Delete => {
            let daemon = &mut connect()?;
            let items = items(daemon, paths)?;
            let connection = &mut daemon.connection;
            connection.collect_garbage(GcAction::DeleteSpecific, items, u64::MAX, log)?;
        }
        Operation::ListDead => list(&mut connect()?, GcAction::ReturnDead)?,
        Operation::ListLive => list(&mut connect()?, GcAction::ReturnLive)?,
        Operation::ListRoots => {
            let roots = connect()?.connection.find_roots()?;
            output::lines(roots.into_iter().map(|(link, _)| link))?;
        }
        Operation::ListBusy => output::lines(busy_items(&daemon::directories()?.store)?)?,
        Operation::Optimize => connect()?.connection.optimise_store(log)?,
        Operation::Verify(options) => return verify(&mut connect()?, options),
        Operation::ListFailures => output::lines(connect()?.connection.query_failed_paths()?)?,
        Operation::ClearFailures => {
            let daemon = &mut connect()?;
            let items = items(daemon, paths)?;
            let names = items.iter().map(|item| item.as_str().into()).collect();
            daemon.connection.clear_failed_paths(names)?;
        }
        Operation::ListRelated(relation) => {
            let daemon = &mut connect()?;
            for path in paths {
                let item = daemon.item_behind(path)?;
                output::lines(related(&mut daemon.connection, relation, item)?)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Operations that take no items refuse them. A warning if there is nothing to do.
fn assert_takes_paths(operation: &Operation<'_>, paths: &[OsString]) -> Result<()> {
    if paths.is_empty() && operation.is_about_paths() {
        output::warning("gc", "no arguments specified, nothing to do");
    }
    if !operation.is_about_paths() && !paths.is_empty() {
        let words: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
        bail!("extraneous arguments: {}", words.join(" "));
    }
    Ok(())
}

/// Collects garbage: all of it, at least `least` bytes, or until `wanted` bytes are free.
fn collect(daemon: &mut Daemon, least: Option<&String>, wanted: Option<&String>) -> Result<()> {
    let most = match (wanted, least) {
        (Some(wanted), _) => match bytes_to_free(daemon, size(wanted)?)? {
            Some(bytes) => bytes,
            None => return Ok(()),
        },
        (None, Some(least)) => size(least)?,
        (None, None) => u64::MAX,
    };
    let log = &mut |text: &[u8]| _ = output::stderr().write_all(text);
    let none = BTreeSet::new();
    let done = daemon
        .connection
        .collect_garbage(GcAction::DeleteDead, none, most, log)?;
    output::info("gc", &format!("freed {}", Rounded(done.bytes_freed)));
    Ok(())
}

/// Lists dead or live items.
fn list(daemon: &mut Daemon, which: GcAction) -> Result<()> {
    let log = &mut |text: &[u8]| _ = output::stderr().write_all(text);
    let none = BTreeSet::new();
    let found = daemon
        .connection
        .collect_garbage(which, none, u64::MAX, log)?;
    output::lines(found.paths)?;
    Ok(())
}

/// Checks the store; status 1 if errors remain.
fn verify(daemon: &mut Daemon, options: &str) -> Result<ExitCode> {
    let options: Vec<&str> = options.split(',').filter(|word| !word.is_empty()).collect();
    let known = ["repair", "contents"];
    if let Some(other) = options.iter().find(|word| !known.contains(word)) {
        bail!("{other}: invalid '--verify' option");
    }
    let has = |word| options.contains(&word);
    let errors_remain = daemon
        .connection
        .verify_store(has("contents"), has("repair"))?;
    Ok(ExitCode::from(u8::from(errors_remain)))
}

/// The items that have the chosen relation to `item`.
fn related(
    daemon: &mut Connection,
    relation: Relation,
    item: StorePath,
) -> Result<Vec<StorePath>, Error> {
    let found = match relation {
        Relation::Requisites => return graph::requisites(daemon, item),
        Relation::References => daemon.query_references(&item),
        Relation::Referrers => daemon.query_referrers(&item),
        Relation::Derivers => daemon.query_valid_derivers(&item),
    };
    Ok(found?.into_iter().collect())
}

fn items(daemon: &Daemon, paths: &[OsString]) -> Result<BTreeSet<StorePath>> {
    paths.iter().map(|path| daemon.item_behind(path)).collect()
}

/// How many bytes have to be deleted until `wanted` bytes are free; `None` if they are.
fn bytes_to_free(daemon: &Daemon, wanted: u64) -> Result<Option<u64>> {
    let store = daemon.directories.store.as_path();
    let system = nix::sys::statvfs::statvfs(store)
        .with_context(|| format!("looking for free space on {}", store.display()))?;
    let free = (system.blocks_available()).saturating_mul(system.fragment_size());
    let free = free as u64;
    if free > wanted {
        let text = format!(
            "already {} available on {}, nothing to do",
            Rounded(free),
            store.display()
        );
        output::info("gc", &text);
        return Ok(None);
    }
    output::info("gc", &format!("freeing {}", Rounded(wanted - free)));
    Ok(Some(wanted - free))
}

/// The items in use by running processes.
fn busy_items(store: &StoreDir) -> Result<BTreeSet<String>> {
    let used =
        system::busy::referenced_items(store.as_path()).context("looking for items in use")?;
    Ok(used
        .into_iter()
        .map(|item| item.to_string_lossy().into_owned())
        .collect())
}

/// Fewer bytes than this: the protocol has 64 bits for them.
const MOST: f64 = 18_446_744_073_709_551_616.0;

/// An amount of storage: a number and a unit, as `guix gc` takes it.
fn size(text: &str) -> Result<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let powers = ["", "K", "M", "G", "T", "P", "E", "Z", "Y"];
    let power = |letter: &str| {
        powers
            .iter()
            .position(|power| power.eq_ignore_ascii_case(letter))
            .map(|power| power as i32)
    };
    let factor = if let Some(letter) = unit.strip_suffix("iB") {
        power(letter).map(|power| 1024f64.powi(power))
    } else if let Some(letter) = unit.strip_suffix('B') {
        power(letter).map(|power| 1000f64.powi(power))
    } else {
        power(unit).map(|power| 1024f64.powi(power))
    };
    match (number.parse::<f64>(), factor) {
        (Ok(number), Some(factor)) if number * factor < MOST => Ok((number * factor) as u64),
        (Ok(_), Some(_)) => bail!("amount of storage is too large: {text}"),
        _ => bail!("invalid amount of storage: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let sizes = [
            ("0", 0),
            ("12", 12),
            ("1K", 1024),
            ("1kB", 1000),
            ("1.5MiB", 3 << 19),
            ("2G", 2 << 30),
            ("7B", 7),
            ("15E", 15 << 60),
        ];
        for (text, bytes) in sizes {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "x", "1X", "1iiB", "-1", "1.2.3"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for huge in ["16E", "1Y", &"9".repeat(400), "18446744073709551616"] {
            let error = size(huge).unwrap_err().to_string();
            assert!(
                error.starts_with("amount of storage is too large: "),
                "{error}"
            );
        }
    }
}
