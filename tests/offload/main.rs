//! Offloading, from a client's request to the contents of the stores afterwards: real daemons, a
//! real sshd on every build machine, each machine in its own namespaces.
//!
//! | file | |
//! |---|---|
//! | `farm.rs`, `machine.rs`, `namespaces.rs` | a head and its machines |
//! | `cable.rs` | cables that are slow, lossy or dead |
//! | `inspection.rs` | what runs on a head and its machines, and what is left there |
//! | `entry.rs` | entries of machine files |
//! | `hook_process.rs` | a hook that a test runs itself, instead of a daemon |
//! | `building.rs` | builds that succeed or fail as they should |
//! | `accounts.rs` | SSH as people have it |
//! | `choosing.rs` | which machine a build goes to |
//! | `placement.rs` | which one, given what machines have and how fast their lines are |
//! | `failover.rs` | machines that fail |
//! | `draining.rs` | machines that are taken out and put back |
//! | `bad_cables.rs` | delay, loss, low bandwidth, silence |
//! | `sharing.rs` | what several builds on one machine need |
//! | `substitutes.rs`, `substituter.sh` | machines that fetch inputs themselves |
//! | `blame.rs` | whose fault a failure is |
//! | `leftovers.rs` | clients and hooks that are killed |
//! | `hostile.rs`, `fake_daemon.rs` | machines that send what they should not |
//! | `requests.rs` | the hook's answers to requests |
//! | `files.rs` | machine files |
//! | `adding.rs` | machines that are added to a file, and removed from it |
//! | `generated.rs` | machines that a command prints |
//! | `history.rs` | what is remembered of builds |
//! | `client.rs` | `guix-client offload` |
//! | `pool_farm.rs` | a head with a pool, whose scheduler is a script |
//! | `podman_farm.rs`, `podman.rs` | builds in containers of Podman |
//! | `pool.rs`, `pool_ends.rs` | builds in jobs, and jobs that end |
//! | `faults.rs` | everything breaks at random |
//! | `worker.rs`, `worker_job.rs` | `guix-offload worker`, at the end of a command |
//! | `worker_ends.rs` | every way in which a worker ends, and what it leaves |
//! | `cluster.rs` | a Slurm cluster |
//! | `slurm_farm.rs`, `slurm.rs` | builds through Slurm |
//! | `slurm_resources.rs` | what jobs of Slurm ask for, and builds that need more |
//! | `slurm_faults.rs` | builds through Slurm, while everything is killed at random |
//! | `slurm_words.rs` | what Slurm's commands do and say |
//!
//! With `GUIX_DAEMON_UNDER_TEST` (and `GUIX`) the head's daemon is Guix's own, and our hook runs
//! under it. With `GUIX_MACHINE_DAEMON_UNDER_TEST` the machines' daemons are.

#[path = "../harness/mod.rs"]
mod harness;

mod accounts;
mod adding;
mod bad_cables;
mod blame;
mod building;
mod cable;
mod choosing;
mod client;
mod cluster;
mod draining;
mod entry;
mod failover;
mod fake_daemon;
mod farm;
mod faults;
mod files;
mod generated;
mod history;
mod hook_process;
mod hostile;
mod inspection;
mod leftovers;
mod machine;
mod namespaces;
mod placement;
mod podman;
mod podman_farm;
mod pool;
mod pool_ends;
mod pool_farm;
mod requests;
mod sharing;
mod slurm;
mod slurm_farm;
mod slurm_faults;
mod slurm_resources;
mod slurm_words;
mod substitutes;
mod viewing;
mod worker;
mod worker_ends;
mod worker_job;
