//! `offload drain` and `offload return`: taking machines out, and putting them back.

use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use formats::printable::printable;
use hook::directories::HookDirectories;
use hook::drained;
use hook::health::Health;
use hook::machines::{Machine, MachineList};
use hook::name_patterns::named;
use hook::remembering::History;
use hook::selection::Selection;
use hook::slots::{self, Occupant};
use store::Directories;

use crate::output;

/// How often it is looked whether builds have ended.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// How many builds are named.
const BUILDS_SHOWN: usize = 4;

/// Drains machines, and waits for the end of their builds if `wait`.
pub fn drain(
    daemon: &Directories,
    names: &[String],
    reason: Option<&str>,
    wait: bool,
    out: &mut impl Write,
) -> Result<()> {
    let directories = directories(daemon)?;
    let list = Selection::default().load(&directories)?;
    let known: Vec<String> = list.keys().collect();
    let chosen = named(&known, names).map_err(anyhow::Error::msg)?;
    let mut machines = list.machines;
    machines.retain(|machine| chosen.contains(&machine.key()));
    for machine in &machines {
        let key = machine.key();
        let before = drained::drain(&directories, &key, reason)
            .with_context(|| format!("failed to drain '{key}'"))?;
        remember(&directories, machine);
        let builds = builds_of(&directories, std::slice::from_ref(machine))?;
        let already = if before.is_some() { " already" } else { "" };
        let rest = match builds.len() {
            0 => "it has no builds".to_owned(),
            1 => format!("1 build goes on there: {}", in_words(&builds)),
            count => format!("{count} builds go on there: {}", in_words(&builds)),
        };
        writeln!(out, "'{key}' is drained{already}; {}", printable(&rest))?;
    }
    out.flush()?;
    if wait {
        wait_for_builds(&directories, &machines)?;
    }
    Ok(())
}

/// Returns machines, which need not be listed any more.
pub fn put_back(daemon: &Directories, names: &[String], out: &mut impl Write) -> Result<()> {
    let directories = directories(daemon)?;
    let drained = drained::keys(&directories).context("looking for drained machines")?;
    let list = match Selection::default().load(&directories) {
        Ok(list) => list,
        // The last machine may be gone.
        Err(_) if !drained.is_empty() => MachineList::default(),
        Err(error) => return Err(error),
    };
    let mut known: Vec<String> = list.keys().collect();
    let gone: Vec<String> = (drained.into_iter())
        .filter(|key| !known.contains(key))
        .collect();
    known.extend(gone);
    for key in named(&known, names).map_err(anyhow::Error::msg)? {
        let was_drained = drained::put_back(&directories, &key)
            .with_context(|| format!("failed to return '{key}'"))?;
        if let (true, Some(machine)) = (was_drained, list.find(&key)) {
            remember(&directories, machine);
        }
        match was_drained {
            true => writeln!(out, "'{key}' gets builds again")?,
            false => writeln!(out, "'{key}' was not drained")?,
        }
    }
    out.flush()?;
    Ok(())
}

/// The hook's directories, with its history.
fn directories(daemon: &Directories) -> Result<HookDirectories> {
    let directories = HookDirectories::new(daemon).context("looking up our user")?;
    Ok(HookDirectories {
        history: History::open(&directories.state, None),
        ..directories
    })
}

/// Writes down how a machine is now.
fn remember(directories: &HookDirectories, machine: &Machine) {
    Health::update(directories, machine, |_| ());
}

/// A build; `None`: one of Guix's own hook, which doesn't say what it is.
type Build = Option<Occupant>;

fn builds_of(directories: &HookDirectories, machines: &[Machine]) -> Result<Vec<Build>> {
    let mut builds = Vec::new();
    for machine in machines {
        builds.extend(slots::taken(directories, machine).context("looking at build slots")?);
    }
    Ok(builds)
}

/// The names of some builds.
fn in_words(builds: &[Build]) -> String {
    let shown = builds.iter().take(BUILDS_SHOWN);
    let names: Vec<String> = shown
        .map(|build| match build {
            Some(build) => build.name().to_owned(),
            None => "some other hook's".to_owned(),
        })
        .collect();
    match builds.len().saturating_sub(BUILDS_SHOWN) {
        0 => names.join(", "),
        others => format!("{} and {others} others", names.join(", ")),
    }
}

/// Returns when the machines have no build any more.
fn wait_for_builds(directories: &HookDirectories, machines: &[Machine]) -> Result<()> {
    let mut last = None;
    loop {
        let drained = drained::keys(directories).context("looking for drained machines")?;
        if let Some(machine) = (machines.iter()).find(|machine| !drained.contains(&machine.key())) {
            bail!("'{}' has been returned meanwhile", machine.name);
        }
        let builds = builds_of(directories, machines)?;
        if builds.is_empty() {
            return Ok(());
        }
        if last.replace(builds.len()) != Some(builds.len()) {
            let count = builds.len();
            let noun = if count == 1 { "build" } else { "builds" };
            let text = format!("waiting for {count} {noun}: {}", in_words(&builds));
            output::info("offload", &text);
        }
        sleep(POLL_INTERVAL);
    }
}
