//! Filters of system calls (`seccomp(2)`): of builders, and of programs that talk over the network.

mod builder;
mod network;
mod program;

pub use builder::{restrict_builder, restrict_downloader};
pub use network::{restrict_changes, restrict_network_program, restrict_server};
