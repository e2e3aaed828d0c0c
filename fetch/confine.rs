//! What the program that touches the network gives up before it listens to anybody.
//!
//! Where it is root, it becomes a user that nobody else is. In any case it can't gain privileges, start
//! programs or processes, write to any file, read more than name services, TLS and the C library
//! need, be traced, or have more memory than it should. What the kernel doesn't support (Landlock
//! before Linux 5.13, filters of system calls on some processors) is left out: the other protections
//! remain.

use std::collections::BTreeSet;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use system::{caps, ids, landlock, limits, seccomp};

/// The most memory, in bytes: far more than all decoders together are given (`network/budget.rs`).
const MEMORY: u64 = 2 << 30;

/// What may be read, besides the directories of libraries. Passwords and keys are not below these, but
/// below `/etc`: see [`configuration`].
const READABLE: [&str; 10] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/dev/urandom",
];

/// Files and directories below `/etc` that name services and TLS read.
const CONFIGURATION: [&str; 16] = [
    "ca-certificates",
    "crypto-policies",
    "gai.conf",
    "gnutls",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "localtime",
    "netsvc.conf",
    "networks",
    "nsswitch.conf",
    "pki",
    "protocols",
    "resolv.conf",
    "services",
    "ssl",
];

/// Gives up, for this process, everything that the network doesn't need. To be called before there are
/// other threads. Returns whether access to files is restricted, for which the kernel needs Landlock.
pub fn confine() -> anyhow::Result<bool> {
    load_name_services();
    let libraries = directories_of_libraries();
    limits::forbid_files().context("cannot limit files")?;
    limits::limit_memory(MEMORY).context("cannot limit memory")?;
    caps::drop_bounding();
    let is_own_user = match ids::effective_uid() {
        0 => ids::become_nobody_else().context("cannot change the user")?,
        _ => false,
    };
    caps::drop_all().context("cannot drop capabilities")?;
    limits::hide().context("cannot hide the process")?;
    limits::die_with_parent().context("cannot be tied to the parent")?;
    let mut readable: BTreeSet<PathBuf> = READABLE.iter().map(PathBuf::from).collect();
    readable.extend(libraries);
    readable.extend(configuration(is_own_user));
    let readable: Vec<&Path> = readable.iter().map(PathBuf::as_path).collect();
    let has_landlock =
        landlock::confine_to_reading(&readable).context("cannot restrict access to files")?;
    seccomp::restrict_network_program().context("cannot restrict system calls")?;
    Ok(has_landlock)
}

/// What may be read below `/etc`. With a user of its own, all that everybody may read. The daemon's
/// own user has keys there, so then only what is needed; a file that is replaced later can't be read
/// any more, and whoever started this program starts it anew when that happens to `resolv.conf`.
fn configuration(is_own_user: bool) -> Vec<PathBuf> {
    let etc = Path::new("/etc");
    match is_own_user {
        true => vec![etc.to_owned()],
        false => CONFIGURATION.iter().map(|name| etc.join(name)).collect(),
    }
}

/// Has the C library load what it looks up names with, wherever that is.
fn load_name_services() {
    // A failure now is one later, too, and said then.
    let _ = ("localhost", 80).to_socket_addrs();
}

/// The directories of the libraries that are loaded: in a store they are anywhere, and more may be
/// loaded from there.
fn directories_of_libraries() -> BTreeSet<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    libraries(&maps)
}

/// The directories of libraries in a list of mappings (`proc_pid_maps(5)`).
fn libraries(maps: &str) -> BTreeSet<PathBuf> {
    let files = maps.lines().filter_map(|line| {
        let file = Path::new(&line[line.find('/')?..]);
        let name = file.file_name()?.to_str()?;
        let is_library = name.contains(".so.") || name.ends_with(".so");
        is_library.then(|| file.parent().map(Path::to_owned))?
    });
    files.collect()
}

#[cfg(test)]
#[path = "confine_tests.rs"]
mod tests;
