//! What the kernel must support for builds in a sandbox.

use std::fs;
use std::path::Path;

use system::ids;

use super::advice;
use super::findings::Findings;

/// Whether AppArmor keeps unconfined programs from making user namespaces.
const APPARMOR: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

pub fn check(findings: &mut Findings) {
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
    ] {
        if fs::read_to_string(file).is_ok_and(|value| value.trim() == bad) {
            return findings.wrong(
                format!("ordinary users may not make user namespaces ({file} is {bad})"),
                format!(
                    "{}, or guix-daemon --disable-chroot",
                    advice::as_root(&format!("sysctl {setting}"))
                ),
            );
        }
    }
    if fs::read_to_string(APPARMOR).is_ok_and(|value| value.trim() == "1") && !has_profile() {
        return findings.wrong(
            format!("programs without an AppArmor profile may not make user namespaces ({APPARMOR} is 1)"),
            format!(
                "{} (see `Running as a User of Its Own'), or guix-daemon --disable-chroot",
                advice::as_root(
                    "cp /usr/local/share/guix-daemon/apparmor/guix-daemon-rs /etc/apparmor.d/ && \
                     apparmor_parser -r /etc/apparmor.d/guix-daemon-rs"
                )
            ),
        );
    }
    findings.right("ordinary users may make user namespaces");
}

/// Whether AppArmor has found a profile for this program.
fn has_profile() -> bool {
    let label = fs::read_to_string("/proc/self/attr/apparmor/current")
        .or_else(|_| fs::read_to_string("/proc/self/attr/current"));
    label.is_ok_and(|label| label.trim() != "unconfined")
}
