//! Pools: machines that a scheduler lends, one for each job.
//!
//! | file | |
//! |---|---|
//! | `failure.rs` | why there is no job, or none any more |
//! | `preset.rs`, `slurm.rs`, `podman.rs` | what is known about schedulers |
//! | `templates.rs` | the command lines of a pool |
//! | `command_line.rs` | command lines with placeholders |

pub mod command_line;
pub mod failure;
mod podman;
pub mod preset;
mod slurm;
pub mod templates;
