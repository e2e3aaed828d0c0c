//! Substitutes: found, believed or not, fetched, and registered; and the program that touches the
//! network, `guix-fetch`, with real servers on the loopback device.
//!
//! Expectations are from `doc/spec/substitutes.md`. A test that has a daemon says which program
//! touches the network for it (`GUIX_FETCH`).

#[path = "../harness/mod.rs"]
mod harness;

mod chains;
mod download;
mod evil;
mod evil_program;
mod fixture;
mod guixs_daemon;
mod guixs_own;
mod guixs_program;
mod late_servers;
mod network;
mod real_servers;
mod shares;
mod standin;
mod substitutes;
