//! Podman: a container for each job, which never waits.

use super::preset::Preset;

/// What is known about Podman. The image is the last of the entry's options.
pub const PRESET: Preset = Preset {
    command: &[
        "podman",
        "run",
        "--rm",
        "--interactive",
        "--name={job}",
        "--cpus={cores}",
        "--memory={memory}m",
        // Builds run in namespaces of their own.
        "--security-opt=unmask=ALL",
        "--security-opt=seccomp=unconfined",
        "{options}",
        "{worker}",
    ],
    cancel: &["podman", "rm", "--force", "--ignore", "{job}"],
    pending: &[],
    busy: &[],
    unreachable: &[],
    exhausted: &[],
    hopeless: &[],
};
