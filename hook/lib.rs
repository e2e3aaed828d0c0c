//! Offloading: choosing a build machine, getting a derivation built there, bringing the result
//! home. `guix-offload`, the daemon's hook, is [`run`]; `guix-client offload status` and
//! `… test` are [`status`].
//!
//! A request goes through [`request`] → [`choose`] ([`machines`], [`slots`], [`health`]) →
//! [`remote`] → [`transfer`] (over a [`belt`]).

pub mod belt;
pub mod choose;
pub mod health;
pub mod machines;
pub mod remote;
pub mod request;
pub mod run;
pub mod say;
pub mod slots;
pub mod status;
pub mod transfer;
