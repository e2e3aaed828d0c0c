//! A pool: machines that a scheduler lends, one for each job.

use std::collections::BTreeMap;

/// A scheduler that we know how to ask for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    /// Slurm.
    Slurm,
    /// Podman, whose containers are jobs that never wait.
    Podman,
}

/// What to do when there is no room for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Queue {
    /// Accept the build, and wait.
    #[default]
    Wait,
    /// Postpone the build.
    Now,
}

/// Whose signatures are accepted on what a worker has built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// Those of keys in this host's ACL: all workers have the same key pair.
    #[default]
    Pool,
    /// Also that of the key that the worker has made for this job, and sent over the scheduler's
    /// stream.
    Connection,
}

/// How jobs are had, which workers run in, and how long they last. Command lines are lists of words
/// with placeholders ([`super::template`]); `None` where the entry leaves them to its scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Who lends the machines; `None`: only the entry's commands say how.
    pub scheduler: Option<Scheduler>,
    /// The command whose standard input and output reach a worker.
    pub command: Option<Vec<String>>,
    /// The command that ends a job, whatever has become of the first one.
    pub cancel: Option<Vec<String>>,
    /// The command that prints why a job has to wait.
    pub pending: Option<Vec<String>>,
    /// What the command prints if there is no room.
    pub busy: Option<Vec<String>>,
    /// More words for the command.
    pub options: Vec<String>,
    /// The words for each feature that a derivation can require.
    pub resources: BTreeMap<String, Vec<String>>,
    /// The user as whom all of these run; `None`: ours.
    pub run_as: Option<String>,
    /// The file name of `guix-offload` in a job; `None`: the same as here.
    pub worker: Option<String>,
    /// What the names of the files of all workers' key pair begin with, in a job.
    pub worker_key: Option<String>,
    /// The memory of a job in MiB; `None`: the scheduler's default.
    pub memory: Option<u32>,
    /// What to do when there is no room.
    pub queue: Queue,
    /// For how many seconds a build waits for a job before another machine gets it; 0: no limit.
    pub queue_limit: u32,
    /// For how many seconds a job is kept without a build.
    pub idle: u32,
    /// The time limit of a job in minutes; `None`: that of its first build, or less if the scheduler
    /// allows less.
    pub job_minutes: Option<u32>,
    /// Whose signatures are accepted.
    pub trust: Trust,
    /// The time between two signs of life of either side, in seconds.
    pub heartbeat: u32,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool {
            scheduler: None,
            command: None,
            cancel: None,
            pending: None,
            busy: None,
            options: Vec::new(),
            resources: BTreeMap::new(),
            run_as: None,
            worker: None,
            worker_key: None,
            memory: None,
            queue: Queue::Wait,
            queue_limit: 3600,
            idle: 60,
            job_minutes: None,
            trust: Trust::Pool,
            heartbeat: 5,
        }
    }
}
