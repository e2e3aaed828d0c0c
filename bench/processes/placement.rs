//! Many derivations on a farm with one slow line: how long they take, and how much is sent for them.
//!
//! To compare with another version of ours: `GUIX_REFERENCE_DAEMON=DIRECTORY/guix-daemon
//! GUIX_REFERENCE_GUIX=DIRECTORY/guix-offload`, both from its `target/release`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use formats::derivation::{Derivation, ModuloHashes, Recipe};
use formats::hash::Algorithm;
use formats::nar::Sink;
use formats::store_path::StorePath;
use protocol::client::Connection;
use protocol::operations::Target;

use crate::Task;
use crate::farm::{Entry, Farm};
use crate::offload::client;
use crate::proxy::{Limit, Line};
use crate::work::{Noise, build};

/// The number of machines in the farm.
pub const MACHINES: usize = 4;

/// The tasks.
pub const TASKS: &[Task<Farm>] = &[
    Task::new("200 derivations, four machines, one slow line", time)
        .rounds(3)
        .long(),
    Task::weighing(
        "200 derivations, four machines, one slow line: bytes sent",
        sent,
    )
    .rounds(3)
    .long(),
];

/// How much passes the head's line in a second, in either direction: 40 Mbit.
const HEAD: u64 = 5_000_000;
/// The same for the slow machine: 4 Mbit.
const SLOW: u64 = 500_000;
/// Independent chains of derivations, each of which needs the output of the one before.
const CHAINS: u64 = 5;
/// The length of a chain.
const STEPS: u64 = 40;
/// The size of what all derivations need, in bytes.
const COMMON: u64 = 8 << 20;
/// The size of each output, in bytes.
const OUTPUT: u64 = 1 << 20;

/// The entries of machines behind a head's line, in bytes per second: for each machine its own line, if that is
/// slower, its slots and its speed.
pub fn behind_one_line(
    head: u64,
    machines: impl IntoIterator<Item = (Option<u64>, usize, u32)>,
) -> Vec<Entry> {
    let (there, back) = (Limit::new(head), Limit::new(head));
    let entry = |(own, slots, speed): (Option<u64>, usize, u32)| {
        let with = |all: &Arc<Limit>| {
            own.map(Limit::new)
                .into_iter()
                .chain([all.clone()])
                .collect()
        };
        Entry {
            line: Some(Line {
                there: with(&there),
                back: with(&back),
                ..Line::default()
            }),
            slots,
            speed,
        }
    };
    machines.into_iter().map(entry).collect()
}

fn time(farm: &Farm, round: usize) -> Result<Duration> {
    let (time, bytes) = run(farm, &format!("time-{round}"))?;
    farm.sent.borrow_mut().insert(round, bytes);
    Ok(time)
}

/// The bytes of the same round, if it was measured before.
fn sent(farm: &Farm, round: usize) -> Result<u64> {
    match farm.sent.borrow_mut().remove(&round) {
        Some(bytes) => Ok(bytes),
        None => run(farm, &format!("sent-{round}")).map(|(_, bytes)| bytes),
    }
}

/// Builds everything on a farm that knows nothing yet; returns the time and how many bytes have left the head.
fn run(farm: &Farm, name: &str) -> Result<(Duration, u64)> {
    farm.forget()?;
    let own = |machine: usize| (machine == 0).then_some(SLOW);
    let entries = behind_one_line(HEAD, (0..MACHINES).map(|machine| (own(machine), 2, 1)));
    let counters = farm.configure_each(&entries)?;
    let mut daemon = client(farm)?;
    let targets = write(farm, &mut daemon, name)?;
    let took = build(&mut daemon, targets)?;
    let sent = counters.iter().map(|bytes| bytes.load(Ordering::Relaxed));
    let sent = sent.sum();
    eprintln!(
        "{name}: {:.1} s, {} MiB sent",
        took.as_secs_f64(),
        sent >> 20
    );
    farm.configure(None)?;
    Ok((took, sent))
}

/// Writes the derivations; returns the last one of each chain.
fn write(farm: &Farm, daemon: &mut Connection, name: &str) -> Result<Vec<Target>> {
    let item = add_busybox(daemon, "busybox")?;
    // It knows by its name what it is.
    let busybox = format!("{item}/busybox");
    // The rounds must not have each other's.
    let seed = name
        .bytes()
        .fold(1_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    let common = daemon.add_to_store("common", true, Algorithm::Sha256, |writer| {
        writer.regular(false, COMMON, &mut Noise(seed << 32))
    })?;
    let mut hashes = ModuloHashes::new();
    let mut targets = Vec::new();
    for chain in 0..CHAINS {
        let mut last: Option<StorePath> = None;
        for step in 0..STEPS {
            let script =
                format!("{busybox} sleep 0.3; {busybox} head -c {OUTPUT} /dev/urandom >$out");
            let inputs = last
                .iter()
                .map(|drv| (drv.clone(), BTreeSet::from(["out".to_owned()])));
            let recipe = Recipe {
                outputs: BTreeMap::from([("out".to_owned(), None)]),
                inputs: inputs.collect(),
                sources: BTreeSet::from([item.clone(), common.clone()]),
                system: env!("GUIX_SYSTEM").into(),
                builder: busybox.as_str().into(),
                arguments: ["sh", "-e", "-c", &script].map(Into::into).into(),
                ..Recipe::default()
            };
            let drv = format!("{name}-{chain}-{step}");
            last = Some(add(farm, daemon, &mut hashes, &drv, recipe)?);
        }
        targets.extend(last.map(Target::from));
    }
    Ok(targets)
}

/// Adds an item with a static busybox.
pub fn add_busybox(daemon: &mut Connection, name: &str) -> Result<StorePath> {
    let program =
        fs::read("/bin/busybox").context("cannot read busybox; install busybox-static")?;
    let item = daemon.add_to_store(name, true, Algorithm::Sha256, |writer| {
        writer.begin_directory()?;
        writer.entry("busybox".into())?;
        writer.regular(true, program.len() as u64, &mut program.as_slice())?;
        writer.end_directory()
    })?;
    Ok(item)
}

/// Adds a derivation to the store; those that it needs were added before.
pub fn add(
    farm: &Farm,
    daemon: &mut Connection,
    hashes: &mut ModuloHashes,
    name: &str,
    recipe: Recipe,
) -> Result<StorePath> {
    let unknown = |path: &StorePath| -> Result<Derivation, std::io::Error> {
        Err(std::io::Error::other(format!("{path} was not added")))
    };
    let store = farm.head.store();
    let (derivation, path) = recipe.instantiate(name, store, |input| hashes.get(input, unknown))?;
    let hash = derivation.hash_modulo(|input| hashes.get(input, unknown))?;
    hashes.insert(path.clone(), hash);
    let file = format!("{name}.drv");
    let text = derivation.to_bytes();
    let written = daemon.add_text_to_store(&file, text, derivation.references())?;
    if written != path {
        bail!("{written} instead of {path}");
    }
    Ok(path)
}
