//! Many items at once: exporting, importing, collecting them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use formats::hash::Hash;
use formats::store_path::StorePath;
use protocol::client::Connection;
use protocol::operations::GcAction;

use crate::Task;
use crate::host::Host;
use crate::work::each;

/// The tasks.
pub const TASKS: &[Task<Host>] = &[
    Task::new("export 1000 small items", export).rounds(3),
    Task::new("import 1000 small items", import).rounds(3),
    Task::new("collect 100,000 dead items", collect)
        .rounds(3)
        .long(),
    Task::new("liveness of a million items", liveness)
        .rounds(1)
        .long(),
];

/// The number of items that are exported and imported.
const SMALL: usize = 1000;

fn small_items(daemon: &mut Connection, round: usize) -> Result<Vec<StorePath>> {
    (0..SMALL)
        .map(|number| {
            let text = format!("item {number} of round {round}");
            Ok(daemon.add_text_to_store("small", text, BTreeSet::new())?)
        })
        .collect()
}

fn export(host: &Host, round: usize) -> Result<Duration> {
    let mut daemon = host.connect()?;
    let items = small_items(&mut daemon, round)?;
    each(1, |_| {
        Ok(daemon.export_paths(&items, true, &mut Vec::new())?)
    })
}

fn import(host: &Host, round: usize) -> Result<Duration> {
    let mut daemon = host.connect()?;
    let items = small_items(&mut daemon, round)?;
    let mut archive = Vec::new();
    daemon.export_paths(&items, true, &mut archive)?;
    // They are protected until the connection that added them is closed, or slightly longer.
    drop(daemon);
    let mut daemon = host.connect()?;
    let begun = Instant::now();
    let all: BTreeSet<StorePath> = items.iter().cloned().collect();
    while let Err(error) =
        daemon.collect_garbage(GcAction::DeleteSpecific, all.clone(), u64::MAX, &mut |_| {})
    {
        if begun.elapsed() > crate::TEST_TIMEOUT {
            return Err(error.into());
        }
        std::thread::sleep(Duration::from_millis(50));
        daemon = host.connect()?;
    }
    let begun = Instant::now();
    let imported = daemon.import_paths(&mut archive.as_slice())?;
    let time = begun.elapsed();
    if imported.len() != SMALL {
        bail!("{} items were imported", imported.len());
    }
    Ok(time)
}

fn collect(host: &Host, round: usize) -> Result<Duration> {
    const DEAD: usize = 100_000;
    make_items(host, &format!("dead-{round}"), DEAD)?;
    let mut daemon = host.connect()?;
    let begun = Instant::now();
    let collected =
        daemon.collect_garbage(GcAction::DeleteDead, BTreeSet::new(), u64::MAX, &mut |_| {})?;
    let time = begun.elapsed();
    if collected.paths.len() < DEAD {
        bail!("{} items were deleted", collected.paths.len());
    }
    Ok(time)
}

fn liveness(host: &Host, _: usize) -> Result<Duration> {
    let first = make_items(host, "live", 1_000_000)?;
    symlink(first.as_str(), host.path("var/guix/gcroots/bench"))?;
    let mut daemon = host.connect()?;
    let begun = Instant::now();
    let dead =
        daemon.collect_garbage(GcAction::ReturnDead, BTreeSet::new(), u64::MAX, &mut |_| {})?;
    let time = begun.elapsed();
    fs::remove_file(host.path("var/guix/gcroots/bench"))?;
    if dead.paths.len() > 100_000 {
        bail!("{} items are said to be dead", dead.paths.len());
    }
    Ok(time)
}

/// Creates empty files, and database rows that make them items. Each refers to two others, and all
/// can be reached from the first, which is returned.
fn make_items(host: &Host, name: &str, count: usize) -> Result<StorePath> {
    let mut database = rusqlite::Connection::open(host.path("var/guix/db/db.sqlite"))?;
    database.execute_batch("pragma synchronous = off")?;
    let change = database.transaction()?;
    let mut ids = Vec::with_capacity(count);
    let mut first = None;
    let hash = format!("sha256:{}", "0".repeat(64));
    let mut insert = change.prepare(
        "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1, 112)",
    )?;
    let mut refer = change.prepare("insert into Refs (referrer, reference) values (?, ?)")?;
    for number in 0..count {
        let name = format!("{name}-{number}");
        let path = host.store().text_path(&name, &Hash::sha256(&name), [])?;
        fs::write(path.as_str(), "")?;
        ids.push(insert.insert((path.as_str(), &hash))?);
        if number > 0 {
            refer.execute((ids[(number - 1) / 2], ids[number]))?;
        }
        first.get_or_insert(path);
    }
    drop((insert, refer));
    change.commit()?;
    Ok(first.expect("more than none"))
}
