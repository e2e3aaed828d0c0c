//! Slurm: `srun`, `scancel` and `squeue`. `tests/offload/slurm_words.rs` has a real cluster say all of
//! the words that can be had from one without accounts.

use serde::{Deserialize, Serialize};

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
    // That there is no such job is no error. Other users' jobs may have the same name: Slurm's administrators
    // could end them, and what they wait for says nothing of ours.
    cancel: &["scancel", "--quiet", "--user={user}", "--name={job}"],
    pending: &[
        "squeue",
        "--noheader",
        "--user={user}",
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
    exhausted: &["exceeded memory limit", "oom-kill", "oom_kill"],
    out_of_time: &["DUE TO TIME LIMIT"],
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

/// The command that prints the partitions, each with its time limit.
pub const PARTITIONS: [&str; 4] = ["sinfo", "--noheader", "--all", "--format=%P %l"];

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    name: String,
    /// Whether jobs go there that name none.
    is_default: bool,
    /// The longest time limit of its jobs, in minutes; `None`: any.
    minutes: Option<u64>,
}

/// What [`PARTITIONS`] has printed; lines that are something else are skipped.
pub fn partitions(answer: &str) -> Vec<Partition> {
    let parse = |line: &str| {
        let (name, limit) = line.trim().rsplit_once(' ')?;
        let minutes = match limit {
            "infinite" | "UNLIMITED" => None,
            time => Some(minutes(time)?),
        };
        Some(Partition {
            name: name.trim_end_matches('*').to_owned(),
            is_default: name.ends_with('*'),
            minutes,
        })
    };
    answer.lines().filter_map(parse).collect()
}

/// The minutes of a time as Slurm prints it: `3-00:00:00`, `1:00:00` or `30:00`.
fn minutes(time: &str) -> Option<u64> {
    let (days, time) = match time.split_once('-') {
        Some((days, time)) => (days.parse().ok()?, time),
        None => (0, time),
    };
    let parts: Option<Vec<u64>> = time.split(':').map(|part| part.parse().ok()).collect();
    let (hours, minutes) = match parts?[..] {
        [hours, minutes, _] => (hours, minutes),
        [minutes, _] => (0, minutes),
        _ => return None,
    };
    let hours = 24_u64.checked_mul(days)?.checked_add(hours)?;
    hours.checked_mul(60)?.checked_add(minutes)
}

/// The longest time limit of a job with these options, in minutes: that of the partition that they name,
/// or of the one of several that allows most. `None`: any, or unknown.
pub fn longest_job(partitions: &[Partition], options: &[String]) -> Option<u64> {
    let named = named_partitions(options);
    let is_meant = |partition: &&Partition| match named {
        Some(names) => names.split(',').any(|name| name == partition.name),
        None => partition.is_default,
    };
    let mut longest = Some(0);
    for partition in partitions.iter().filter(is_meant) {
        // One without limit allows most.
        longest = longest.and_then(|most: u64| Some(most.max(partition.minutes?)));
    }
    longest.filter(|minutes| *minutes > 0)
}

/// The partitions that options of `srun` name: the last one counts.
fn named_partitions(options: &[String]) -> Option<&str> {
    let at = |index: usize| {
        let word = options[index].as_str();
        match word {
            "-p" | "--partition" => options.get(index + 1).map(String::as_str),
            _ => word
                .strip_prefix("--partition=")
                .or_else(|| word.strip_prefix("-p")),
        }
    };
    (0..options.len()).rev().find_map(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANSWER: &str = "main* 1:00:00\nlong 3-12:00:00\nshort 30:00\nfree infinite\nsinfo: hm\n";

    fn longest(options: &[&str]) -> Option<u64> {
        let options: Vec<String> = options.iter().map(|word| (*word).to_owned()).collect();
        longest_job(&partitions(ANSWER), &options)
    }

    #[test]
    fn the_limit_is_that_of_the_partition_that_is_asked_for() {
        assert_eq!(longest(&[]), Some(60));
        assert_eq!(longest(&["--mem=1G", "--partition=short"]), Some(30));
        assert_eq!(longest(&["-p", "long"]), Some(84 * 60));
        assert_eq!(longest(&["-pshort"]), Some(30));
        assert_eq!(longest(&["--partition", "short,main"]), Some(60));
        assert_eq!(longest(&["-pshort,free"]), None);
        // Those of a feature come later.
        assert_eq!(longest(&["-p", "free", "-p", "main"]), Some(60));
        assert_eq!(longest(&["--partition=nowhere"]), None);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        assert_eq!(partitions("slurm_load_partitions: Unable to contact\n"), []);
        assert_eq!(partitions("main n/a\nmain 5\nmain 1:x:0\nmain\n"), []);
        assert_eq!(partitions("main 99999999999999999999-00:00:00"), []);
        assert_eq!(partitions("main 18446744073709551615-00:00:00"), []);
    }

    proptest! {
        /// Slurm's times are read as they were meant.
        #[test]
        fn times_are_read(days in 0_u64..1000, hours in 0_u64..24, minutes in 1_u64..60) {
            let text = match (days, hours) {
                (0, 0) => format!("{minutes}:00"),
                (0, hours) => format!("{hours}:{minutes:02}:00"),
                _ => format!("{days}-{hours:02}:{minutes:02}:00"),
            };
            let expected = (days * 24 + hours) * 60 + minutes;
            prop_assert_eq!(super::minutes(&text), Some(expected));
        }

        #[test]
        fn nothing_that_is_printed_does_harm(text in "[ -~\n]{0,200}") {
            longest_job(&partitions(&text), &[]);
        }
    }
}
