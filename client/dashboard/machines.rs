//! The machines: as the machine files and the hook's own files have them, as far as this user may read those, or
//! else as the daemon tells of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use farm::status::MACHINES_SHOWN;
use hook::directories::HookDirectories;
use hook::generated;
use hook::machines::Machine;
use hook::status::known::{Known, known};
use serde_json::value::RawValue;
use store::Directories;

use super::cost::processor_time;
use super::daemon_status::Told;
use super::document::{self, Row};
use super::machine_past::ShownStates;
use crate::output;

/// How long the list of machines is kept at least, and by how much longer than it took to read it: to read it,
/// Guile may have to run.
const LISTED: Duration = Duration::from_secs(10);
const LISTED_FACTOR: u32 = 100;

/// The part of a processor's time that looking at machines may take: one of so many.
const PROCESSOR_PART: u32 = 300;
/// How long the machines are kept at most.
const KEPT: Duration = Duration::from_secs(60);

/// The machines, and until when what was seen of them is good enough.
pub struct Machines {
    hook: HookDirectories,
    listed: Option<(Instant, Result<Listed, String>)>,
    shown: Shown,
    until: Option<Instant>,
}

/// The machines of the machine files.
struct Listed {
    machines: Vec<Machine>,
    /// How many of them are not those of commands.
    in_files: usize,
    /// What is wrong with entries, whose machines are missing.
    problem: Option<String>,
}

/// The machines as they are shown.
#[derive(Default)]
pub struct Shown {
    /// As JSON.
    pub rows: Option<Box<RawValue>>,
    /// How many more there are.
    pub unlisted: u64,
    /// Why some are missing, or all.
    pub error: Option<String>,
    /// What is known of them here; nothing if it can't be read.
    pub known: Arc<Vec<Known>>,
}

impl Machines {
    /// Those of a daemon with these directories.
    pub fn new(directories: &Directories) -> Result<Machines> {
        Ok(Machines {
            hook: HookDirectories::new(directories).context("looking up our user")?,
            listed: None,
            shown: Shown::default(),
            until: None,
        })
    }

    /// What was seen of them when they were looked at last.
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Whether it is time to look at them again: the less often, the more work it is.
    pub fn are_due(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }

    /// Looks at them. `before` is the processor time that this thread had used before anything was done for it.
    /// Returns how much it has used since.
    pub fn look(
        &mut self,
        told: Option<&Told>,
        states: &ShownStates,
        before: Duration,
    ) -> Duration {
        self.list();
        self.shown = match (self.known(), told) {
            (Ok((listed, known)), _) => Shown::known(listed, known, states),
            (Err(_), Some(told)) => Shown::told(told, states),
            (Err(error), None) => Shown {
                error: Some(document::text(&error)),
                ..Shown::default()
            },
        };
        let took = processor_time().saturating_sub(before);
        let kept = took.saturating_mul(PROCESSOR_PART).min(KEPT);
        self.until = Some(Instant::now() + kept);
        took
    }

    /// Reads the machine files, unless that was done a short time ago.
    fn list(&mut self) {
        let now = Instant::now();
        if self.listed.as_ref().is_some_and(|(until, _)| now < *until) {
            return;
        }
        let listed = match generated::load_known(&self.hook) {
            Ok((list, in_files)) => Ok(Listed {
                problem: list.problem(),
                machines: list.machines,
                in_files,
            }),
            Err(error) => Err(error.to_string()),
        };
        let kept = LISTED.max(now.elapsed().saturating_mul(LISTED_FACTOR));
        self.listed = Some((Instant::now() + kept, listed));
    }

    /// What is known of those that are shown.
    fn known(&self) -> Result<(&Listed, Vec<Known>), String> {
        let listed = match &self.listed {
            Some((_, Ok(listed))) => listed,
            Some((_, Err(error))) => return Err(error.clone()),
            None => return Err("the machines are unknown".to_owned()),
        };
        let count = listed.machines.len().min(MACHINES_SHOWN);
        match known(&listed.machines[..count], &self.hook) {
            Ok(known) => Ok((listed, known)),
            Err(error) => Err(output::text(&error)),
        }
    }
}

impl Shown {
    fn known(listed: &Listed, known: Vec<Known>, states: &ShownStates) -> Shown {
        let rows = listed.machines.iter().zip(&known).enumerate();
        let rows = rows.map(|(index, (machine, known))| {
            let is_generated = index >= listed.in_files;
            Row::known(machine, known, is_generated, states.of(&machine.key()))
        });
        Shown {
            rows: document::raw(&rows.collect::<Vec<_>>()),
            unlisted: listed.machines.len().saturating_sub(MACHINES_SHOWN) as u64,
            error: listed.problem.as_deref().map(document::text),
            known: Arc::new(known),
        }
    }

    fn told(told: &Told, states: &ShownStates) -> Shown {
        let rows = told.machines.iter().map(|one| {
            let key = format!("{}:{}", one.name, one.port);
            Row::told(one, states.of(&key))
        });
        Shown {
            rows: document::raw(&rows.collect::<Vec<_>>()),
            unlisted: told.unlisted_machines,
            error: told.machines_error.as_deref().map(document::text),
            known: Arc::default(),
        }
    }
}
