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
        "Munge encode failed",
        "Protocol authentication error",
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
        (
            "PartitionConfig",
            "no node of the partition has what a job asks for: see `cores' and `memory', and `sinfo -Nl'",
        ),
        (
            "PartitionTimeLimit",
            "the partition allows less time: see `job-minutes', and `sinfo'",
        ),
        (
            "PartitionNodeLimit",
            "the partition allows no job with so many nodes, or so few",
        ),
        ("BadConstraints", "no node has all that `options' ask for"),
        ("AccountNotAllowed", "the partition is not for this account"),
        ("InvalidAccount", ACCOUNT),
        ("InvalidQOS", ACCOUNT),
        ("QOSNotAllowed", ACCOUNT),
        ("AssocMaxCpuPerJobLimit", CORES),
        ("AssocMaxMemPerJob", MEMORY),
        ("AssocMaxNodePerJobLimit", NODES),
        ("AssocMaxWallDurationPerJobLimit", TIME),
        ("QOSMaxCpuPerJobLimit", CORES),
        ("QOSMaxMemoryPerJob", MEMORY),
        ("QOSMaxNodePerJobLimit", NODES),
        ("QOSMaxWallDurationPerJobLimit", TIME),
        ("QOSMinCpuNotSatisfied", "a job must have more `cores'"),
        ("QOSMinMemory", "a job must have more `memory'"),
    ],
};

const ACCOUNT: &str = "the user's account does not allow it: see `sacctmgr show associations'";
const CORES: &str = "the user's account allows no job so many `cores'";
const MEMORY: &str = "the user's account allows no job so much `memory'";
const NODES: &str = "the user's account allows no job so many nodes";
const TIME: &str = "the user's account allows no job so many minutes: see `job-minutes'";
