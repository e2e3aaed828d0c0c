//! The programs that the daemon runs.

use nix::unistd::{AccessFlags, access};
use store::Directories;
use system::process::find_program;

use super::advice;
use super::findings::Findings;

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
            Some("GUIX=/var/guix/profiles/per-user/root/current-guix/bin/guix".to_owned()),
        );
    }
    if find_program("slirp4netns").is_none() {
        findings.note(
            "no `slirp4netns': builders with a hash known beforehand have no network",
            Some(advice::install("slirp4netns")),
        );
    }
}
