//! Slurm: `srun`, `scancel` and `squeue`.

use super::preset::Preset;

/// What is known about Slurm.
pub const PRESET: Preset = Preset {
    command: &[
        "srun",
        // Its output would be line-buffered, and what is no line would not arrive.
        "--unbuffered",
        "--quiet",
        "--export=NONE",
        "--propagate=NONE",
        "--chdir=/tmp",
        "--ntasks=1",
        "--job-name={job}",
        "--cpus-per-task={cores}",
        "--mem={memory}",
        "--time={minutes}",
        "--immediate{now}",
        "{options}",
        "{worker}",
    ],
    cancel: &["scancel", "--name={job}"],
    pending: &["squeue", "--noheader", "--name={job}", "--format=%r"],
    busy: &["Requested nodes are busy"],
    unreachable: &["Unable to contact slurm controller"],
    exhausted: &["DUE TO TIME LIMIT", "exceeded memory limit"],
    hopeless: &["PartitionConfig", "PartitionTimeLimit"],
};
