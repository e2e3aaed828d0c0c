//! The programs that the daemon runs.

use std::path::PathBuf;

use nix::unistd::{AccessFlags, access};
use store::Directories;
use system::process::find_program;

use super::advice;
use super::findings::Findings;
use crate::settings::Settings;

/// A `guix` where Guix puts it, or in PATH.
fn elsewhere(directories: &Directories) -> Option<PathBuf> {
    let pulled = "profiles/per-user/root/current-guix/bin/guix";
    let system = "/run/current-system/profile/bin/guix";
    let usual = [directories.state.join(pulled), system.into()];
    let mut candidates = usual.into_iter().chain(find_program("guix"));
    candidates.find(|guix| access(guix, AccessFlags::X_OK).is_ok())
}

pub fn check(settings: &Settings, findings: &mut Findings) {
    let fetcher = &settings.fetcher;
    let program = fetcher.program().display();
    if fetcher.is_available() {
        findings.right(format!("`{program}', for substitutes and downloads"));
    } else {
        let guix = elsewhere(&settings.directories);
        findings.note(
            format!("no `{program}': no substitutes, and no `builtin:download' derivations"),
            guix.map(|guix| format!("GUIX={}", guix.display())),
        );
    }
    if find_program("slirp4netns").is_none() {
        findings.note(
            "no `slirp4netns': builders with a hash known beforehand have no network",
            Some(advice::install("slirp4netns")),
        );
    }
}
