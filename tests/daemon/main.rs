//! The daemon's protocol and store, from outside: against the real program, its sockets, its
//! database and its files.
//!
//! `GUIX_DAEMON_UNDER_TEST=PROGRAM GUIX=PROGRAM` has the whole suite drive another daemon, which
//! is to agree; what ours does otherwise on purpose is in the tests that begin with `only_ours`.
//! `GUIX_REFERENCE_DAEMON=PROGRAM` (with `GUIX`, too) has ours take turns with it on one store.
//! `DAEMON_TEST_KILLS=N` has the daemon killed N times in `killed.rs` instead of a few, and
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
mod state;
mod substitutes;
mod transfer;
mod trust;
