//! Giving up what a download doesn't need. Our daemon has done so already; Guix's has not.

use std::path::Path;

use nix::unistd::geteuid;
use system::{landlock, seccomp};

use super::request::Refusal;

/// From here on, this process and the programs that it runs can write beneath the directory of the
/// output and the working directory only, and use neither local sockets, by which the machine's services
/// are reached, nor dangerous system calls.
pub fn confine(output: &Path) -> Result<(), Refusal> {
    if geteuid().is_root() {
        let reason = "refusing to run with elevated privileges (UID 0)";
        return Err(Refusal(reason.to_owned()));
    }
    let directory = std::env::current_dir();
    let directory = directory
        .map_err(|error| Refusal(format!("cannot find the working directory: {error}")))?;
    let around = output.parent().unwrap_or(Path::new("/"));
    landlock::confine(Some(&[around, &directory, Path::new("/dev")]))
        .and_then(|_| seccomp::restrict_downloader())
        .map_err(|error| Refusal(format!("cannot give up privileges: {error}")))
}
