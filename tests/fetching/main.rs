//! Tests of `guix-fetch`: the real program, with real servers on the loopback device.

#[path = "../harness/mod.rs"]
mod harness;

mod download;
mod network;
