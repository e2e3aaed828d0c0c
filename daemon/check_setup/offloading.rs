//! The build hook and its machines.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use system::process::find_program;
use system::{errno, ids};

use super::advice;
use super::findings::Findings;
use super::keys::is_forbidden;
use crate::settings::Settings;

pub fn check(settings: &Settings, findings: &mut Findings) {
    if !cfg!(have_daemon_offload_hook) {
        return findings.note("offloading is not built in", None);
    }
    match settings.hook.usable() {
        Some((program, _)) => findings.right(format!("the build hook `{}'", program.display())),
        None => findings.note(
            "no usable build hook: everything is built here",
            Some("make install, or NIX_BUILD_HOOK=PROGRAM".to_owned()),
        ),
    }
    let machines = match ::hook::machines::load(&settings.directories.configuration) {
        Ok(machines) => machines,
        Err(error) => {
            return findings.wrong(error.to_string(), "correct the file at the place named");
        }
    };
    for problem in &machines.problems {
        findings.wrong(problem.to_string(), "correct the file at the place named");
    }
    for generator in &machines.generators {
        findings.right(format!(
            "`{}' prints build machines when asked",
            generator.name()
        ));
    }
    if machines.machines.is_empty() {
        if machines.generators.is_empty() && machines.problems.is_empty() {
            findings.note(
                format!(
                    "no build machines in `{}'",
                    settings
                        .directories
                        .configuration
                        .join("machines.scm")
                        .display()
                ),
                None,
            );
        }
        return;
    }
    findings.right(format!(
        "{}; `guix-client offload test' tries them",
        advice::number(machines.machines.len(), "build machine")
    ));
    for machine in &machines.machines {
        if let Some(key) = &machine.private_key {
            private_key(&machine.name, key, findings);
        }
    }
    if find_program("ssh").is_none() {
        findings.wrong(
            "there are build machines, but no `ssh' in PATH",
            advice::install("openssh-client"),
        );
    }
}

fn private_key(machine: &str, key: &Path, findings: &mut Findings) {
    let shown = key.display();
    match fs::metadata(key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => findings.wrong(
            format!("there is no private key `{shown}' for `{machine}'"),
            format!("ssh-keygen -t ed25519 -N '' -f {shown}"),
        ),
        Err(error) => findings.wrong(
            format!(
                "the private key `{shown}' for `{machine}': {}",
                errno::message(&error)
            ),
            format!("ls -l {shown}"),
        ),
        // ssh refuses such a key.
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => findings.wrong(
            format!("others can read the private key `{shown}' for `{machine}'"),
            format!("chmod 600 {shown}"),
        ),
        Ok(_) if is_forbidden(key) => {
            let user = ids::user_name(ids::effective_uid());
            findings.wrong(
                format!("{user} may not read the private key `{shown}' for `{machine}'"),
                advice::as_root(&format!("chown {user} {shown}")),
            );
        }
        Ok(_) => {}
    }
}
