//! A head whose pool is a Slurm cluster.

use std::fs;
use std::process::{Child, Command};

use crate::cluster::{Cluster, NodeKind, USER};
use crate::entry::Entry;
use crate::farm::{DAEMON, Farm, HOOK, SYSTEM};
use crate::harness::derivations::Client;
use crate::harness::eventually;
use crate::namespaces::Process;

/// A job that is in the way.
pub struct Others<'a> {
    farm: &'a Farm,
    srun: Child,
}

impl Others<'_> {
    /// Cancels it.
    #[track_caller]
    pub fn end(mut self) {
        let (succeeded, said) = self.farm.try_run("scancel", &["--name=others"]);
        assert!(succeeded, "{said}");
        let _ = self.srun.wait();
    }
}

/// A head and its cluster.
pub struct SlurmFarm {
    pub cluster: Cluster,
    pub farm: Farm,
}

impl SlurmFarm {
    /// A head that builds nothing itself, and a cluster of nodes with this entry.
    pub fn new(nodes: usize, change: impl FnOnce(Entry) -> Entry) -> SlurmFarm {
        let mut slurm = SlurmFarm::stopped(nodes);
        slurm.farm.configure(&[change(slurm.entry())]);
        slurm.farm.start(&["--max-jobs=0"]);
        slurm
    }

    /// The same, with another pool that works, for what the cluster cannot do.
    pub fn with_spare(nodes: usize, change: impl FnOnce(Entry) -> Entry) -> SlurmFarm {
        let mut slurm = SlurmFarm::stopped(nodes);
        let spare = Entry::default()
            .text("name", "spare")
            .list("systems", &[SYSTEM])
            .text("transport", "command")
            .list("command", &[HOOK, "worker"])
            .text("trust", "connection")
            .plain("idle", "0")
            .plain("speed", "0.5");
        slurm.farm.configure(&[change(slurm.entry()), spare]);
        slurm.farm.start(&["--max-jobs=0"]);
        slurm
    }

    /// The same, without a machine file and a daemon.
    pub fn stopped(nodes: usize) -> SlurmFarm {
        SlurmFarm::beside(Farm::with(&[]), &vec![NodeKind::default(); nodes])
    }

    /// A cluster with these nodes for the head of a farm.
    pub fn beside(farm: Farm, kinds: &[NodeKind]) -> SlurmFarm {
        farm.site.for_everybody(DAEMON);
        let cluster = Cluster::start(&farm, kinds);
        SlurmFarm { cluster, farm }
    }

    /// The entry of the cluster, whose jobs are those of an ordinary user.
    pub fn entry(&self) -> Entry {
        let worker = self.farm.site.path("programs/guix-offload");
        Entry::default()
            .text("name", "cluster")
            .list("systems", &[SYSTEM])
            .text("transport", "command")
            .text("scheduler", "slurm")
            .text("worker", worker.to_str().unwrap())
            .text("run-as", USER)
            .text("trust", "connection")
            .plain("parallel-builds", "2")
            .plain("cores", "1")
            .plain("memory", "600")
            .plain("heartbeat", "1")
            .plain("idle", "1")
            .plain("speed", "2.0")
    }

    /// A client that requests offloading.
    pub fn client(&self) -> Client {
        self.farm.client()
    }

    /// Deletes what the hook knows about the cluster.
    pub fn forget(&self) {
        let file = self.farm.offload_directory().join("cluster:22/health.json");
        let _ = fs::remove_file(file);
    }

    /// The node on which a program with this text in its command line runs, once one does.
    #[track_caller]
    pub fn node_of(&self, text: &str) -> usize {
        let runs = |index: &usize| {
            let all = self.cluster.processes(*index);
            all.iter().any(|process| process.line.contains(text))
        };
        let find = || (0..self.cluster.nodes.len()).find(runs);
        assert!(eventually(|| find().is_some()), "`{text}' runs nowhere");
        find().unwrap()
    }

    /// The processes on the head with this program, or with this as their last word.
    pub fn on_head(&self, program: &str) -> Vec<Process> {
        let mut all = self.farm.head_processes();
        all.retain(|process| {
            process.name() == program || process.line.ends_with(&format!(" {program}"))
        });
        all
    }

    /// A job of somebody else that takes the whole of the only node.
    #[track_caller]
    pub fn others(&self) -> Others<'_> {
        let mut command = Command::new("srun");
        command.args(["--immediate", "--cpus-per-task=4", "--job-name=others"]);
        command.args(["--quiet", "/bin/sleep", "1000"]);
        let srun = self.farm.on_head(&command).spawn().unwrap();
        assert_eq!(self.node_of("sleep 1000"), 0);
        Others {
            farm: &self.farm,
            srun,
        }
    }

    /// Checks that all jobs end, and that nothing is left of them on the head and the nodes.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        self.farm.assert_nothing_left();
        self.cluster.assert_nothing_left(&self.farm);
    }
}
