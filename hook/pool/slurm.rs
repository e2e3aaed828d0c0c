//! Slurm: `srun`, `scancel` and `squeue`. `tests/offload/slurm_words.rs` has a real cluster say all of
//! the words that can be had from one without accounts.

use super::preset::Preset;

/// What is known about Slurm.
pub const PRESET: Preset = Preset {
    command: &[
        "srun",
        // Its output would be line-buffered, and what is no line would not arrive.
        "--unbuffered",
        "--quiet",
        // The head's environment and limits are not the node's. There is no PATH then.
        "--export=NONE",
        "--propagate=NONE",
        "--chdir=/tmp",
        "--ntasks=1",
        "--job-name={job}",
        "--cpus-per-task={cores}",
        "--mem={memory}M",
        "--time={minutes}",
        "--immediate{now}",
        "{options}",
        "{worker}",
    ],
    // That there is no such job is no error.
    cancel: &["scancel", "--quiet", "--name={job}"],
    pending: &[
        "squeue",
        "--noheader",
        "--name={job}",
        "--states=PENDING",
        "--format=job %i: %r",
    ],
    busy: &[
        "Requested nodes are busy",
        "Immediate execution impossible",
        "Requested partition configuration not available now",
    ],
    unreachable: &[
        "Unable to contact slurm controller",
        "Unable to establish controller machine",
        "Socket timed out on send/recv operation",
    ],
    exhausted: &[
        "DUE TO TIME LIMIT",
        "exceeded memory limit",
        "oom-kill",
        "oom_kill",
    ],
    lost: &[
        "Node failure on",
        "DUE TO NODE FAILURE",
        "io error with slurmstepd",
        "Task launch for",
        "Application launch failed",
    ],
    hopeless: &[
        // The partition has no node with so much, or allows no job so much.
        "PartitionConfig",
        "PartitionTimeLimit",
        "PartitionNodeLimit",
        "BadConstraints",
        // The account.
        "AccountNotAllowed",
        "InvalidAccount",
        "InvalidQOS",
        "QOSNotAllowed",
        "AssocMaxCpuPerJobLimit",
        "AssocMaxMemPerJob",
        "AssocMaxNodePerJobLimit",
        "AssocMaxWallDurationPerJobLimit",
        "QOSMaxCpuPerJobLimit",
        "QOSMaxMemoryPerJob",
        "QOSMaxNodePerJobLimit",
        "QOSMaxWallDurationPerJobLimit",
        "QOSMinCpuNotSatisfied",
        "QOSMinMemory",
    ],
};
