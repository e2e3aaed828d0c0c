//! Builds through Slurm, while everything that takes part in them but the builder is killed at random,
//! whatever a build is doing: no job, process or directory is left, and every build ends well.
//!
//! `GUIX_TEST_ROUNDS=100` makes it do more. The seed is printed; `GUIX_TEST_SEED` repeats it.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use protocol::operations::GcAction;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::cable::seed;
use crate::harness::derivations::Script;
use crate::harness::{eventually, is_ours, program};
use crate::slurm_farm::SlurmFarm;

const ROUNDS: u32 = 10;
const NODES: usize = 2;

/// Has something happen; returns what.
fn break_something(slurm: &mut SlurmFarm, random: &mut StdRng) -> &'static str {
    let node = random.random_range(0..NODES);
    match random.random_range(0..9) {
        0 => {
            slurm.cluster.switch_off(node);
            std::thread::sleep(Duration::from_millis(300));
            slurm.cluster.switch_on(node);
            "node"
        }
        1 => {
            slurm.cluster.set_cable(node, false);
            std::thread::sleep(Duration::from_secs(random.random_range(0..9)));
            slurm.cluster.set_cable(node, true);
            "cable"
        }
        2 => {
            slurm.cluster.end_controller(Signal::SIGTERM);
            slurm.cluster.start_controller();
            "controller"
        }
        3 => {
            let mut daemon = slurm.farm.daemon.take().unwrap();
            daemon.signal(Signal::SIGKILL);
            daemon.wait();
            drop(daemon);
            slurm.farm.start_program(&program(), &["--max-jobs=1"]);
            "daemon"
        }
        number => {
            let name =
                ["keeper", "srun", "guix-offload", "worker", "guix-offload"][number as usize - 4];
            let mut victims = slurm.on_head(name);
            if name == "worker" {
                victims = slurm.cluster.processes(node);
                // Neither a builder nor what forks it: a build whose own processes are killed has failed.
                victims.retain(|process| ["guix-offload", "guix-daemon"].contains(&process.name()));
            }
            if name == "guix-offload" {
                victims.retain(|process| !process.line.ends_with(" keeper"));
            }
            match victims.choose(random) {
                Some(victim) => victim.kill(),
                None => return "nothing",
            }
            name
        }
    }
}

#[test]
fn whatever_is_killed_no_job_is_left() {
    if !is_ours() {
        return; // a hook that is killed is the end of the build
    }
    let rounds = std::env::var("GUIX_TEST_ROUNDS");
    let rounds = rounds.map_or(ROUNDS, |number| number.parse().unwrap());
    let mut random = StdRng::seed_from_u64(seed());
    let mut slurm = SlurmFarm::stopped(NODES);
    slurm.farm.configure(&[slurm.entry()]);
    slurm.farm.start_program(&program(), &["--max-jobs=1"]);
    let mut counts = BTreeMap::<&str, u32>::new();
    for round in 0..rounds {
        let data = "x".repeat(random.random_range(0..3_000_000));
        let pause = Duration::from_millis(random.random_range(0..3000));
        let mut tries = 0;
        loop {
            let mut client = slurm.client();
            client.set_read_timeout(Duration::from_secs(120));
            let item = client.text("data", &data, &[]);
            let script = format!("echo begun; sleep 1; cat {item} >$out");
            let drv = client.write(Script::new(&format!("x-{round}"), &script).source(&item));
            let building = client.start(&[&drv]);
            if tries == 0 {
                std::thread::sleep(pause);
                let what = break_something(&mut slurm, &mut random);
                println!("round {round}: {what} after {pause:?}");
                *counts.entry(what).or_default() += 1;
            }
            let mut waited = 0;
            while !building.is_finished() {
                waited += 1;
                assert!(waited < 1200, "round {round}: {}", building.said());
                // So that nobody has to wait until the cluster is used again.
                slurm.forget();
                std::thread::sleep(Duration::from_millis(100));
            }
            let (_, built) = building.finish();
            tries += 1;
            match built.result {
                // The daemon was killed.
                Err((_, 0)) if tries == 1 => continue,
                _ => break built.succeeded(),
            }
        }
    }
    println!("{counts:?}");
    // What a node had left when it was switched off is removed by the next worker there.
    slurm.cluster.wait_until_idle(&slurm.farm);
    for node in 1..=NODES {
        slurm.forget();
        let option = format!("--nodelist=node-{node}");
        let entry = slurm.entry().list("options", &[&option]);
        slurm.farm.configure(&[entry]);
        let mut client = slurm.client();
        let last = client.write(Script::new(&format!("last-{node}"), "echo >$out"));
        let built = client.build(&[&last]);
        built.succeeded();
        built.said("done with offloaded ");
    }
    assert!(eventually(|| slurm.on_head("keeper").is_empty()));
    // A daemon that is killed while outputs arrive leaves a directory, which the collector removes.
    let mut client = slurm.client();
    let collected = (client.connection).collect_garbage(
        GcAction::DeleteDead,
        Default::default(),
        u64::MAX,
        &mut |_| {},
    );
    collected.unwrap();
    drop(client);
    slurm.assert_nothing_left();
}
