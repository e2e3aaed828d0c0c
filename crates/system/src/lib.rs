//! System calls behind safe, owned types.
//!
//! This crate and `gcrypt` are the only ones with `unsafe` code. Every descriptor is created
//! close-on-exec and owned by a value that closes it. Nothing here changes the state of the whole
//! process (working directory, umask, signal masks), except where a function's documentation says
//! that this is its purpose.
//!
//! | module | content |
//! |---|---|
//! | [`pipe`] | pipes, socket pairs and small descriptor helpers |
//! | [`lease`] | whether anybody can write to a file |
//! | [`lock`] | open-file-description locks that conflict with `fcntl` locks |
//! | [`poll`] | waiting for several descriptors, with a timeout |
//! | [`process`] | starting, watching and ending programs from a multithreaded process |
//! | [`companion`] | programs that are installed with this one |
//! | [`open_files`] | the limit of open files |
//! | [`processors`] | the processors that a thread may run on |
//! | [`signal`] | names and descriptions of signals, ignoring and restoring them |
//! | [`tree`] | operations on file trees that never follow links, through directory descriptors |
//! | [`ids`] | users, groups, and dropping privileges |
//! | [`again`] | starting this program again as somebody else |
//! | [`host_names`] | the addresses of hosts |
//! | [`socket`] | Unix sockets: long names, credentials, descriptor passing, activation |
//! | [`busy`] | store items in use by the machine's processes, from `/proc` |
//! | [`namespace`] | namespaces and the id maps of user namespaces |
//! | [`mount`] | mounts, and changing the root directory |
//! | [`network`] | the devices of a network namespace |
//! | [`errno`] | error messages of the system |
//! | [`sync`] | mutexes and condition variables without poisoning |
//! | [`wakeup`] | waking a thread that waits in `poll` |
//! | [`quota`] | shares of something limited |
//! | [`clock`] | the time of day |
//! | [`personality`], [`caps`] | execution domain; capabilities |
//! | [`ipc`] | shared memory and queues that outlive processes |
//! | [`landlock`] | restricting processes without namespaces |
//! | [`keyring`] | kernel keyrings that must not be inherited |
//! | [`limits`] | limits of processes that must not do much |
//! | [`seccomp`] | filtering system calls |
//! | [`terminal`] | the size of a terminal |

mod account;
#[cfg(any(test, all(target_env = "gnu", target_feature = "crt-static")))]
mod account_files;
pub mod again;
pub mod busy;
mod call_numbers;
pub mod caps;
pub mod clock;
pub mod companion;
pub mod errno;
pub mod host_names;
pub mod ids;
pub mod ipc;
mod kernel_list;
pub mod keyring;
pub mod landlock;
pub mod lease;
pub mod limits;
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
pub mod quota;
pub mod runtime_files;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod sync;
pub mod terminal;
pub mod tree;
pub mod wakeup;
