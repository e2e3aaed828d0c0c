//! What jobs of Slurm ask for, and what becomes of builds that need more.

use std::time::Duration;

use crate::cluster::NodeKind;
use crate::farm::{Farm, SYSTEM};
use crate::harness::derivations::Script;
use crate::harness::eventually;
use crate::hook_process::HookProcess;
use crate::slurm_farm::SlurmFarm;

impl SlurmFarm {
    /// What `squeue` prints about the only job, in this format.
    fn squeue(&self, format: &str) -> String {
        let format = format!("--format={format}");
        let (_, text) = (self.farm).try_run("squeue", &["--noheader", "--states=RUNNING", &format]);
        text.trim().to_owned()
    }
}

/// A builder that needs so many MiB of memory, and does something then.
fn hungry(name: &str, mib: u32, then: &str) -> Script {
    let bytes = mib << 20;
    let script = format!("x=$(head -c {bytes} /dev/zero | tr '\\0' x); {then}; echo ${{#x}} >$out");
    Script::new(name, &script)
}

#[test]
fn a_job_has_the_memory_of_the_entry_or_of_a_feature() {
    let slurm = SlurmFarm::new(1, |entry| {
        let table = "{ big = [\"--mem=1900M\"] }";
        entry.plain("memory", "300").plain("resources", table)
    });
    let mut client = slurm.client();
    let small = client.write(hungry("small", 350, "echo begun; sleep 1000"));
    let building = client.start(&[&small]);
    building.wait_for("'cluster' ran out of resources while ");
    building.wait_for("exceeded memory limit");
    building.hang_up();
    // (Slurm kills the worker, whose directory waits for the next one there.)
    slurm.farm.assert_nothing_left();
    slurm.cluster.assert_no_jobs(&slurm.farm);

    let mut client = slurm.client();
    // Slurm looks once in a second.
    let big = hungry("big", 350, "echo begun; sleep 4").variable("requiredSystemFeatures", "big");
    let big = client.write(big);
    let building = client.start(&[&big]);
    building.wait_for("begun\n");
    assert_eq!(slurm.squeue("%m"), "1900M");
    let (client, built) = building.finish();
    built.succeeded();
    drop(client);
    slurm.assert_nothing_left();
}

#[test]
fn a_job_lasts_as_long_as_the_client_lets_the_build() {
    let slurm = SlurmFarm::new(1, |entry| entry);
    let mut client = slurm.client();
    // The partition allows an hour; the clients' own limit is a day.
    let quick = client.write(Script::new("quick", "echo >$out"));
    client.build(&[&quick]).succeeded();
    assert_eq!(slurm.squeue("%l"), "1:00:00");
    assert!(eventually(|| slurm.on_head("keeper").is_empty()));

    client.set(|options| options.set("build-timeout", "900"));
    client.set_read_timeout(Duration::from_secs(120));
    let slow = client.write(Script::new("slow", "echo begun; sleep 1000"));
    let building = client.start(&[&slow]);
    building.wait_for("begun\n");
    // A quarter of an hour for the build, and ten minutes for everything else.
    assert_eq!(slurm.squeue("%l"), "25:00");
    // Slurm looks twice in a minute which jobs have lasted long enough.
    let job = format!("JobId={}", slurm.squeue("%i"));
    slurm.farm.run("scontrol", &["update", &job, "EndTime=now"]);
    assert!((0..4).any(|_| eventually(|| building.is_finished())));
    let (client, built) = building.finish();
    built.failed(101, "failed");
    built.said("the job of 'cluster' has lasted as long as it may while ");
    built.said("DUE TO TIME LIMIT");
    drop(client);
    slurm.assert_nothing_left();
}

#[test]
fn what_needs_a_gpu_is_built_on_a_node_that_has_one() {
    let with_gpu = NodeKind {
        has_gpu: true,
        ..NodeKind::default()
    };
    let mut slurm = SlurmFarm::beside(
        Farm::with(&[]),
        &[NodeKind::default(), with_gpu, NodeKind::default()],
    );
    let table = "{ gpu = [\"--gres=gpu:1\"] }";
    let entry = slurm.entry().plain("resources", table);
    slurm.farm.configure(&[entry.plain("parallel-builds", "3")]);
    slurm.farm.start(&["--max-jobs=0"]);
    let mut client = slurm.client();
    let mut drvs = Vec::new();
    for number in 0..3 {
        let script = Script::new(&format!("gpu-{number}"), "echo built; echo >$out");
        drvs.push(client.write(script.variable("requiredSystemFeatures", "gpu")));
    }
    let drvs: Vec<_> = drvs.iter().collect();
    let built = client.build(&drvs);
    built.succeeded();
    built.said(" on node-2)...\n");
    for other in ["node-1", "node-3"] {
        built.did_not_say(&format!(" on {other})"));
    }
    // A feature that means nothing here.
    let mut hook = HookProcess::start(&slurm.farm);
    hook.send(format!("0 {SYSTEM} {} gpu,fpga\n", drvs[0].path));
    assert_eq!(hook.reply(), "decline");
    drop((client, hook));
    slurm.assert_nothing_left();
}

#[test]
fn a_build_that_has_waited_long_enough_goes_elsewhere() {
    let slurm = SlurmFarm::with_spare(1, |entry| entry.plain("queue-limit", "0.05"));
    let others = slurm.others();
    let mut client = slurm.client();
    let drv = client.write(Script::new("x", "echo >$out"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("'cluster' has no room: there is still no job: job ");
    built.said(": Resources (after ");
    built.said("on 'spare' instead");
    // It does not stand in the queue any more.
    let only_others = || {
        let jobs = slurm.cluster.jobs(&slurm.farm);
        jobs.len() == 1 && jobs[0].starts_with("others RUNNING")
    };
    assert!(
        eventually(only_others),
        "{:?}",
        slurm.cluster.jobs(&slurm.farm)
    );
    others.end();
    drop(client);
    slurm.assert_nothing_left();
}
