//! What a keeper is told about its job.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use formats::Hash;
use serde::{Deserialize, Serialize};

use super::command_line::{Values, expand};
use super::job_name;
use super::program;
use super::templates::{Signs, Templates};
use crate::directories::HookDirectories;
use crate::frames::{Compression, KeeperHello, StoreIdentity, VERSION};
use crate::machines::{Machine, Pool, Queue};

/// After how many periods without a sign of life a side is lost.
const PERIODS_UNTIL_LOST: u64 = 6;

/// What a build needs of its job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// A hash of the pool's entry: jobs of an entry that was edited are not used.
    pub entry: String,
    /// The words for the features that are required.
    pub features: Vec<Vec<String>>,
    /// How many seconds the build may last; 0: any time.
    pub seconds: u64,
}

/// What is to be built.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The name of the derivation.
    pub name: &'a str,
    /// The features that it requires.
    pub features: &'a [String],
    /// Its time limit in seconds; 0: none.
    pub seconds: u64,
}

impl Wanted<'_> {
    /// The words for the features that it requires, of those that the pool has words for.
    fn feature_words(&self, pool: &Pool) -> Vec<Vec<String>> {
        let words = |feature| pool.resources.get(feature).cloned();
        self.features.iter().filter_map(words).collect()
    }

    /// All words for `{options}`.
    pub(super) fn options(&self, pool: &Pool) -> Vec<String> {
        [pool.options.clone(), self.feature_words(pool).concat()].concat()
    }
}

/// One job of a pool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The directory of its slots.
    pub directory: PathBuf,
    /// The number of the slot.
    pub slot: u32,
    /// The name of the job.
    pub job: String,
    /// What the build for which it is started needs.
    pub needs: Needs,
    /// The command whose standard input and output reach the worker.
    pub command: Vec<String>,
    /// The command that says why the job waits; may be empty.
    pub pending: Vec<String>,
    /// The command that ends the job; may be empty.
    pub cancel: Vec<String>,
    /// What the scheduler says.
    pub signs: Signs,
    /// The user as whom these commands run; `None`: ours.
    pub run_as: Option<String>,
    /// The time limit of the job in seconds, if it has one.
    pub limit: Option<u64>,
    /// For how many seconds it is kept without a build.
    pub idle: u64,
    /// What the worker is told.
    pub hello: KeeperHello,
}

impl Plan {
    /// The job for a build in a slot of a pool whose jobs may last so many minutes, if that is known.
    pub fn new(
        machine: &Machine,
        pool: &Pool,
        directories: &HookDirectories,
        slot: u32,
        wanted: &Wanted<'_>,
        longest: Option<u64>,
    ) -> io::Result<Plan> {
        let directory = directories.of_machine(machine);
        let templates = Templates::of(pool);
        let minutes = match (pool.job_minutes, wanted.seconds) {
            (Some(minutes), _) => Some(u64::from(minutes)),
            (None, 0) => longest,
            (None, seconds) => Some(job_minutes(seconds).min(longest.unwrap_or(u64::MAX))),
        };
        let job = job_name::of(machine, directories, slot)?;
        let values = Values {
            cores: machine.cores.filter(|cores| *cores > 0),
            minutes,
            memory: pool.memory,
            slot,
            job: job.clone(),
            user: match &pool.run_as {
                Some(name) => name.clone(),
                None => system::ids::user_name(system::ids::effective_uid()),
            },
            name: wanted.name.to_owned(),
            worker: worker(pool)?,
            options: wanted.options(pool),
            now: pool.queue == Queue::Now,
        };
        let heartbeat_ms = u64::from(pool.heartbeat) * 1000;
        let store = directories.store.as_path();
        let entry = format!("{:?}", (pool, machine.cores, machine.transfer_compression));
        Ok(Plan {
            slot,
            needs: Needs {
                entry: Hash::sha256(entry).base32(),
                features: wanted.feature_words(pool),
                seconds: wanted.seconds,
            },
            command: expand(&templates.command, &values),
            pending: expand(&templates.pending, &values),
            cancel: expand(&templates.cancel, &values),
            signs: templates.signs,
            run_as: pool.run_as.clone(),
            limit: minutes.map(|minutes| minutes * 60),
            idle: pool.idle.into(),
            hello: KeeperHello {
                version: VERSION,
                pool: machine.name.clone(),
                store: directories.store.to_string(),
                // Without it, the worker's daemon is still found to be ours by its roots.
                store_identity: StoreIdentity::of(store).ok(),
                key: fs::read_to_string(directories.configuration.join("signing-key.pub")).ok(),
                cores: machine.cores.unwrap_or(0),
                max_jobs: 1,
                compression: match machine.transfer_compression {
                    Some(_) => Compression::Zstd,
                    None => Compression::None,
                },
                heartbeat_ms,
                lost_ms: heartbeat_ms * PERIODS_UNTIL_LOST,
            },
            directory,
            job,
        })
    }

    /// A file of its slot.
    pub fn file(&self, suffix: &str) -> PathBuf {
        slot_file(&self.directory, self.slot, suffix)
    }

    /// Whether its job will do for a build, when it has run for some seconds.
    pub fn will_do(&self, needs: &Needs, seconds: u64) -> bool {
        let has = |words: &Vec<String>| self.needs.features.contains(words);
        self.needs.entry == needs.entry
            && needs.features.iter().all(has)
            && match self.limit {
                None => true,
                Some(limit) => {
                    // A build that may last longer than any job gets half of one, at least.
                    let needed = match needs.seconds {
                        0 => limit / 2,
                        needed => needed.min(limit / 2),
                    };
                    limit.saturating_sub(seconds) >= needed
                }
            }
    }
}

/// A file of a slot: `N.SUFFIX`.
pub fn slot_file(directory: &Path, slot: u32, suffix: &str) -> PathBuf {
    directory.join(format!("{slot}.{suffix}"))
}

/// The time limit of a job for a build that may last so many seconds: there is something to do before
/// and after it.
fn job_minutes(seconds: u64) -> u64 {
    seconds.div_ceil(60).saturating_add(10)
}

/// The worker's command line.
fn worker(pool: &Pool) -> io::Result<Vec<String>> {
    let program = match &pool.worker {
        Some(program) => program.clone(),
        None => program::find()?.to_string_lossy().into_owned(),
    };
    let key = (pool.worker_key.iter()).map(|names| format!("--key={names}"));
    Ok([program, "worker".to_owned()]
        .into_iter()
        .chain(key)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{directories, pool};

    fn plan(minutes: Option<u32>, wanted: &Wanted<'_>) -> Plan {
        limited_plan(minutes, wanted, None)
    }

    fn limited_plan(minutes: Option<u32>, wanted: &Wanted<'_>, longest: Option<u64>) -> Plan {
        let (_state, directories) = directories();
        let (machine, mut pool) = pool("cluster", &["srun", "--time={minutes}", "{options}"]);
        pool.job_minutes = minutes;
        pool.worker = Some("/bin/guix-offload".to_owned());
        let row = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        pool.resources
            .insert("gpu".to_owned(), row(&["--gres=gpu:1"]));
        pool.resources.insert("big".to_owned(), row(&["-p", "big"]));
        Plan::new(&machine, &pool, &directories, 2, wanted, longest).unwrap()
    }

    const PLAIN: Wanted<'static> = Wanted {
        name: "x.drv",
        features: &[],
        seconds: 0,
    };

    #[test]
    fn features_and_limits_become_words() {
        let features = ["gpu".to_owned(), "kvm".to_owned()];
        let wanted = Wanted {
            features: &features,
            seconds: 3601,
            ..PLAIN
        };
        let of_build = plan(None, &wanted);
        assert_eq!(of_build.command, ["srun", "--time=71", "--gres=gpu:1"]);
        assert_eq!(plan(Some(240), &wanted).command[1], "--time=240");
        assert_eq!(plan(None, &PLAIN).command, ["srun"]);
        assert!(
            of_build.job.starts_with("guix-cluster-2-"),
            "{}",
            of_build.job
        );
    }

    #[test]
    fn no_job_asks_for_more_time_than_there_is() {
        let wanted = |seconds| Wanted { seconds, ..PLAIN };
        for (seconds, longest, time) in [
            (86_400, None, "--time=1450"),
            (86_400, Some(60), "--time=60"),
            (600, Some(60), "--time=20"),
            // All that there is, rather than the partition's default.
            (0, Some(60), "--time=60"),
            (u64::MAX, Some(60), "--time=60"),
        ] {
            let job = limited_plan(None, &wanted(seconds), longest);
            assert_eq!(job.command[1], time, "{seconds}, {longest:?}");
        }
        let job = limited_plan(None, &wanted(86_400), Some(60));
        assert_eq!(job.limit, Some(3600));
        assert!(job.will_do(&job.needs, 1800) && !job.will_do(&job.needs, 1801));
    }

    #[test]
    fn a_job_will_do_if_it_has_all_that_is_needed() {
        let (gpu, big) = (["gpu".to_owned()], ["big".to_owned()]);
        let with = |features, seconds| Wanted {
            features,
            seconds,
            ..PLAIN
        };
        let job = plan(Some(60), &with(&gpu, 600));
        let will_do = |features, seconds, age| {
            let other = plan(Some(60), &with(features, seconds));
            job.will_do(&other.needs, age)
        };
        assert!(will_do(&gpu, 600, 0) && will_do(&[], 600, 0));
        assert!(!will_do(&big, 600, 0));
        assert!(will_do(&[], 600, 3000) && !will_do(&[], 600, 3001));
        // Longer than half a job, or without limit.
        for seconds in [0, 86400] {
            assert!(will_do(&[], seconds, 1800) && !will_do(&[], seconds, 1801));
        }
        // An edited entry.
        assert!(!job.will_do(&plan(Some(61), &with(&gpu, 600)).needs, 0));
    }
}
