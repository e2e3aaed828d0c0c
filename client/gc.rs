//! `guix-client gc`: garbage, and questions about items.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Args;
use formats::StorePath;
use protocol::client::{Error, Options};
use protocol::operations::GcAction;

use crate::graph;
use crate::output;
use crate::session::Session;

/// What to do, and with which items. Without any of these, all garbage is collected.
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

/// What else to do.
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
    #[arg(long, value_name = "OPTS", num_args = 0..=1, default_missing_value = "")]
    verify: Option<String>,
    /// List cached build failures
    #[arg(long)]
    list_failures: bool,
    /// Remove the items from the set of cached failures
    #[arg(long)]
    clear_failures: bool,
}

/// Does it.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    // Space held in reserve is for collecting garbage on a full disk, so collecting gives it up.
    let collecting = arguments.action.is_none() || arguments.action.delete;
    let options = Options {
        reserve_space: !collecting,
        ..Options::default()
    };
    let mut session = Session::open_with(&options)?;
    let Arguments {
        collect_garbage,
        free_space,
        action,
        paths,
    } = arguments;
    let takes_items = action.delete
        || action.references
        || action.requisites
        || action.referrers
        || action.derivers
        || action.clear_failures
        || action.list_failures
        || action.list_dead
        || action.list_live;
    if !takes_items && !paths.is_empty() {
        let words: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
        bail!("extraneous arguments: {}", words.join(" "));
    }
    let stderr = &mut |text: &[u8]| _ = output::stderr().write_all(text);

    if action.is_none() {
        let most = match (free_space, collect_garbage.flatten()) {
            (Some(wanted), _) => match to_free(&session, size(&wanted)?)? {
                Some(bytes) => bytes,
                None => return Ok(ExitCode::SUCCESS),
            },
            (None, Some(least)) => size(&least)?,
            (None, None) => u64::MAX,
        };
        let done =
            session
                .daemon
                .collect_garbage(GcAction::DeleteDead, BTreeSet::new(), most, stderr)?;
        output::info("gc", &format!("freed {} MiBs", mebibytes(done.bytes_freed)));
    } else if action.delete {
        let paths = items(&session, &paths)?;
        session
            .daemon
            .collect_garbage(GcAction::DeleteSpecific, paths, u64::MAX, stderr)?;
    } else if action.list_dead || action.list_live {
        let kind = if action.list_dead {
            GcAction::ReturnDead
        } else {
            GcAction::ReturnLive
        };
        let found = session
            .daemon
            .collect_garbage(kind, BTreeSet::new(), u64::MAX, stderr)?;
        output::lines(found.paths)?;
    } else if action.list_roots {
        let roots = session.daemon.find_roots()?;
        output::lines(roots.into_iter().map(|(link, _)| link))?;
    } else if action.list_busy {
        output::lines(busy(&session)?)?;
    } else if action.optimize {
        session.daemon.optimise_store(stderr)?;
    } else if let Some(options) = action.verify {
        let options: Vec<&str> = options.split(',').filter(|word| !word.is_empty()).collect();
        if let Some(other) = options
            .iter()
            .find(|word| !["repair", "contents"].contains(word))
        {
            bail!("{other}: invalid '--verify' option");
        }
        let asks = |word| options.contains(&word);
        let errors = session
            .daemon
            .verify_store(asks("contents"), asks("repair"))?;
        return Ok(if errors {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        });
    } else if action.list_failures {
        output::lines(session.daemon.query_failed_paths()?)?;
    } else if action.clear_failures {
        let paths = items(&session, &paths)?;
        let paths = paths.iter().map(|path| path.as_str().into()).collect();
        session.daemon.clear_failed_paths(paths)?;
    } else {
        for path in &paths {
            let item = session.item_behind(path)?;
            output::lines(relatives(&mut session, &action, item)?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Action {
    /// Whether nothing was chosen.
    fn is_none(&self) -> bool {
        let Action {
            delete,
            list_roots,
            list_busy,
            optimize,
            list_dead,
            list_live,
            ..
        } = self;
        let Action {
            references,
            requisites,
            referrers,
            derivers,
            ..
        } = self;
        let Action {
            list_failures,
            clear_failures,
            ..
        } = self;
        let chosen = [
            delete, list_roots, list_busy, optimize, list_dead, list_live,
        ]
        .into_iter()
        .chain([
            references,
            requisites,
            referrers,
            derivers,
            list_failures,
            clear_failures,
        ]);
        self.verify.is_none() && !chosen.into_iter().any(|chosen| *chosen)
    }
}

fn relatives(
    session: &mut Session,
    action: &Action,
    item: StorePath,
) -> Result<Vec<StorePath>, Error> {
    let daemon = &mut session.daemon;
    if action.requisites {
        return graph::requisites(daemon, item);
    }
    let found = if action.references {
        daemon.query_references(&item)
    } else if action.referrers {
        daemon.query_referrers(&item)
    } else {
        daemon.query_valid_derivers(&item)
    };
    Ok(found?.into_iter().collect())
}

fn items(session: &Session, paths: &[OsString]) -> Result<BTreeSet<StorePath>> {
    paths.iter().map(|path| session.item_behind(path)).collect()
}

/// How much has to be deleted until `wanted` bytes are free; nothing if they are.
fn to_free(session: &Session, wanted: u64) -> Result<Option<u64>> {
    let store = session.directories.store.as_path();
    let system = nix::sys::statvfs::statvfs(store)
        .with_context(|| format!("looking for free space on {}", store.display()))?;
    let free = (system.blocks_available()).saturating_mul(system.fragment_size());
    let free = free as u64;
    if free > wanted {
        let text = format!(
            "already {} MiBs available on {}, nothing to do",
            mebibytes(free),
            store.display()
        );
        output::info("gc", &text);
        return Ok(None);
    }
    output::info("gc", &format!("freeing {} MiBs", mebibytes(wanted - free)));
    Ok(Some(wanted - free))
}

/// The items that running processes use.
fn busy(session: &Session) -> Result<BTreeSet<String>> {
    let store = session.directories.store.as_path();
    let used = system::busy::referenced_items(store).context("looking for items in use")?;
    Ok(used
        .into_iter()
        .map(|item| item.to_string_lossy().into_owned())
        .collect())
}

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
        // Saturates at the largest number.
        (Ok(number), Some(factor)) => Ok((number * factor) as u64),
        _ => bail!("invalid amount of storage: {text}"),
    }
}

/// `1,234.50`: mebibytes with two digits.
fn mebibytes(bytes: u64) -> String {
    let hundredths = (bytes as f64 / 1024.0 / 1024.0 * 100.0).round() as u64;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
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
        ];
        for (text, bytes) in sizes {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for bad in ["", "x", "1X", "1iiB", "-1", "1.2.3"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(mebibytes(1536 << 10), "1.50");
    }
}
