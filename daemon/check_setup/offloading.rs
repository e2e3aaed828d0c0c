//! The build hook and its machines.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use system::process::find_program;

use super::advice;
use super::findings::Findings;
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
    if machines.machines.is_empty() {
        if machines.problems.is_empty() {
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
        "{} build machines; `guix-client offload test' tries them",
        machines.machines.len()
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
        Err(error) => findings.wrong(
            format!("the private key `{shown}' for `{machine}': {error}"),
            format!("ssh-keygen -t ed25519 -N '' -f {shown}"),
        ),
        // ssh refuses such a key.
        Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => findings.wrong(
            format!("others can read the private key `{shown}' for `{machine}'"),
            format!("chmod 600 {shown}"),
        ),
        Ok(_) => {}
    }
}
