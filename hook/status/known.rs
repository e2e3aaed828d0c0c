//! What this host knows of its machines without asking them: for whoever looks often.

use std::io;

use anyhow::{Context, Result};

use super::machine_status::MachineStatus;
use super::prometheus;
pub use super::prometheus::label;
use crate::directories::HookDirectories;
use crate::drained::{self, Drained};
use crate::health::Health;
use crate::machines::Machine;
use crate::slots;
use crate::standing::Standing;

/// For how many seconds what a machine has said of itself is told to Prometheus, which takes all it is told
/// for new.
const TOLD: u64 = 300;

/// What is known of a machine.
#[derive(Debug, Clone)]
pub struct Known {
    /// What it builds, and why it gets nothing.
    pub standing: Standing,
    /// Whether and why it is drained.
    pub drained: Option<Drained>,
    /// What hooks have learnt about it.
    pub health: Health,
    status: MachineStatus,
}

/// Looks at what is known of machines. One whose files can't be read is failing, and says why; if none's can, that is
/// an error.
pub fn known(machines: &[Machine], directories: &HookDirectories) -> Result<Vec<Known>> {
    let all = drained::keys(directories).context("looking for drained machines")?;
    let look = |machine: &Machine| -> io::Result<Known> {
        let key = machine.key();
        let drained = match all.contains(&key) {
            true => Drained::load(directories, &key)?,
            false => None,
        };
        let health = Health::load(directories, machine);
        let building = slots::taken(directories, machine)?;
        let standing = Standing::judge(machine, &health, building, drained.as_ref());
        let status = MachineStatus::remembered(machine, directories, &health, &standing, &drained);
        Ok(Known {
            standing,
            drained,
            health,
            status,
        })
    };
    let mut last_error = None;
    let mut failed = 0;
    let looked = machines.iter().map(|machine| {
        look(machine).unwrap_or_else(|error| {
            failed += 1;
            let known = unreadable(machine, directories, &error);
            last_error = Some((machine, error));
            known
        })
    });
    let looked: Vec<Known> = looked.collect();
    match last_error {
        Some((machine, error)) if failed == looked.len() => {
            Err(error).with_context(|| format!("looking at '{}'", machine.name))
        }
        _ => Ok(looked),
    }
}

/// A machine whose files can't be read.
fn unreadable(machine: &Machine, directories: &HookDirectories, error: &io::Error) -> Known {
    let health = Health::default();
    let standing = Standing::unreadable(error);
    let status = MachineStatus::remembered(machine, directories, &health, &standing, &None);
    Known {
        standing,
        drained: None,
        health,
        status,
    }
}

/// What is known in Prometheus's text format. What machines have said of themselves is left out if that is long ago.
pub fn metrics(known: &[Known], now: u64) -> String {
    let statuses = known.iter().map(|one| {
        let mut status = one.status.clone();
        if now.abs_diff(one.health.asked) > TOLD {
            status.normalized_load = None;
            status.free_bytes = None;
            status.round_trip_ms = None;
        }
        status
    });
    prometheus::prometheus(&statuses.collect::<Vec<_>>())
}
