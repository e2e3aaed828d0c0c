//! How the daemon of a machine is reached: by SSH, or through the keeper of a pool's slot.

use std::fs;
use std::path::PathBuf;

use super::destination::Destination;
use super::error::Error;
use super::probe;
use crate::directories::HookDirectories;
use crate::machines::Machine;
use crate::pool::{self, Failure, FailureKind, Plan, Worker};

/// How the daemon of a machine is reached.
#[derive(Debug, Clone)]
pub(super) enum Route {
    /// Over the shared connection to its sshd.
    Ssh(Box<Destination>),
    /// Through a keeper.
    Pool(Box<PoolRoute>),
}

/// A worker of a pool.
#[derive(Debug, Clone)]
pub(super) struct PoolRoute {
    pub machine: Machine,
    pub directories: HookDirectories,
    /// Its job.
    pub plan: Plan,
    /// What it has said of itself.
    pub worker: Worker,
}

impl Route {
    pub fn machine(&self) -> &Machine {
        match self {
            Route::Ssh(destination) => &destination.machine,
            Route::Pool(route) => &route.machine,
        }
    }

    /// The machine's name in messages.
    pub fn name(&self) -> &str {
        &self.machine().name
    }

    pub fn directories(&self) -> &HookDirectories {
        match self {
            Route::Ssh(destination) => &destination.directories,
            Route::Pool(route) => &route.directories,
        }
    }

    /// The machine, if commands can be run there, and its entry wants items to be compressed by them.
    /// (Keepers and workers compress by themselves.)
    pub fn compressing(&self) -> Option<&Destination> {
        match self {
            Route::Ssh(destination) => {
                let level = destination.machine.transfer_compression;
                level.map(|_| &**destination)
            }
            Route::Pool(_) => None,
        }
    }

    /// The file that says that the machine has been found to have another store than ours; a worker is
    /// asked each time.
    pub fn distinct_mark(&self) -> Option<PathBuf> {
        match self {
            Route::Ssh(destination) => Some(destination.file("distinct")),
            Route::Pool(_) => None,
        }
    }

    /// Records that it has another store. Without the mark, it is just asked again.
    pub fn mark_distinct(&self) {
        if let Some(mark) = self.distinct_mark() {
            let _ = fs::write(mark, "");
        }
    }

    /// Whether its store is known to be full.
    pub fn is_full(&self) -> bool {
        match self {
            Route::Ssh(destination) => probe::is_full(destination),
            Route::Pool(route) => {
                let free = pool::vitals(&route.plan).and_then(|worker| worker.free);
                free.is_some_and(probe::is_little)
            }
        }
    }

    /// The key by which its daemon signs, if that was made for this connection.
    pub fn key(&self) -> Option<&str> {
        match self {
            Route::Ssh(_) => None,
            Route::Pool(route) => route.worker.key.as_deref(),
        }
    }

    /// The worker's job and node.
    pub fn place(&self) -> Option<String> {
        match self {
            Route::Ssh(_) => None,
            Route::Pool(route) => {
                let Worker { host, job, .. } = &route.worker;
                Some(match job {
                    Some(job) => format!("job {job} on {host}"),
                    None => format!("on {host}"),
                })
            }
        }
    }

    /// A lost connection, with what the keeper knows about the reason.
    pub fn explain(&self, error: Error) -> Error {
        match (self, error) {
            (Route::Pool(route), error @ Error::Lost { .. }) => {
                match pool::last_failure(&route.plan) {
                    Some(failure) => of_lost_worker(&route.worker, self.name(), error, failure),
                    None => error,
                }
            }
            (_, error) => error,
        }
    }
}

/// The error of a job that could not be had.
pub(super) fn no_job(machine: &str, failure: Failure) -> Error {
    let machine = machine.to_owned();
    let Failure { kind, text } = failure;
    match kind {
        FailureKind::Busy => Error::Busy {
            machine,
            message: text,
        },
        FailureKind::Local => Error::Local {
            doing: format!("getting a job of '{machine}'"),
            source: std::io::Error::other(text),
        },
        FailureKind::SameStore => Error::NoJob {
            machine,
            message: format!("it has this very store: {text}"),
        },
        FailureKind::Unreachable => Error::NoJob {
            machine,
            message: format!("its scheduler does not answer: {text}"),
        },
        FailureKind::Exhausted | FailureKind::OutOfTime => Error::Exhausted {
            machine,
            doing: "starting a worker".to_owned(),
            message: text,
        },
        FailureKind::Rejected => Error::Rejected {
            machine,
            message: text,
        },
        FailureKind::NoWorker | FailureKind::Lost => Error::NoJob {
            machine,
            message: text,
        },
    }
}

/// The error of a worker that was lost, with the reason that its keeper has found.
fn of_lost_worker(worker: &Worker, machine: &str, error: Error, failure: Failure) -> Error {
    let machine = machine.to_owned();
    match (error, failure.kind) {
        (Error::Lost { doing, .. }, FailureKind::OutOfTime) if worker.is_new => Error::OutOfTime {
            machine,
            doing,
            message: failure.text,
        },
        // In a new job, it may end in time.
        (Error::Lost { doing, .. }, FailureKind::Exhausted | FailureKind::OutOfTime) => {
            Error::Exhausted {
                machine,
                doing,
                message: failure.text,
            }
        }
        (Error::Lost { doing, .. }, _) => Error::Lost {
            machine,
            doing,
            reason: failure.text,
        },
        (error, _) => error,
    }
}
