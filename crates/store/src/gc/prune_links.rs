//! Removing unused files from `.links`.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use formats::size::Aligned;
use system::sync::Mutex;

use super::trash::in_parallel;
use crate::error::{Context, Error, Result};
use crate::file_hash::DEDUPLICATION_MINIMUM;
use crate::progress::{Level, Progress, check, say};
use crate::store::Store;

/// Unlinks files in `.links` that have no other link, or are too small to be there; returns the
/// bytes freed.
///
/// Another process may link to such a file just before it is unlinked: then it is an ordinary file
/// of an item, and the next identical file is added to `.links`.
pub(super) fn prune_links(store: &Store, progress: &dyn Progress) -> Result<u64> {
    let links = store.links_dir()?;
    let reading = || format!("reading directory `{}/.links'", store.dir());
    let mut names = Vec::new();
    for entry in links.entries().context(reading)? {
        names.push(entry.context(reading)?.name);
    }
    let freed = AtomicU64::new(0);
    let saved = AtomicI64::new(0);
    let failure = Mutex::new(None);
    in_parallel(&names, |name| {
        let look = || -> Result<()> {
            check(progress)?;
            let path = || format!("`{}/.links/{}'", store.dir(), Path::new(name).display());
            let Some(stat) = links
                .try_stat_at(name)
                .context(|| format!("statting {}", path()))?
            else {
                return Ok(());
            };
            let size = stat.size();
            if stat.links() != 1 && size >= DEDUPLICATION_MINIMUM {
                let others = stat.links() as i64 - 2;
                saved.fetch_add(others.saturating_mul(size as i64), Ordering::Relaxed);
                return Ok(());
            }
            match links.remove_file(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                result => {
                    result.map_err(|error| Error::io(format!("deleting {}", path()), error))?
                }
            }
            freed.fetch_add(size, Ordering::Relaxed);
            Ok(())
        };
        match look() {
            Ok(()) => true,
            Err(error) => {
                failure.lock().get_or_insert(error);
                false
            }
        }
    });
    if let Some(error) = failure.lock().take() {
        return Err(error);
    }
    say(progress, Level::Info, || {
        let overhead = links.stat().map_or(0, |stat| stat.size()) as i64;
        // In a small store the directory may take more than is saved.
        let saved = Aligned((saved.into_inner() - overhead).max(0));
        format!("note: currently hard linking saves {saved}")
    });
    Ok(freed.into_inner())
}
