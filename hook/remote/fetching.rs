//! Items that a machine gets from its substitute servers, instead of being sent them
//! (`use-substitutes` in the machine file).
//!
//! Its daemon is asked over a connection of its own. If it gets stuck, that connection is closed,
//! which ends whatever the daemon does for it, while the first one goes on protecting items from
//! garbage collection. An item that turns out to be another one than ours is removed there: a build
//! must have the inputs that its client has. As long as our own connection protects it, it can't be
//! removed, so that one has to be replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use formats::StorePath;
use protocol::client::Streams;
use protocol::operations::{BuildMode, BuildPaths, GcAction, SetOptions, Substitutable};
use store::PathInfo;

use super::build_limits::BuildLimits;
use super::daemon_connection::DaemonConnection;
use super::error::Error;
use super::fetch_progress::{FetchProgress, PATIENCE};
use super::timed_stream::Timeouts;
use super::transport::{Fetched, Report};

/// The timeout for another handshake with the daemon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the daemon may take to find out what its servers have.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(60);
/// How many bytes the daemon may send meanwhile.
const ANSWER_LIMIT: u64 = 1 << 30;
/// How long to try to remove items that others may still be about to give up.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The delay between two attempts.
const REMOVAL_DELAY: Duration = Duration::from_millis(250);

/// Does what [`Transport::fetch`](super::Transport::fetch) promises.
pub(super) fn fetch(
    connection: &mut DaemonConnection,
    items: &[PathInfo],
    limits: &BuildLimits,
    report: &mut Report<'_>,
) -> Result<Fetched, Error> {
    let machine = connection.route.name().to_owned();
    let mut chosen = Vec::new();
    if let Err(error) = fetch_apart(connection, items, limits, &mut chosen, report) {
        report(&format!("warning: {error}"));
    }
    if chosen.is_empty() {
        return Ok(Fetched::Nothing);
    }
    // Even if it ended early, some may be there.
    let paths: Vec<StorePath> = chosen.iter().map(|item| item.path.clone()).collect();
    let missing: BTreeSet<StorePath> = connection
        .protect_and_ask(&[], &paths)?
        .into_iter()
        .collect();
    chosen.retain(|item| !missing.contains(&item.path));
    let there: Vec<StorePath> = chosen.iter().map(|item| item.path.clone()).collect();
    let hashes = connection.hashes(&there)?;
    let mut different = Vec::new();
    for (item, hash) in chosen.iter().zip(hashes) {
        if hash != item.hash {
            report(&format!(
                "warning: `{}' from the substitute servers of '{machine}' is not ours: its hash is \
                 sha256:{}, not sha256:{}",
                item.path,
                hash.base32(),
                item.hash.base32()
            ));
            different.push(item.path.clone());
        }
    }
    if different.is_empty() {
        return Ok(Fetched::Some);
    }
    connection.stream.close();
    remove(connection, &different)?;
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    *connection = connection.another(deadline)?;
    Ok(Fetched::Removed)
}

/// Has the daemon fetch, over another connection. `chosen` are the items that it may have fetched,
/// even if the result is an error.
fn fetch_apart<'a>(
    connection: &DaemonConnection,
    items: &'a [PathInfo],
    limits: &BuildLimits,
    chosen: &mut Vec<&'a PathInfo>,
    report: &mut Report<'_>,
) -> Result<(), Error> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut other = connection.another(deadline)?;
    let asked = items.iter().map(|item| item.path.clone()).collect();
    let timeouts = Timeouts {
        most: Some(ANSWER_LIMIT),
        ..Timeouts::until(Instant::now() + LOOKUP_TIMEOUT)
    };
    let offered = other.call("asking for substitutes", timeouts, |daemon| {
        daemon.put_before(&options(limits))?;
        daemon.query_substitutable_path_infos(asked)
    })?;
    *chosen = choose(items, &offered.into_iter().collect());
    if chosen.is_empty() {
        return Ok(());
    }
    let machine = other.route.name().to_owned();
    let bytes: u64 = chosen.iter().map(|item| item.nar_size).sum();
    report(&format!(
        "'{machine}' fetches {} of {} store items ({:.1} MiB) from its substitute servers...",
        chosen.len(),
        items.len(),
        bytes as f64 / f64::from(1 << 20)
    ));
    let request = BuildPaths {
        targets: chosen.iter().map(|item| item.path.clone().into()).collect(),
        mode: BuildMode::Normal,
    };
    let timeouts = Timeouts {
        deadline: limits.deadline(),
        most: Some(ANSWER_LIMIT),
        ..Timeouts::idle(PATIENCE)
    };
    let mut progress = FetchProgress::new(&machine, chosen, report);
    let stream = other.stream.clone();
    let done = other.call("fetching substitutes", timeouts, |daemon| {
        let mut log = |text: &[u8]| {
            progress.write(text);
            if progress.is_stuck() {
                stream.close();
            }
        };
        daemon.call_with(&request, Streams::new(&mut log)).map(drop)
    });
    progress.finish();
    other.stream.close();
    done
}

/// The options for fetching, and nothing else.
fn options(limits: &BuildLimits) -> SetOptions {
    let mut options = SetOptions {
        keep_going: true,
        use_build_hook: Some(false),
        ..SetOptions::default()
    };
    options.set("print-extended-build-trace", "1");
    options.set("build-timeout", limits.timeout.to_string());
    options
}

/// The items whose substitutes look like ours, and for which the same is true of all that they need.
/// (A daemon fetches an item only together with those that it refers to.)
fn choose<'a>(
    items: &'a [PathInfo],
    offered: &BTreeMap<StorePath, Substitutable>,
) -> Vec<&'a PathInfo> {
    let mut left_out = BTreeSet::new();
    let mut chosen = Vec::new();
    for item in items {
        let is_same = offered.get(&item.path).is_some_and(|offer| {
            let sizes = [offer.nar_size, item.nar_size];
            (sizes[0] == sizes[1] || sizes.contains(&0)) && offer.references == item.references
        });
        // A derivation among the targets would be built.
        if is_same && !item.path.is_derivation() && item.references.is_disjoint(&left_out) {
            chosen.push(item);
        } else {
            left_out.insert(item.path.clone());
        }
    }
    chosen
}

/// Removes items there, if nobody uses them.
fn remove(connection: &DaemonConnection, items: &[StorePath]) -> Result<(), Error> {
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut other = connection.another(deadline)?;
    let give_up = Instant::now() + REMOVAL_TIMEOUT;
    loop {
        let missing: BTreeSet<_> = other.protect_and_ask(&[], items)?.into_iter().collect();
        let left: BTreeSet<_> = items
            .iter()
            .filter(|item| !missing.contains(*item))
            .cloned()
            .collect();
        let Some(item) = left.first().cloned() else {
            return Ok(());
        };
        // Other builds that have met the same items give them up at the same time.
        match other.ask("removing store items", |daemon| {
            daemon.collect_garbage(GcAction::DeleteSpecific, left, u64::MAX, &mut |_| {})
        }) {
            Ok(_) => return Ok(()),
            Err(Error::Refused { .. }) if Instant::now() < give_up => {
                std::thread::sleep(REMOVAL_DELAY)
            }
            Err(Error::Refused {
                machine, message, ..
            }) => {
                return Err(Error::DifferentItem {
                    machine,
                    item,
                    reason: message,
                });
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use formats::{Hash, StoreDir};

    use super::*;

    fn path(name: &str) -> StorePath {
        let store = StoreDir::new("/gnu/store").unwrap();
        store.join(&format!("{}-{name}", "0".repeat(32))).unwrap()
    }

    fn item(name: &str, references: &[&str]) -> PathInfo {
        PathInfo {
            path: path(name),
            hash: Hash::sha256(name),
            registration_time: 1,
            deriver: None,
            nar_size: 100,
            references: references.iter().map(|name| path(name)).collect(),
        }
    }

    fn offer(item: &PathInfo) -> (StorePath, Substitutable) {
        let offer = Substitutable {
            deriver: None,
            references: item.references.clone(),
            download_size: 10,
            nar_size: item.nar_size,
        };
        (item.path.clone(), offer)
    }

    #[test]
    fn only_what_looks_like_ours_is_fetched_with_all_that_it_needs() {
        // `c' is there already.
        let items = [
            item("a", &["a", "c"]),
            item("b", &["a"]),
            item("d", &["b", "c"]),
            item("e.drv", &[]),
            item("f", &["e.drv"]),
            item("g", &[]),
        ];
        let chosen = |offered: &BTreeMap<StorePath, Substitutable>| -> String {
            let names = choose(&items, offered)
                .into_iter()
                .map(|item| item.path.name());
            names.collect()
        };
        let all: BTreeMap<_, _> = items.iter().map(offer).collect();
        assert_eq!(chosen(&all), "abdg");
        let without = |change: &dyn Fn(&mut BTreeMap<StorePath, Substitutable>)| {
            let mut offered = all.clone();
            change(&mut offered);
            chosen(&offered)
        };
        assert_eq!(without(&|all| _ = all.remove(&path("b"))), "ag");
        let size = |size| {
            move |all: &mut BTreeMap<StorePath, Substitutable>| {
                all.get_mut(&path("b")).unwrap().nar_size = size;
            }
        };
        assert_eq!(without(&size(99)), "ag");
        // Not every server says it.
        assert_eq!(without(&size(0)), "abdg");
        let more = |all: &mut BTreeMap<StorePath, Substitutable>| {
            all.get_mut(&path("b"))
                .unwrap()
                .references
                .insert(path("c"));
        };
        assert_eq!(without(&more), "ag");
        assert_eq!(chosen(&BTreeMap::new()), "");
    }
}
