//! Running one builder, isolated from the rest of the machine.
//!
//! The daemon is multithreaded and never forks without executing a program. It starts itself anew,
//! once, as the [`ForkServer`], which is single-threaded and forks a process for each build. That
//! process is sent a [`Plan`], and becomes the builder step by step. The steps, and the builder's
//! environment, are described in `doc/spec/build-environment.md`, sections 2 to 7 and 9.
//!
//! # Using this module
//!
//! 1. [`Identity`]: [`BuildUser::acquire`] takes a free build user (hold it until the build
//!    is over; [`BuildUser::kill_processes`] before and after); without build users, it is
//!    [`Identity::Own`].
//! 2. [`BuildDirectory::create`] makes the directory that the build runs in; write the files of
//!    `exportReferencesGraph` into [`BuildDirectory::outside`]; the environment's
//!    `NIX_BUILD_TOP` and so on are [`BuildDirectory::inside`].
//! 3. With a chroot: [`Root::create`] makes `DRV.chroot`; [`Root::outside`] says where an
//!    output appears, and [`Root::chroot`] gives the plan's part. Dropping it deletes it.
//! 4. Fill in a [`Plan`] and call [`start()`]. It returns when the builder is about to be
//!    executed, or with the error of the step that failed (a *general* error).
//! 5. Read [`log`](start::Running::log) to its end, and wait for [`child`](start::Running::child); to
//!    end a build early, `running.child.kill_group()` (and [`BuildUser::kill_processes`]).
//!
//! This module uses no other module of the daemon but `platform`.

mod build_log;
mod builder_process;
mod directory;
mod error_context;
mod execute;
mod fork_request;
mod fork_server;
mod fork_server_process;
mod helper;
mod helper_plan;
mod helper_process;
mod identity;
mod kvm;
mod mounts;
mod network;
mod output_directory;
mod phase;
mod plan;
mod read_only;
mod root;
mod start;

pub use directory::BuildDirectory;
pub use fork_request::Ipc;
pub use fork_server::ForkServer;
pub use fork_server_process::run_if_fork_server;
pub use helper::{WeaknessLog, start_helper};
pub use helper_plan::HelperPlan;
pub use identity::{BuildUser, BuildUserError, Identity, group_of_build_users};
pub use network::of_fixed_output;
pub use output_directory::OutputDirectory;
pub use plan::{Network, Plan, Program};
pub use root::{Root, RootRequest};
pub use start::start;
