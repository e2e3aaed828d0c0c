//! A head with a Slurm cluster, and with as many machines that it reaches by SSH.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use formats::StorePath;
use formats::hash::Algorithm;
use formats::nar::Sink;
use hook::machines::{Pool, Scheduler};
use hook::pool::command_line::{Values, expand};
use hook::pool::templates::Templates;

use crate::cluster::{NodeKind, USER};
use crate::entry::Entry;
use crate::farm::Farm;
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::eventually;
use crate::machine::Kind;
use crate::slurm_farm::SlurmFarm;

/// How many nodes the cluster has, and how many machines there are besides.
pub const NODES: usize = 4;
/// How many builds each of them takes at a time.
pub const BUILDS_PER_NODE: usize = 2;
/// How long a daemon may be silent.
const SILENCE: Duration = Duration::from_secs(1800);

/// A head, its cluster and its machines.
pub struct Site(SlurmFarm);

impl Site {
    /// Starts everything.
    pub fn start() -> Site {
        let mut farm = Farm::with(&vec![Kind::default(); NODES]);
        farm.start(&["--max-jobs=0"]);
        Site(SlurmFarm::beside(farm, &vec![NodeKind::default(); NODES]))
    }

    /// From now on, builds go to jobs, which are kept for so many seconds.
    pub fn use_slurm(&self, idle: u32, change: impl FnOnce(Entry) -> Entry) {
        let jobs = NODES * BUILDS_PER_NODE;
        let entry = (self.0.entry())
            .plain("parallel-builds", &jobs.to_string())
            .plain("job-minutes", "30")
            .plain("heartbeat", "5")
            .plain("idle", &idle.to_string());
        self.0.farm.configure(&[change(entry)]);
    }

    /// From now on, builds go to the first machines.
    pub fn use_ssh(&self, machines: usize) {
        let entries: Vec<Entry> = (0..machines)
            .map(|index| self.0.farm.entry(index))
            .collect();
        self.0.farm.configure(&entries);
    }

    /// Ends all jobs, so that the cluster is idle, and nothing is known about it.
    pub fn end_jobs(&self) {
        let farm = &self.0.farm;
        let (succeeded, said) = farm.try_run("scancel", &["--user", USER]);
        assert!(succeeded, "{said}");
        assert!(eventually(|| self.0.on_head("keeper").is_empty()));
        self.0.cluster.assert_no_jobs(farm);
        self.0.cluster.wait_until_idle(farm);
        self.0.forget();
    }

    /// Ends the shared connections to machines, and has all forget and delete what they had.
    pub fn end_connections(&self) {
        let farm = &self.0.farm;
        farm.end_masters();
        for (index, machine) in farm.machines.iter().enumerate() {
            machine.collect_garbage(&farm.site);
            let directory = format!("build-{}:22", index + 1);
            let _ = fs::remove_dir_all(farm.offload_directory().join(directory));
        }
    }

    /// A client that requests offloading.
    pub fn client(&self) -> Client {
        let client = self.0.client();
        client.set_read_timeout(SILENCE);
        client
    }

    /// The time of building some trivial derivations, of new names, each of which needs `sources`.
    pub fn build(&self, name: &str, count: usize, sources: &[StorePath]) -> Duration {
        let mut client = self.client();
        let drvs: Vec<Drv> = (0..count)
            .map(|number| {
                let script = Script::new(&format!("{name}-{number}"), "echo word >$out");
                client.write(sources.iter().fold(script, Script::source))
            })
            .collect();
        let drvs: Vec<&Drv> = drvs.iter().collect();
        let begun = Instant::now();
        let built = client.build(&drvs);
        let time = begun.elapsed();
        built.succeeded();
        time
    }

    /// Adds items to the head's store.
    pub fn add(&self, count: u64, size: u64, contents: &mut dyn Read) -> Vec<StorePath> {
        let mut client = self.client();
        let mut add = || {
            let added = (client.connection).add_to_store("item", true, Algorithm::Sha256, |to| {
                to.regular(false, size, contents)
            });
            added.unwrap()
        };
        (0..count).map(|_| add()).collect()
    }

    /// The words with which our hook has Slurm run a program.
    fn words(program: &[&str]) -> Vec<String> {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let templates = Templates::of(&Pool {
            scheduler: Some(Scheduler::Slurm),
            ..Pool::default()
        });
        let values = Values {
            cores: Some(1),
            memory: Some(600),
            job: "bench".to_owned(),
            user: USER.to_owned(),
            worker: owned(program),
            ..Values::default()
        };
        expand(&templates.command, &values)
    }

    /// The time of a job that does nothing.
    pub fn trivial_job(&self) -> Duration {
        let words = Site::words(&["/bin/true"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let begun = Instant::now();
        self.0.farm.run(words[0], &words[1..]);
        begun.elapsed()
    }

    /// The time in which a job that has begun writes data to a file.
    pub fn cat(&self, size: u64, contents: &mut dyn Read) -> Duration {
        let script = "echo begun; cat >/tmp/cat; wc -c </tmp/cat; rm /tmp/cat";
        let words = Site::words(&["/bin/sh", "-c", script]);
        let mut command = self.0.farm.site.command(&words[0]);
        command.args(&words[1..]);
        let mut job = (self.0.farm.on_head(&command))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(job.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "begun");
        let mut input = job.stdin.take().unwrap();
        // `srun' compresses nothing, so the same again is as good as something else.
        let mut piece = vec![0; 16 << 20];
        contents.read_exact(&mut piece).unwrap();
        let begun = Instant::now();
        for _ in 0..size / piece.len() as u64 {
            input.write_all(&piece).unwrap();
        }
        drop(input);
        let count = lines.next().unwrap().unwrap();
        let time = begun.elapsed();
        assert_eq!(count.trim(), size.to_string());
        assert!(job.wait().unwrap().success());
        time
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end_jobs();
        }
    }
}
