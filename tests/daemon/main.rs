//! Tests of the daemon's protocol and store: with the real program, its sockets, its database and
//! its files.
//!
//! `GUIX_DAEMON_UNDER_TEST=PROGRAM GUIX=PROGRAM` runs the whole suite with another daemon, which
//! should agree; tests of what ours does differently on purpose begin with `only_ours`.
//! `GUIX_REFERENCE_DAEMON=PROGRAM` (together with `GUIX`) makes ours take turns with it on one
//! store. `DAEMON_TEST_KILLS=N` kills the daemon N times in `killed.rs` instead of a few times, and
//! `DAEMON_TEST_STREAMS=N` sends it N damaged streams in `damaged.rs`.

#[path = "../harness/mod.rs"]
mod harness;

mod items;
mod support;

mod adding;
mod bad_input;
mod closed_output;
mod collecting;
mod connections;
mod damaged;
mod disk;
mod handshake;
mod keeping;
mod killed;
mod locks;
mod memory;
mod nars;
mod numbers;
mod private;
mod queries;
mod roots;
mod sockets;
mod starting;
mod state;
mod substitutes;
mod transfer;
mod trust;
mod unprivileged;
