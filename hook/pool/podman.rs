//! Podman: a container for each job, which never waits.

use super::preset::Preset;

/// What is known about Podman. The image is the last of the entry's options, or `--rootfs` and a
/// directory are.
pub const PRESET: Preset = Preset {
    command: &[
        "podman",
        "run",
        "--rm",
        "--interactive",
        "--name={job}",
        // If even the cancelling command has failed, one of that name may be left.
        "--replace",
        // Nothing is downloaded while a build waits, and builds have no network.
        "--pull=never",
        "--network=none",
        // All that is sent would be written down otherwise.
        "--log-driver=none",
        // A directory on the disk that goes with the container. What a worker that was killed leaves in one
        // of a `--rootfs' would stay: the next one has another host name.
        "--volume=/worker-tmp",
        "--env=TMPDIR=/worker-tmp",
        // (There is no word for cores: control groups for them are often not there, and the worker is
        // told how many there are.)
        "--memory={memory}m",
        // Builds run in namespaces of their own.
        "--security-opt=unmask=ALL",
        "--security-opt=seccomp=unconfined",
        "{options}",
        "{worker}",
    ],
    // The first process of a container does not notice a TERM.
    cancel: &[
        "podman",
        "rm",
        "--force",
        "--ignore",
        "--volumes",
        "--time=0",
        "{job}",
    ],
    pending: &[],
    busy: &[],
    unreachable: &["Cannot connect to Podman", "unable to connect to Podman"],
    exhausted: &[],
    out_of_time: &[],
    lost: &[],
    hopeless: &[],
};
