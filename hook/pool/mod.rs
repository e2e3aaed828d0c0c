//! Pools: machines that a scheduler lends, one for each job.
//!
//! A job is a command (`srun …`) whose standard input and output reach a worker
//! (`guix-offload worker`), which has a store and a daemon of its own. The hook that takes a slot
//! starts a *keeper* for it, a process (`guix-offload keeper`) that runs the command, and outlives the
//! hook: the next build in that slot needs no new job. A hook reaches the worker's daemon through the
//! keeper's socket; on one connection, after a few lines of JSON (`messages.rs`), it speaks the worker
//! protocol.
//!
//! No job is left behind: when a hook is killed, its keeper sees the end of the connection, and cancels
//! a job that has not started, or ends the build. When a keeper is killed, its command gets a signal,
//! the worker hears nothing any more, and whoever takes the slot next runs the scheduler's cancelling
//! command for the job that the slot's `record.rs` names.
//!
//! | file | |
//! |---|---|
//! | `failure.rs` | why there is no job, or none any more |
//! | `preset.rs`, `slurm.rs`, `podman.rs` | what is known about schedulers |
//! | `templates.rs` | the command lines of a pool |
//! | `program.rs` | the program that is hook, keeper and worker |
//! | `command_line.rs` | command lines with placeholders |
//! | `longest_job.rs` | the longest time limit of a job, as the scheduler says |
//! | `job_name.rs` | the names of jobs |
//! | `plan.rs` | what a keeper is told about its job |
//! | `record.rs` | what a keeper writes down about its job |
//! | `messages.rs` | what a hook and a keeper say to each other |
//! | `scheduler_command.rs` | a command of the scheduler, as another user if need be |
//! | `job.rs` | the command that is the job, and its end |
//! | `events.rs` | what a keeper waits for |
//! | `worker_stream.rs` | the frames of the worker |
//! | `clients.rs` | the hooks that connect to a keeper |
//! | `keeper.rs` | the keeper |
//! | `connect.rs` | the hook's side of all this |

mod clients;
pub mod command_line;
mod connect;
mod events;
pub mod failure;
mod job;
mod job_name;
mod keeper;
mod longest_job;
mod messages;
mod plan;
mod podman;
pub mod preset;
mod program;
mod record;
mod scheduler_command;
mod slurm;
pub mod templates;
mod worker_stream;

pub use connect::{Report, again, connect, last_failure, vitals, waiting};
pub use failure::{Failure, FailureKind};
pub use keeper::run as keep;
pub use longest_job::minutes as longest_job;
pub use messages::Worker;
pub use plan::{Plan, Wanted};
pub(crate) use program::start as start_program;
pub use record::{Record, State, rank, records};
pub(crate) use scheduler_command::{run as run_as, spawn as spawn_as};
