//! Offloading: choosing a build machine, getting a derivation built there, and fetching its outputs.
//!
//! This library is called `hook`, like its directory, after the *build hook*: the daemon's term for
//! the program that it asks whether to build a derivation elsewhere. That program is `guix-offload`
//! (`main.rs`, which calls [`run`]). `guix-client offload` also uses the library, for [`status`]
//! and [`check_machines`], and `guix-daemon --check-setup` for [`machines`].
//!
//! A request goes through [`request`] → [`choose`] ([`machines`], [`generated`], [`suitability`],
//! [`health`], [`slots`], [`inputs`], [`have`], [`sends`]) → [`remote`] → [`transfer`] (over a
//! [`bounded_pipe`]).

pub mod bounded_pipe;
pub mod check_machines;
pub mod choose;
pub mod directories;
pub mod drained;
pub mod frames;
pub mod generated;
pub mod have;
pub mod health;
pub mod history;
pub mod host_keys;
pub mod host_locks;
pub mod inputs;
pub mod machine_file;
pub mod machines;
pub mod name_patterns;
pub mod new_entry;
pub mod parallel;
pub mod pool;
pub mod rates;
pub mod remembering;
pub mod remote;
pub mod request;
pub mod run;
pub mod selection;
pub mod sends;
#[cfg(test)]
#[path = "../tests/harness/skip.rs"]
mod skip;
pub mod slots;
pub mod standing;
pub mod status;
pub mod stderr;
pub mod suitability;
#[cfg(test)]
mod test_data;
pub mod transfer;
mod transfer_progress;
pub mod worker;
