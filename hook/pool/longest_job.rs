//! How long a job may last at most. One that asks for more time than its partition allows waits for
//! ever, so Slurm is asked once for the limits of its partitions. They are remembered for an hour, in
//! the pool's directory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use formats::Hash;
use serde::{Deserialize, Serialize};
use system::clock::unix_time;

use super::plan::Wanted;
use super::scheduler_command;
use super::slurm::{self, Partition};
use crate::directories::HookDirectories;
use crate::machines::{Machine, Pool, Scheduler};

/// The file's name.
const FILE: &str = "partitions.json";
/// For how long limits are remembered, in seconds.
const REMEMBERED: u64 = 3600;
/// How long the scheduler may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What is remembered.
#[derive(Debug, Serialize, Deserialize)]
struct Memory {
    /// A hash of who asked what.
    question: String,
    /// When, in seconds since the epoch.
    asked: u64,
    partitions: Vec<Partition>,
}

/// The longest time limit of a job for a build, in minutes; `None` if there is none, if it is not known,
/// or if the entry has a limit or a command of its own.
pub fn minutes(
    machine: &Machine,
    pool: &Pool,
    directories: &HookDirectories,
    wanted: &Wanted<'_>,
) -> Option<u64> {
    // (Another command may ask another cluster.)
    let is_slurm = pool.scheduler == Some(Scheduler::Slurm) && pool.command.is_none();
    if !is_slurm || pool.job_minutes.is_some() {
        return None;
    }
    let file = directories.of_machine(machine).join(FILE);
    let partitions = remembered(&file, pool).or_else(|| ask(&file, pool))?;
    slurm::longest_job(&partitions, &wanted.options(pool))
}

fn question(pool: &Pool) -> String {
    Hash::sha256(format!("{:?}", (slurm::PARTITIONS, &pool.run_as))).base32()
}

fn remembered(file: &Path, pool: &Pool) -> Option<Vec<Partition>> {
    let memory: Memory = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    // (A clock that was set back makes it old.)
    let is_recent = (0..REMEMBERED).contains(&unix_time().checked_sub(memory.asked)?);
    (is_recent && memory.question == question(pool)).then_some(memory.partitions)
}

/// Asks, and remembers the answer. A scheduler that does not answer will say so when it is asked for the
/// job.
fn ask(file: &Path, pool: &Pool) -> Option<Vec<Partition>> {
    let words: Vec<String> = slurm::PARTITIONS.map(str::to_owned).into();
    let answer = scheduler_command::output(&words, pool.run_as.as_deref(), TIMEOUT).ok()?;
    let partitions = slurm::partitions(&answer);
    if partitions.is_empty() {
        return None;
    }
    let memory = Memory {
        question: question(pool),
        asked: unix_time(),
        partitions,
    };
    // Otherwise, the next one asks again.
    if let Ok(text) = serde_json::to_vec(&memory) {
        let new = file.with_extension(format!("{}.new", std::process::id()));
        if fs::write(&new, text).is_ok() {
            let _ = fs::rename(&new, file);
        }
    }
    Some(memory.partitions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{directories, pool};

    #[test]
    fn what_is_remembered_is_not_asked_again() {
        let (state, directories) = directories();
        let (machine, mut pool) = pool("cluster", &["srun"]);
        pool = Pool {
            scheduler: Some(Scheduler::Slurm),
            command: None,
            ..pool
        };
        let wanted = Wanted {
            name: "x.drv",
            features: &[],
            seconds: 0,
        };
        let file = directories.of_machine(&machine).join(FILE);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let write = |asked, question| {
            let partitions = slurm::partitions("main* 1:00:00\n");
            let memory = Memory {
                question,
                asked,
                partitions,
            };
            fs::write(&file, serde_json::to_vec(&memory).unwrap()).unwrap();
        };
        // (There is no cluster here which could answer.)
        write(unix_time(), question(&pool));
        assert_eq!(minutes(&machine, &pool, &directories, &wanted), Some(60));
        let limited = Pool {
            job_minutes: Some(5),
            ..pool.clone()
        };
        assert_eq!(minutes(&machine, &limited, &directories, &wanted), None);
        write(unix_time() - REMEMBERED, question(&pool));
        assert!(remembered(&file, &pool).is_none());
        write(unix_time() + 60, question(&pool));
        assert!(remembered(&file, &pool).is_none());
        write(unix_time(), "something else".to_owned());
        assert!(remembered(&file, &pool).is_none());
        fs::write(&file, "{").unwrap();
        assert!(remembered(&file, &pool).is_none());
        drop(state);
    }
}
