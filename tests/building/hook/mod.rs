//! Builds by a hook: the daemon's side, with hooks that are shell scripts.
//!
//! Ours finds its hook in `NIX_BUILD_HOOK`; Guix's daemon runs `$GUIX offload`. The scripts serve
//! both.

mod builds;
mod endings;
mod fairness;
mod questions;
mod starting;
mod troubles;
mod words;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::harness::derivations::Client;
use super::harness::{Site, is_ours};
use super::{Script, Setup};

/// The common part of hooks. `$dir` is the gate.
const PRELUDE: &str = r#"
test "$1" = offload && shift
echo "$*" >>$dir/started
# Reads a question into $line and $drv, and notes it.
ask() {
    IFS= read -r line || exit 0
    printf '%s\n' "$line" >>$dir/asked
    drv=$(echo "$line" | cut -d ' ' -f 3)
}
# Takes the build.
accept() {
    echo '# accept'
    IFS= read -r inputs
    IFS= read -r outputs
}
# Makes the outputs.
make() { for output in $outputs; do echo "by the hook" >$output; done; }
"#;

/// Creates an executable file.
fn executable(path: PathBuf, text: &str) -> PathBuf {
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A site with a hook that runs `script`, called `name`.
fn site(name: &str, script: &str) -> Site {
    let site = Site::new();
    let dir = site.path("gate");
    let text = format!("#!/bin/sh\ndir={}\n{PRELUDE}\n{script}\n", dir.display());
    let hook = executable(site.path(name), &text);
    site.env(if is_ours() { "NIX_BUILD_HOOK" } else { "GUIX" }, hook)
}

/// A daemon with such a hook.
pub(super) fn hooked(script: &str, options: &[&str]) -> Setup {
    Setup::at(site("hook", script), options)
}

/// A client that requests offloading, with short timeouts.
pub(super) fn client(setup: &Setup) -> Client {
    let mut client = setup.client();
    client.set(|options| {
        options.use_build_hook = Some(true);
        options.set("build-poll-interval", "1");
    });
    client
}

/// A derivation whose output tells where it was built.
fn local(name: &str) -> Script {
    Script::new(name, "echo locally >$out")
}

/// What an output contains.
fn maker(path: &formats::StorePath) -> String {
    fs::read_to_string(path.as_path())
        .unwrap()
        .trim()
        .to_owned()
}
