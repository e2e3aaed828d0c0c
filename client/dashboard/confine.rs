//! What the dashboard gives up before it serves anybody: it reads what builders, machines and browsers have written.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use hook::directories::HookDirectories;
use hook::machines;
use protocol::client::Address;
use store::Directories;
use system::{caps, ids, landlock, runtime_files, seccomp};

use crate::output;

/// Name servers, if they are asked by TCP.
const NAME_SERVERS: u16 = 53;

/// Files of the kernel by which it is found out who has locked a file. (Rules are about the files that there are now; the
/// kernel may make these anew when they are named again, unless they are open.)
const KERNEL: [&str; 2] = ["/proc/locks", "/proc/self"];

/// Gives up, for this process, all that isn't needed to serve the page: it can read the daemon's and the hook's
/// directories, and change files in the hook's own one (a lock is tested by opening it, and what an interrupted writer of
/// the history has left may have to be undone). It can start no programs, and connect by TCP only to the daemon, if that is
/// elsewhere. To be called when it listens, and before there are other threads.
///
/// Where machine files have to be read by Guile, it can still read other files, and start programs.
///
/// Returns files that have to stay open.
pub fn confine(directories: &Directories) -> Result<Vec<File>> {
    let hook = HookDirectories::new(directories).context("looking up our user")?;
    let (files, needs_guile) = machines::files(&hook.configuration);
    let own = directories.offload();
    // Only a directory that exists can be named. Whoever may not create it may not use it either.
    let _ = DirBuilder::new().mode(0o700).create(&own);
    caps::drop_all().context("cannot drop capabilities")?;
    if needs_guile {
        check_landlock(landlock::confine(Some(&[&own, Path::new("/dev")])));
        nix::sys::prctl::set_no_new_privs().context("cannot give up new privileges")?;
        return Ok(Vec::new());
    }
    runtime_files::load_name_services();
    let _ = ids::user_by_id(0);
    let mut readable = runtime_files::libraries();
    readable.extend(runtime_files::configuration());
    readable.insert("/etc/passwd".into());
    readable.extend(KERNEL.map(PathBuf::from));
    readable.extend([
        existing(&directories.log),
        existing(directories.store.as_path()),
        existing(&hook.configuration),
    ]);
    readable.extend(files.iter().filter_map(|file| directory_of(file)));
    let ports = match Address::from_environment(&directories.state)? {
        Address::Tcp { port, .. } => vec![port, NAME_SERVERS],
        // A long name is looked up in its directory.
        Address::Unix(socket) => {
            readable.extend(directory_of(&socket));
            Vec::new()
        }
    };
    // Files that are links, as some distributions have them.
    readable.extend(files.iter().filter_map(|file| file.canonicalize().ok()));
    let readable: BTreeSet<&Path> = readable.iter().map(PathBuf::as_path).collect();
    let readable: Vec<&Path> = readable.into_iter().collect();
    let kept = KERNEL.iter().filter_map(|name| {
        let mut options = File::options();
        let file = options.read(true).custom_flags(libc::O_PATH).open(name);
        file.ok()
    });
    let kept = kept.collect();
    check_landlock(landlock::confine_server(&readable, &[&own], &ports));
    if let Err(error) = seccomp::restrict_server() {
        let text = format!("this kernel cannot restrict system calls: {error}");
        output::warning("dashboard", &text);
    }
    Ok(kept)
}

/// Warns where the kernel can't do it; everything else is done all the same.
fn check_landlock(confined: io::Result<bool>) {
    let why = match confined {
        Ok(true) => return,
        Ok(false) => "it has no Landlock".to_owned(),
        Err(error) => error.to_string(),
    };
    let text = format!("this kernel cannot restrict access to files: {why}");
    output::warning("dashboard", &text);
}

/// The directory of a file.
fn directory_of(file: &Path) -> Option<PathBuf> {
    let parent = file.parent()?;
    Some(match parent.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => parent.to_owned(),
    })
}

/// A directory, or the one in which it will be; but not all there are.
fn existing(directory: &Path) -> PathBuf {
    let mut there = directory.ancestors().filter(|one| one.exists());
    let there = there.next().filter(|one| one.parent().is_some());
    there.unwrap_or(directory).to_owned()
}
