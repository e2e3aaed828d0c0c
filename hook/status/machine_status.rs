//! The status of one machine, and determining it.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use system::clock::unix_time;

use crate::directories::HookDirectories;
use crate::drained::{self, Drained};
use crate::health::Health;
use crate::machines::Machine;
use crate::pool::{self, Record, State};
use crate::remote::{self, PROBE_TIMEOUT, REQUIRED_FREE_BYTES, Vitals, on_one_line};
use crate::slots::{self, Occupant};
use crate::standing::Standing;
use crate::suitability::{self, Unsuitable};
use crate::{host_locks, parallel};

/// The status of one machine. The fields are those of the JSON output.
#[derive(Debug, Clone, Serialize)]
pub struct MachineStatus {
    pub name: String,
    pub port: u16,
    pub systems: Vec<String>,
    pub features: Vec<String>,
    pub slots: u32,
    pub slots_used: usize,
    /// Whether it could do a build, if it isn't too busy.
    pub up: bool,
    /// Whether the machine and its daemon answer.
    pub reachable: bool,
    /// Why they do not.
    pub error: Option<String>,
    /// Why it gets no builds now although they answer, and although it is not set aside.
    pub unsuitable: Option<String>,
    pub kernel: Option<String>,
    pub architecture: Option<String>,
    pub host_name: Option<String>,
    pub normalized_load: Option<f64>,
    pub overload_threshold: Option<f64>,
    pub free_bytes: Option<u64>,
    pub round_trip_ms: Option<f64>,
    pub clock_offset_s: Option<f64>,
    /// Builds that were done there, including failed ones.
    pub builds: u64,
    /// Those that have failed for their own reasons.
    pub failed_builds: u64,
    /// Failures of the machine.
    pub failures: u64,
    pub last_error: Option<String>,
    /// For how many more seconds it gets no builds.
    pub set_aside_s: u64,
    pub building: Vec<Option<Occupant>>,
    /// Since when and why it is drained, if it is.
    pub drained: Option<Drained>,
    /// The jobs, if it is a pool.
    pub jobs: Option<Jobs>,
}

/// The jobs of a pool.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Jobs {
    /// How many run.
    pub running: usize,
    /// How many wait, or have workers that get ready.
    pub pending: usize,
    /// How long the one has waited that waits longest.
    pub waited_s: u64,
    /// Why, in the scheduler's words.
    pub reason: Option<String>,
    /// The nodes of those that run.
    pub nodes: Vec<String>,
}

impl Jobs {
    fn new(records: &[(u32, Record)]) -> Jobs {
        let mut jobs = Jobs::default();
        for (_, record) in records {
            match &record.state {
                State::Running { host, .. } => {
                    jobs.running += 1;
                    jobs.nodes.push(host.clone());
                }
                State::Pending { reason } => {
                    jobs.pending += 1;
                    let waited = unix_time().saturating_sub(record.since);
                    if jobs.reason.is_none() || waited > jobs.waited_s {
                        jobs.waited_s = waited;
                        jobs.reason = Some(reason.clone());
                    }
                }
                State::Ending { .. } | State::Ended { .. } => {}
            }
        }
        jobs
    }
}

/// What a machine answers about itself, and whether its daemon answers as it must before a hook
/// accepts a build.
struct Answer {
    vitals: Result<Vitals, remote::Error>,
    daemon: Result<(), remote::Error>,
}

/// Asks all machines and their daemons in parallel.
pub fn gather(machines: &[Machine], directories: &HookDirectories) -> Result<Vec<MachineStatus>> {
    let answers = parallel::map(machines, |machine| {
        if machine.pool.is_some() {
            return None; // its keepers have written down what there is to know
        }
        let deadline = Instant::now() + PROBE_TIMEOUT;
        let vitals = remote::probe(machine, directories, deadline);
        let daemon = match &vitals {
            Ok(_) => remote::connect(machine, directories, deadline)
                .and_then(|transport| transport.finish()),
            Err(_) => Ok(()), // not asked
        };
        Some(Answer { vitals, daemon })
    });
    let drained = drained::keys(directories).context("looking for drained machines")?;
    machines
        .iter()
        .zip(answers)
        .map(|(machine, answer)| {
            let mut status = match answer {
                Some(answer) => MachineStatus::new(machine, directories, answer)?,
                None => MachineStatus::of_pool(machine, directories)?,
            };
            status.add_drained(&machine.key(), directories, &drained)?;
            Ok(status)
        })
        .collect()
}

/// What this host knows about all machines, without asking them: `answer` is what each of them has answered
/// when it was asked last, if it was.
pub fn look<'a>(
    machines: &[Machine],
    directories: &HookDirectories,
    answer: impl Fn(&str) -> Option<&'a MachineStatus>,
) -> Result<Vec<MachineStatus>> {
    let drained = drained::keys(directories).context("looking for drained machines")?;
    let look = |machine: &Machine| {
        let key = machine.key();
        let mut status = match (&machine.pool, answer(&key)) {
            (Some(_), _) => MachineStatus::of_pool(machine, directories)?,
            (None, answer) => {
                let building =
                    slots::taken(directories, machine).context("looking at build slots")?;
                let health = Health::load(directories, machine);
                MachineStatus::unasked(machine, health, building).with_answer(answer)
            }
        };
        status.add_drained(&key, directories, &drained)?;
        Ok(status)
    };
    machines.iter().map(look).collect()
}

impl MachineStatus {
    /// Adds what a machine has answered earlier.
    fn with_answer(self, answer: Option<&MachineStatus>) -> MachineStatus {
        let Some(answer) = answer else {
            return self;
        };
        MachineStatus {
            up: self.up && answer.up,
            reachable: answer.reachable,
            error: answer.error.clone(),
            unsuitable: answer.unsuitable.clone(),
            normalized_load: answer.normalized_load,
            free_bytes: answer.free_bytes,
            round_trip_ms: answer.round_trip_ms,
            ..self
        }
    }

    /// Adds whether it is drained.
    fn add_drained(
        &mut self,
        key: &str,
        directories: &HookDirectories,
        drained: &BTreeSet<String>,
    ) -> Result<()> {
        if drained.contains(key) {
            self.drained = Drained::load(directories, key)?;
            self.up &= self.drained.is_none();
        }
        Ok(())
    }

    /// What this host knows about a machine that it has not asked.
    pub(super) fn unasked(
        machine: &Machine,
        health: Health,
        building: Vec<Option<Occupant>>,
    ) -> MachineStatus {
        let set_aside_s = health.set_aside_s();
        MachineStatus {
            name: machine.name.clone(),
            port: machine.port,
            systems: machine.systems.clone(),
            features: machine.features.clone(),
            slots: machine.parallel_builds,
            slots_used: building.len(),
            up: set_aside_s == 0,
            reachable: set_aside_s == 0,
            error: None,
            unsuitable: None,
            kernel: None,
            architecture: None,
            host_name: None,
            normalized_load: None,
            overload_threshold: None,
            free_bytes: None,
            round_trip_ms: None,
            clock_offset_s: None,
            builds: health.builds,
            failed_builds: health.failed_builds,
            failures: health.all_failures,
            last_error: health.last_error,
            set_aside_s,
            building,
            drained: None,
            jobs: None,
        }
    }

    /// What hooks have learnt of a machine, whenever that was. Nobody is asked.
    pub(super) fn remembered(
        machine: &Machine,
        directories: &HookDirectories,
        health: &Health,
        standing: &Standing,
        drained: &Option<Drained>,
    ) -> MachineStatus {
        let is_known = health.cores > 0;
        let is_full = is_known && health.free_bytes < REQUIRED_FREE_BYTES;
        let set_aside_s = health.set_aside_s();
        let jobs = machine.pool.as_ref().map(|_| {
            let directory = directories.of_machine(machine);
            Jobs::new(&pool::records(&directory, machine.parallel_builds))
        });
        MachineStatus {
            up: set_aside_s == 0 && drained.is_none() && !is_full,
            normalized_load: is_known.then(|| health.normalized_load()),
            free_bytes: is_known.then_some(health.free_bytes),
            round_trip_ms: is_known.then_some(health.round_trip),
            drained: drained.clone(),
            jobs,
            ..MachineStatus::unasked(machine, health.clone(), standing.building.clone())
        }
    }

    /// What is known about a pool. Nobody is asked: that would take a job.
    fn of_pool(machine: &Machine, directories: &HookDirectories) -> Result<MachineStatus> {
        let building = slots::taken(directories, machine).context("looking at build slots")?;
        let health = Health::load(directories, machine);
        let records = pool::records(&directories.of_machine(machine), machine.parallel_builds);
        let is_busy = health.busy_s() > 0;
        Ok(MachineStatus {
            unsuitable: health.busy_reason.clone().filter(|_| is_busy),
            jobs: Some(Jobs::new(&records)),
            ..MachineStatus::unasked(machine, health, building)
        })
    }

    /// Combines a machine's reply with what the hooks of this host know.
    fn new(
        machine: &Machine,
        directories: &HookDirectories,
        answer: Answer,
    ) -> Result<MachineStatus> {
        let building = slots::taken(directories, machine).context("looking at build slots")?;
        let health = match &answer.vitals {
            Ok(vitals) => Health::update(directories, machine, |health| health.answered(vitals)),
            Err(_) => Health::load(directories, machine),
        };
        let (vitals, error) = match answer.vitals {
            Ok(vitals) => (Some(vitals), answer.daemon.err()),
            Err(error) => (None, Some(error)),
        };
        let error = error.map(|error| {
            let busy = host_locks::busy_with_transfer(directories, machine, &error);
            busy.unwrap_or_else(|| on_one_line(&error.to_string()))
        });
        let unsuitable = match error {
            None => suitability::unsuitable(machine, &health),
            Some(_) => None,
        };
        let is_full = matches!(unsuitable, Some(Unsuitable::LowDiskSpace { .. }));
        let set_aside_s = health.set_aside_s();
        let known = |get: fn(&Vitals) -> String| vitals.as_ref().map(get);
        Ok(MachineStatus {
            up: error.is_none() && !is_full && set_aside_s == 0,
            reachable: error.is_none(),
            error,
            unsuitable: unsuitable.map(|reason| reason.to_string()),
            kernel: known(|vitals| vitals.kernel.clone()),
            architecture: known(|vitals| vitals.architecture.clone()),
            host_name: known(|vitals| vitals.host_name.clone()),
            normalized_load: vitals.as_ref().map(|_| health.normalized_load()),
            overload_threshold: machine.overload_threshold,
            free_bytes: vitals.as_ref().map(|vitals| vitals.free_bytes),
            round_trip_ms: vitals.as_ref().map(|_| health.round_trip),
            clock_offset_s: vitals.as_ref().map(|vitals| vitals.clock_offset),
            ..MachineStatus::unasked(machine, health, building)
        })
    }
}
