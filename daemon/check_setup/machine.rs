//! The hook and its machines, the kernel, and the programs that are run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access};
use store::Directories;
use system::ids;
use system::process::find_program;

use super::Findings;
use crate::settings::Settings;

pub fn check_hook(settings: &Settings, findings: &mut Findings) {
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
            "apt-get install openssh-client",
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

pub fn check_kernel(findings: &mut Findings) {
    let missing: Vec<&str> = ["mnt", "net", "pid", "ipc", "uts"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    if missing.is_empty() {
        findings.right("the kernel has the namespaces of a sandbox");
    } else {
        findings.wrong(
            format!("the kernel lacks namespaces: {}", missing.join(", ")),
            "guix-daemon --disable-chroot, or another kernel",
        );
    }
    if ids::effective_uid() == 0 {
        return;
    }
    for (file, bad, setting) in [
        (
            "/proc/sys/user/max_user_namespaces",
            "0",
            "user.max_user_namespaces=10000",
        ),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "kernel.unprivileged_userns_clone=1",
        ),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ] {
        if fs::read_to_string(file).is_ok_and(|value| value.trim() == bad) {
            return findings.wrong(
                format!("ordinary users may not make user namespaces ({file} is {bad})"),
                format!("sudo sysctl {setting}, or guix-daemon --disable-chroot"),
            );
        }
    }
    findings.right("ordinary users may make user namespaces");
}

pub fn check_programs(directories: &Directories, findings: &mut Findings) {
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
            Some("apt-get install slirp4netns".to_owned()),
        );
    }
}
