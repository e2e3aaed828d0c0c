//! `offload test` of a pool: a job, the worker in it, and signatures both ways.

use std::time::{Duration, Instant};

use protocol::client::{self, Connection};

use super::check::{Check, Checker, START_DAEMON, Verdict};
use super::error::Error;
use super::pool_connection;
use super::probe::REQUIRED_FREE_BYTES;
use super::socket_transport::SocketTransport;
use crate::directories::HookDirectories;
use crate::machines::{Machine, Pool};
use crate::pool::{Wanted, waiting};
use crate::stderr_line;

/// How long a job of a pool may take to start.
const JOB_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs all checks of a pool: gets a job in a slot that the caller holds, and tries the worker in it.
pub fn check_pool(
    machine: &Machine,
    pool: &Pool,
    directories: &HookDirectories,
    slot: u32,
    local: Result<Connection, client::Error>,
) -> Vec<Check> {
    let mut checker = Checker::new(machine);
    let _ = checker.run_pool(pool, directories, slot, local);
    checker.checks
}

impl Checker<'_> {
    fn run_pool(
        &mut self,
        pool: &Pool,
        directories: &HookDirectories,
        slot: u32,
        local: Result<Connection, client::Error>,
    ) -> Option<()> {
        let wanted = Wanted {
            name: "offload-test",
            features: &[],
            seconds: 0,
        };
        let began = Instant::now();
        let deadline = Some(began + JOB_TIMEOUT);
        let machine = self.machine;
        let opened = pool_connection::open(
            machine,
            pool,
            directories,
            slot,
            &wanted,
            deadline,
            &mut |reason, waited| {
                stderr_line!("{}", waiting(&machine.name, reason, waited));
            },
        );
        let (connection, worker) = match opened {
            Ok(opened) => opened,
            Err(error @ Error::Busy { .. }) => {
                self.checks.push(Check {
                    what: "job",
                    verdict: Verdict::Note,
                    found: error.to_string(),
                    remedy: None,
                });
                return None;
            }
            Err(error) => {
                let remedy = match error {
                    Error::NoJob { .. } | Error::Rejected { .. } => Some(self.edit()),
                    // Of the node or of this host: the message names it.
                    _ => None,
                };
                return self.failed("job", error, remedy);
            }
        };
        let waited = began.elapsed().as_secs();
        let job = worker.job.as_deref().unwrap_or("without a number");
        let found = format!("{job} on {}, after {waited} s", worker.host);
        self.passed("job", found);
        self.passed(
            "namespaces",
            "the worker has a store and a daemon of its own",
        );
        if machine.systems.contains(&worker.system) {
            self.passed("system", worker.system);
        } else {
            let found = format!("{}, which is none of its `systems'", worker.system);
            return self.failed("system", found, None);
        }
        // Slurm does not tell a worker what its job may have.
        let limit = pool.memory.map_or(u64::MAX, u64::from);
        let memory = limit.min(worker.memory >> 20);
        self.passed(
            "size",
            format!("{} cores, {memory} MiB of memory", worker.cores),
        );
        if let Some(free) = worker.free {
            let found = format!("{} MiB free", free >> 20);
            match free < REQUIRED_FREE_BYTES {
                true => self.failed("disk", found, None)?,
                false => self.passed("disk", found),
            }
        }
        let mut transport = SocketTransport::new(connection);
        match local {
            Ok(mut local) => self.signing(&mut local, &mut transport, &directories.store)?,
            Err(error) => return self.failed("signing", error, Some(START_DAEMON.to_owned())),
        }
        Some(())
    }
}
