//! What a program that confines itself still has to read: for the C library, name services and TLS.

use std::collections::BTreeSet;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

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

/// Files and directories that hold no secrets: libraries, and what the C library reads outside `/etc`.
/// Those of libraries that are loaded now are among them, wherever they are.
pub fn libraries() -> BTreeSet<PathBuf> {
    let mut all: BTreeSet<PathBuf> = READABLE.iter().map(PathBuf::from).collect();
    all.extend(directories_of_libraries());
    all
}

/// Files and directories below `/etc` that name services and TLS read. A file that is replaced later can't be read
/// any more by a process that was confined to these.
pub fn configuration() -> Vec<PathBuf> {
    let etc = Path::new("/etc");
    CONFIGURATION.iter().map(|name| etc.join(name)).collect()
}

/// Has the C library load what it looks up names of hosts with, wherever that is.
pub fn load_name_services() {
    // A failure now is one later, too, and said then.
    let _ = ("localhost", 80).to_socket_addrs();
}

/// The directories of the libraries that are loaded: in a store they are anywhere, and more may be
/// loaded from there.
fn directories_of_libraries() -> BTreeSet<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    mapped_libraries(&maps)
}

/// The directories of libraries in a list of mappings (`proc_pid_maps(5)`).
fn mapped_libraries(maps: &str) -> BTreeSet<PathBuf> {
    let files = maps.lines().filter_map(|line| {
        let file = Path::new(&line[line.find('/')?..]);
        let name = file.file_name()?.to_str()?;
        let is_library = name.contains(".so.") || name.ends_with(".so");
        is_library.then(|| file.parent().map(Path::to_owned))?
    });
    files.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_the_list_of_mappings() {
        let maps = "\
7f00-7f01 r-xp 00000000 fe:00 1   /gnu/store/abc-glibc-2.39/lib/libc.so.6
7f02-7f03 r-xp 00000000 fe:00 2   /usr/lib/x86_64-linux-gnu/libcurl.so
7f04-7f05 r-xp 00000000 fe:00 3   /usr/bin/guix-fetch
7f06-7f07 rw-p 00000000 00:00 0   [heap]
7f08-7f09 rw-p 00000000 00:00 0
";
        let found: Vec<PathBuf> = mapped_libraries(maps).into_iter().collect();
        assert_eq!(
            found,
            [
                Path::new("/gnu/store/abc-glibc-2.39/lib"),
                Path::new("/usr/lib/x86_64-linux-gnu")
            ]
        );
    }
}
