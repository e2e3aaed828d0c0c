//! A connection to the daemon of a pool's worker, through the keeper of a slot.

use std::time::{Duration, Instant};

use super::daemon_connection::DaemonConnection;
use super::error::Error;
use super::route::{PoolRoute, Route, no_job};
use super::socket_transport::SocketTransport;
use super::transport::Transport;
use crate::directories::HookDirectories;
use crate::machines::{Machine, Pool, Queue};
use crate::pool::{self, Plan, Wanted, Worker};

/// How long a job may take to start that is wanted at once.
const NOW_TIMEOUT: Duration = Duration::from_secs(60);
/// The timeout for the handshake with the worker's daemon.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Gets a job in a slot of a pool that the caller holds, and connects to its worker. Waits for it as
/// long as the entry says; `report` gets the reasons.
pub(super) fn connect(
    machine: &Machine,
    pool: &Pool,
    directories: &HookDirectories,
    slot: u32,
    wanted: &Wanted<'_>,
    report: &mut pool::Report<'_>,
) -> Result<Box<dyn Transport>, Error> {
    let limit = match (pool.queue, pool.queue_limit) {
        (Queue::Now, _) => Some(NOW_TIMEOUT),
        (Queue::Wait, 0) => None,
        (Queue::Wait, seconds) => Some(Duration::from_secs(seconds.into())),
    };
    let deadline = limit.map(|limit| Instant::now() + limit);
    let (connection, _) = open(machine, pool, directories, slot, wanted, deadline, report)?;
    Ok(Box::new(SocketTransport::new(connection)))
}

/// The same, until `deadline`; returns also what the worker has said of itself.
pub(super) fn open(
    machine: &Machine,
    pool: &Pool,
    directories: &HookDirectories,
    slot: u32,
    wanted: &Wanted<'_>,
    deadline: Option<Instant>,
    report: &mut pool::Report<'_>,
) -> Result<(DaemonConnection, Worker), Error> {
    let longest = pool::longest_job(machine, pool, directories, wanted);
    let plan = Plan::new(machine, pool, directories, slot, wanted, longest).map_err(|source| {
        let doing = format!("planning a job of '{}'", machine.name);
        Error::Local { doing, source }
    })?;
    let (stream, worker) =
        pool::connect(&plan, deadline, report).map_err(|failure| no_job(&machine.name, failure))?;
    let route = Route::Pool(Box::new(PoolRoute {
        machine: machine.clone(),
        directories: directories.clone(),
        plan,
        worker: worker.clone(),
    }));
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let connection = DaemonConnection::over_keeper(route, stream, deadline)?;
    Ok((connection, worker))
}
