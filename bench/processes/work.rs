//! Requests to one daemon: connecting, queries, adding, building.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use formats::derivation::Recipe;
use formats::hash::Algorithm;
use formats::nar::Sink;
use formats::store_path::StorePath;
use protocol::client::Connection;
use protocol::operations::{BuildMode, SetOptions, Target};

use crate::Task;
use crate::host::Host;

/// The tasks.
pub const TASKS: &[Task<Host>] = &[
    Task::new("connect, shake hands", connect),
    Task::new("QueryPathInfo", query_path_info),
    Task::new(
        "QueryPathInfo, of eight connections",
        query_path_info_by_eight,
    ),
    Task::new("IsValidPath", is_valid_path),
    Task::new("IsValidPath, of eight connections", is_valid_path_by_eight),
    Task::new("AddTextToStore", add_text),
    Task::new("add a file of 256 MiB", add_large_file),
    Task::new("add a tree of 4000 files", add_tree),
    Task::new("40 trivial builds, in sandboxes", builds),
];

/// The time of one call of `work`, measured over `count` calls.
pub fn each(count: u32, mut work: impl FnMut(u32) -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    for number in 0..count {
        work(number)?;
    }
    Ok(begun.elapsed() / count)
}

fn connect(host: &Host, _: usize) -> Result<Duration> {
    each(50, |_| host.connect().map(drop))
}

fn query_path_info(host: &Host, _: usize) -> Result<Duration> {
    let mut daemon = host.connect()?;
    let path = daemon.add_text_to_store("text", "text", BTreeSet::new())?;
    each(2000, |_| {
        daemon.query_path_info(&path)?;
        Ok(())
    })
}

fn query_path_info_by_eight(host: &Host, _: usize) -> Result<Duration> {
    by_eight(host, |daemon, path| daemon.query_path_info(path).map(drop))
}

fn is_valid_path(host: &Host, _: usize) -> Result<Duration> {
    let mut daemon = host.connect()?;
    let path = daemon.add_text_to_store("text", "text", BTreeSet::new())?;
    each(2000, |_| {
        daemon.is_valid_path(&path)?;
        Ok(())
    })
}

fn is_valid_path_by_eight(host: &Host, _: usize) -> Result<Duration> {
    by_eight(host, |daemon, path| daemon.is_valid_path(path).map(drop))
}

/// The time of one query, of many that eight clients make at the same time.
fn by_eight(
    host: &Host,
    ask: fn(&mut Connection, &StorePath) -> Result<(), protocol::client::Error>,
) -> Result<Duration> {
    const CLIENTS: usize = 8;
    const QUESTIONS: u32 = 2000;
    let mut clients = (0..CLIENTS)
        .map(|_| host.connect())
        .collect::<Result<Vec<_>>>()?;
    let path = clients[0].add_text_to_store("text", "text", BTreeSet::new())?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let asking: Vec<_> = clients
            .iter_mut()
            .map(|client| scope.spawn(|| (0..QUESTIONS).try_for_each(|_| ask(client, &path))))
            .collect();
        asking
            .into_iter()
            .try_for_each(|asking| asking.join().expect("a client panicked"))
    })?;
    Ok(begun.elapsed() / (CLIENTS as u32 * QUESTIONS))
}

fn add_text(host: &Host, round: usize) -> Result<Duration> {
    let mut daemon = host.connect()?;
    each(100, |number| {
        let text = format!("text {number} of round {round}");
        daemon.add_text_to_store("text", text, BTreeSet::new())?;
        Ok(())
    })
}

/// An endless stream of pseudo-random bytes, different for each seed.
pub struct Noise(pub u64);

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
        Ok(buffer.len())
    }
}

fn add_large_file(host: &Host, round: usize) -> Result<Duration> {
    let mut daemon = host.connect()?;
    each(1, |_| {
        daemon.add_to_store("large", true, Algorithm::Sha256, |writer| {
            writer.regular(false, 256 << 20, &mut Noise(round as u64))
        })?;
        Ok(())
    })
}

fn add_tree(host: &Host, round: usize) -> Result<Duration> {
    let mut daemon = host.connect()?;
    each(1, |_| {
        daemon.add_to_store("tree", true, Algorithm::Sha256, |writer| {
            writer.begin_directory()?;
            for number in 0..4000 {
                writer.entry(format!("file-{number:04}").as_str().into())?;
                writer.regular(false, 900, &mut Noise(((round as u64) << 32) + number))?;
            }
            writer.end_directory()
        })?;
        Ok(())
    })
}

fn builds(host: &Host, round: usize) -> Result<Duration> {
    local_builds(host, 40, &round.to_string())
}

/// The time of so many trivial builds, two at a time; the names must not have been used before.
pub fn local_builds(host: &Host, count: usize, name: &str) -> Result<Duration> {
    let mut daemon = host.connect()?;
    daemon.set_options(&SetOptions {
        max_build_jobs: Some(2),
        use_build_hook: Some(false),
        ..SetOptions::default()
    })?;
    let mut targets = Vec::new();
    for number in 0..count {
        let name = format!("trivial-{name}-{number}");
        let (drv, _) = derivation(host, &mut daemon, &name, &[])?;
        targets.push(Target::from(drv));
    }
    build(&mut daemon, targets)
}

/// The time of building some derivations; a failure comes with the log.
pub fn build(daemon: &mut Connection, targets: Vec<Target>) -> Result<Duration> {
    let mut log = Vec::new();
    let begun = Instant::now();
    daemon
        .build_paths(targets, BuildMode::Normal, &mut |text| {
            log.extend_from_slice(text)
        })
        .with_context(|| String::from_utf8_lossy(&log).into_owned())?;
    Ok(begun.elapsed())
}

/// A derivation whose builder, a static busybox, writes a word. Returns it and its output.
pub fn derivation(
    host: &Host,
    daemon: &mut Connection,
    name: &str,
    sources: &[StorePath],
) -> Result<(StorePath, StorePath)> {
    let program = std::fs::read("/bin/busybox")
        .or_else(|_| std::fs::read("/usr/bin/busybox"))
        .context("cannot read busybox; install busybox-static")?;
    let busybox = daemon.add_to_store("busybox", true, Algorithm::Sha256, |writer| {
        writer.begin_directory()?;
        writer.entry("busybox".into())?;
        writer.regular(true, program.len() as u64, &mut program.as_slice())?;
        writer.end_directory()
    })?;
    let recipe = Recipe {
        outputs: BTreeMap::from([("out".to_owned(), None)]),
        sources: sources.iter().cloned().chain([busybox.clone()]).collect(),
        system: env!("GUIX_SYSTEM").into(),
        builder: format!("{busybox}/busybox").into(),
        arguments: ["sh", "-c", "echo word > $out"].map(Into::into).into(),
        ..Recipe::default()
    };
    let (derivation, path) =
        recipe.instantiate(name, host.store(), |_| unreachable!("it has no inputs"))?;
    let text = derivation.to_bytes();
    daemon.add_text_to_store(&format!("{name}.drv"), text, derivation.references())?;
    let output = derivation.outputs["out"].path.clone();
    Ok((path, output))
}
