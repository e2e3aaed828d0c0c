//! Tests of `guix-client`: the real program, with a real daemon.
//!
//! Expectations are what `guix` does, see `doc/src/invoking-guix-client.md`. The suite can be run
//! with another daemon, see [`harness`].

#[path = "../harness/mod.rs"]
mod harness;

mod fixture;

mod adding;
mod archives;
mod building;
mod collecting;
mod dashboard;
mod downloading;
mod hashes;
mod history;
mod keys;
mod logs;
mod manual;
mod mistakes;
mod offloading;
mod output;
mod processes;
mod questions;
mod roots;
mod status;
mod terminals;
mod verifying;
mod viewing;
mod watching;
mod weather;
