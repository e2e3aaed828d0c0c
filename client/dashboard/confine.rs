//! What the dashboard gives up before it serves anybody: it reads what builders, machines and browsers have written.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use farm::history::Reader;
use hook::directories::HookDirectories;
use hook::machines;
use nix::unistd::{AccessFlags, access};
use protocol::client::Address;
use store::Directories;
use system::landlock::Enforcement;
use system::{caps, ids, landlock, runtime_files, seccomp};

use crate::output;

/// How long to wait for one of several addresses of the daemon, and for those who write to the history.
const PATIENCE: Duration = Duration::from_secs(1);

/// Files of the kernel by which it is found out who has locked a file. (Rules are about the files that there are now; the
/// kernel may make these anew when they are named again, unless they are open.)
const KERNEL: [&str; 2] = ["/proc/locks", "/proc/self"];

/// What the names of users are looked up in, and what else the C library may read below `/etc`.
const CONFIGURATION: [&str; 4] = [
    "/etc/passwd",
    "/etc/nsswitch.conf",
    "/etc/ld.so.cache",
    "/etc/localtime",
];

/// The daemon's address. One that is a host's name is looked up now: name servers can't be asked later.
pub fn daemon_address(state: &Path) -> Result<Address> {
    let address = Address::from_environment(state)?;
    let Address::Tcp { host, port } = &address else {
        return Ok(address);
    };
    // If nobody knows the name, that is said where the daemon is asked.
    let all = (host.as_str(), *port).to_socket_addrs();
    let all: Vec<_> = all.map(Iterator::collect).unwrap_or_default();
    let answers = |one: &&_| TcpStream::connect_timeout(one, PATIENCE).is_ok();
    let chosen = match &all[..] {
        [_] => all.first(),
        _ => all.iter().find(answers).or(all.first()),
    };
    Ok(match chosen {
        Some(chosen) if host.parse::<std::net::IpAddr>().is_err() => Address::Tcp {
            host: chosen.ip().to_string(),
            port: *port,
        },
        _ => address,
    })
}

/// Gives up, for this process, all that isn't needed to serve the page: it can read logs, the store, the machine files
/// and the hook's directory, and change nothing. It can start no programs, and connect to local sockets, and by
/// TCP only to the daemon, if that is elsewhere. To be called when it listens, and before there are other threads.
///
/// Where machine files have to be read by Guile, it can still read other files, start programs, and connect.
///
/// Returns files that have to stay open.
pub fn confine(directories: &Directories, daemon: &Address) -> Result<Vec<File>> {
    let hook = HookDirectories::new(directories).context("looking up our user")?;
    let (files, needs_guile) = machines::files(&hook.configuration);
    let own = directories.offload();
    // Only a directory that exists can be named. What another user makes, the daemon could not use.
    if hook.check_owner().is_ok() {
        let store = directories.store.as_path();
        for (directory, mode) in [(&*own, 0o700), (&*directories.log, 0o755), (store, 0o755)] {
            let _ = DirBuilder::new().mode(mode).create(directory);
        }
    }
    caps::drop_all().context("cannot drop capabilities")?;
    // What an interrupted writer has left is undone now. Later, it is the next writer's.
    drop(Reader::open(&own, PATIENCE));
    if needs_guile {
        let confined = landlock::confine(Some(&[Path::new("/dev/null")]));
        check_landlock(confined.map(|is_confined| match is_confined {
            true => Enforcement::Full,
            false => Enforcement::None,
        }));
        check_seccomp(seccomp::restrict_changes());
        return Ok(Vec::new());
    }
    let _ = ids::user_by_id(0);
    let mut readable = runtime_files::libraries();
    readable.extend(CONFIGURATION.iter().chain(&KERNEL).map(PathBuf::from));
    readable.extend([
        directories.log.clone(),
        directories.store.as_path().to_owned(),
        own,
    ]);
    // Links are followed, as some distributions have them.
    readable.extend(files.iter().filter_map(|file| file.canonicalize().ok()));
    let are_there = |file: &PathBuf| file.parent() == Some(&hook.configuration);
    if files.iter().all(are_there) && !has_secrets(&hook.configuration, &files) {
        // Then files that are made later, or replaced, can be read, too.
        readable.insert(hook.configuration);
    }
    let (ports, listable) = match daemon {
        Address::Tcp { port, .. } => (vec![*port], None),
        // A long name is looked up in its directory.
        Address::Unix(socket) => (Vec::new(), socket.parent()),
    };
    let readable: Vec<&Path> = readable.iter().map(PathBuf::as_path).collect();
    let kept = KERNEL.iter().filter_map(|name| {
        let mut options = File::options();
        let file = options.read(true).custom_flags(libc::O_PATH).open(name);
        file.ok()
    });
    let kept = kept.collect();
    check_landlock(landlock::confine_server(
        &readable,
        listable.as_slice(),
        &ports,
    ));
    check_seccomp(seccomp::restrict_server(!ports.is_empty()));
    Ok(kept)
}

/// Whether there may be more in the directory that others may not read but we may: the daemon's secret key, if this user
/// is root or the daemon's. (Rules for directories have no exceptions.)
fn has_secrets(directory: &Path, known: &[PathBuf]) -> bool {
    let is_secret = |file: PathBuf| {
        let is_for_all = fs::metadata(&file).is_ok_and(|it| it.is_file() && it.mode() & 0o004 != 0);
        !is_for_all && !known.contains(&file) && access(&file, AccessFlags::R_OK).is_ok()
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(is_secret)
}

/// Warns where the kernel can't do it; everything else is done all the same.
fn check_landlock(confined: io::Result<Enforcement>) {
    let why = match confined {
        Ok(Enforcement::Full) => return,
        Ok(Enforcement::Part) => {
            let text = "this kernel cannot restrict all access to the network and to other processes: its Landlock is \
                        older than that of Linux 6.12";
            return output::warning("dashboard", text);
        }
        Ok(Enforcement::None) => "it has no Landlock".to_owned(),
        Err(error) => error.to_string(),
    };
    let text = format!("this kernel cannot restrict access to files: {why}");
    output::warning("dashboard", &text);
}

/// The same for system calls.
fn check_seccomp(restricted: io::Result<()>) {
    if let Err(error) = restricted {
        let text = format!("this kernel cannot restrict system calls: {error}");
        output::warning("dashboard", &text);
    }
}

#[cfg(test)]
#[path = "confine_tests.rs"]
mod tests;
