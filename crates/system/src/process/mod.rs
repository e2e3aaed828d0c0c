//! Starting, watching and ending programs from a multithreaded process.
//!
//! [`Spawn`] describes a program to start; [`Child`] is a running one. Between fork and exec, only
//! async-signal-safe calls are made, on memory prepared before; the child's descriptors are exactly
//! 0, 1, 2 and those requested; its signal actions and mask are the defaults; a failed exec is
//! reported by [`Spawn::spawn`], not by an obscure exit code.

mod child;
mod execute;
mod kill;
mod setup;
mod spawn;

#[cfg(test)]
mod tests;

pub use child::Child;
pub use execute::execute_file;
pub use kill::{exit_now, kill_user_from_here, process_exists};
pub use spawn::{Spawn, find_program};
