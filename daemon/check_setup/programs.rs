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
    fetcher(settings, findings);
    if find_program("slirp4netns").is_none() {
        findings.note(
            "no `slirp4netns': builders with a hash known beforehand have no network",
            Some(advice::install("slirp4netns")),
        );
    }
}

/// The program that touches the network. One that was chosen must be there; without any, the daemon
/// can still build.
fn fetcher(settings: &Settings, findings: &mut Findings) {
    let fetcher = &settings.fetcher;
    let Some(lack) = fetcher.lack() else {
        let program = fetcher.program().display();
        return findings.right(format!("`{program}', for substitutes and downloads"));
    };
    let text = format!("{lack}; there are no substitutes, and no `builtin:download' derivations");
    let fix = match fetcher.is_ours() {
        true => Some("unset GUIX_FETCH, or let it name the program".to_owned()),
        false => {
            let guix = elsewhere(&settings.directories);
            guix.map(|guix| format!("GUIX={}", guix.display()))
        }
    };
    match fetcher.is_chosen() {
        true => findings.wrong(
            text,
            fix.unwrap_or_else(|| {
                "let GUIX name Guix's program, or leave out --fetcher=guix".to_owned()
            }),
        ),
        false => findings.note(text, fix),
    }
}
