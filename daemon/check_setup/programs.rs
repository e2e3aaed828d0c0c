//! The programs that the daemon runs.

use std::path::PathBuf;

use nix::unistd::{AccessFlags, access};
use store::Directories;
use system::process::find_program;

use super::advice;
use super::findings::Findings;

/// A `guix` where Guix puts it, or in PATH.
fn elsewhere(directories: &Directories) -> Option<PathBuf> {
    let pulled = "profiles/per-user/root/current-guix/bin/guix";
    let system = "/run/current-system/profile/bin/guix";
    let usual = [directories.state.join(pulled), system.into()];
    let mut candidates = usual.into_iter().chain(find_program("guix"));
    candidates.find(|guix| access(guix, AccessFlags::X_OK).is_ok())
}

pub fn check(directories: &Directories, findings: &mut Findings) {
    let guix = &directories.guix;
    if access(guix, AccessFlags::X_OK).is_ok() {
        findings.right(format!(
            "`{}', for substitutes and downloads",
            guix.display()
        ));
    } else {
        findings.note(
            format!(
                "no `{}': no substitutes, and no `builtin:download' derivations",
                guix.display()
            ),
            elsewhere(directories).map(|guix| format!("GUIX={}", guix.display())),
        );
    }
    if find_program("slirp4netns").is_none() {
        findings.note(
            "no `slirp4netns': builders with a hash known beforehand have no network",
            Some(advice::install("slirp4netns")),
        );
    }
}
