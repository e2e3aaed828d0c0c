//! System calls behind safe, owned types.
//!
//! This crate (with `gcrypt`) is the one home of `unsafe`. Every descriptor it makes is
//! close-on-exec from birth and belongs to a value that closes it; nothing here changes the
//! state of the whole process (working directory, umask, signal masks) behind the caller's
//! back, except where a function's documentation says that this is its purpose.
//!
//! | module | owns |
//! |---|---|
//! | [`pipe`] | pipes, socket pairs and small descriptor helpers |
//! | [`lock`] | open-file-description locks that conflict with `fcntl` locks |
//! | [`poll`] | waiting for several descriptors, with a timeout |
//! | [`process`] | starting, watching and ending programs from a multithreaded process |
//! | [`open_files`] | how many files may be open |
//! | [`processors`] | which of them a thread may run on |
//! | [`signal`] | names and texts of signals, ignoring and restoring them |
//! | [`tree`] | no-follow work on file trees through directory descriptors |
//! | [`ids`] | users, groups, and giving up privileges |
//! | [`socket`] | Unix sockets: long names, credentials, descriptor passing, activation |
//! | [`busy`] | which files the machine's processes are using, from `/proc` |
//! | [`namespace`] | namespaces and the maps of user namespaces |
//! | [`mount`] | mounts, and changing the root directory |
//! | [`network`] | the loopback device of a network namespace |
//! | [`errno`] | the system's words for errors |
//! | [`sync`] | mutexes and condition variables without poisoning |
//! | [`clock`] | the time of day |
//! | [`personality`], [`caps`] | execution domain; capabilities |
//! | [`ipc`] | shared memory and queues that outlive processes |
//! | [`landlock`] | confinement outside of namespaces |
//! | [`keyring`] | kernel keyrings that must not be handed on |
//! | [`seccomp`] | the system calls that builders can't use |

pub mod busy;
pub mod caps;
pub mod clock;
pub mod errno;
pub mod ids;
pub mod ipc;
pub mod keyring;
pub mod landlock;
pub mod lock;
pub mod mount;
pub mod namespace;
pub mod network;
pub mod open_files;
pub mod personality;
pub mod pipe;
pub mod poll;
pub mod process;
pub mod processors;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod sync;
pub mod tree;
