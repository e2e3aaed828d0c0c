//! Builds through a real Slurm cluster.

use crate::harness::derivations::Script;
use crate::harness::{eventually, is_ours};
use crate::slurm_farm::SlurmFarm;

fn simple(name: &str) -> Script {
    Script::new(name, "echo built by $(id -u); echo contents >$out")
}

#[test]
fn builds_get_a_job_of_slurm_which_is_kept() {
    let slurm = SlurmFarm::new(2, |entry| entry.plain("idle", "60"));
    let mut client = slurm.client();
    let first = client.write(simple("first"));
    let built = client.build(&[&first]);
    built.succeeded();
    built.said(" on node-1)...\n");
    built.said("done with offloaded");
    let text = std::fs::read_to_string(first.out().as_str()).unwrap();
    assert_eq!(text, "contents\n");
    let jobs = slurm.cluster.jobs(&slurm.farm);
    assert!(
        jobs.len() == 1 && jobs[0].starts_with("guix-cluster-0-") && jobs[0].contains(" RUNNING "),
        "{jobs:?}"
    );
    // The same job, and what was built there is there.
    let script = format!("cat {} >$out", first.out());
    let second = client.write(Script::new("second", &script).input(&first, "out"));
    client.build(&[&second]).succeeded();
    assert_eq!(slurm.cluster.jobs(&slurm.farm), jobs);
    let bad = client.write(Script::new("bad", "echo so it is; exit 3"));
    let built = client.build(&[&bad]);
    built.failed(100, "failed");
    built.said("so it is\n");
    drop(client);
    for keeper in slurm.on_head("keeper") {
        keeper.kill();
    }
    // (Slurm kills the worker then, whose directory waits for the next one there.)
    slurm.farm.assert_nothing_left();
    slurm.cluster.assert_no_jobs(&slurm.farm);
}

#[test]
fn a_build_waits_for_room_and_says_why() {
    let slurm = SlurmFarm::new(1, |entry| entry);
    let others = slurm.others();
    let mut client = slurm.client();
    let drv = client.write(simple("x"));
    let building = client.start(&[&drv]);
    building.wait_for(": Resources");
    others.end();
    let (_, built) = building.finish();
    built.succeeded();
    slurm.assert_nothing_left();
}

#[test]
fn with_queue_now_a_build_waits_in_no_queue() {
    let slurm = SlurmFarm::new(1, |entry| entry.text("queue", "now"));
    let others = slurm.others();
    let mut client = slurm.client();
    let drv = client.write(simple("x"));
    let building = client.start(&[&drv]);
    building.wait_for("Requested nodes are busy");
    let jobs = slurm.cluster.jobs(&slurm.farm);
    assert!(!jobs.iter().any(|job| job.contains("PENDING")), "{jobs:?}");
    others.end();
    building.finish().1.succeeded();
    slurm.assert_nothing_left();
}

#[test]
fn what_the_cluster_can_never_do_is_done_elsewhere() {
    for (field, value, words) in [
        (
            "cores",
            "99",
            "PartitionConfig (no node of the partition has what a job asks for",
        ),
        ("job-minutes", "61", "Partition"),
        (
            "options",
            "[\"--partition=closed\"]",
            "not permitted to use this partition",
        ),
        ("options", "[\"--partition=nowhere\"]", "nvalid partition"),
    ] {
        let slurm = SlurmFarm::with_spare(1, |entry| entry.plain(field, value));
        let mut client = slurm.client();
        let drv = client.write(simple("x"));
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said(words);
        built.said("on 'spare' instead");
        drop(client);
        slurm.assert_nothing_left();
    }
}

#[test]
fn a_node_that_is_lost_while_building_is_replaced() {
    for switched_off in [true, false] {
        let mut slurm = SlurmFarm::new(2, |entry| entry);
        let mut client = slurm.client();
        let script = "echo begun; sleep 8.125; echo contents >$out";
        let drv = client.write(Script::new("slow", script));
        let building = client.start(&[&drv]);
        building.wait_for("begun\n");
        let node = slurm.node_of("sleep 8.125");
        match switched_off {
            true => slurm.cluster.switch_off(node),
            false => slurm.cluster.set_cable(node, false),
        }
        let ended = eventually(|| {
            // Nobody else is there to take it: the daemon asks again.
            slurm.forget();
            building.is_finished()
        });
        assert!(ended, "{}", building.said());
        let built = building.finish().1;
        if is_ours() {
            built.succeeded();
        } else {
            // Guix's daemon asks no hook a second time.
            let said = "nothing was heard of the worker";
            assert!(
                built.result.is_err() && built.log.contains(said),
                "{built:?}"
            );
        }
        match switched_off {
            true => slurm.cluster.switch_on(node),
            false => slurm.cluster.set_cable(node, true),
        }
        slurm.cluster.wait_until_idle(&slurm.farm);
        slurm.farm.assert_nothing_left();
        if !switched_off {
            // The worker there has noticed by itself.
            slurm.cluster.assert_nothing_left(&slurm.farm);
        }
    }
}

#[test]
fn without_a_controller_others_build() {
    let mut slurm = SlurmFarm::with_spare(1, |entry| entry);
    slurm.cluster.kill_controller();
    let mut client = slurm.client();
    let drv = client.write(simple("x"));
    let building = client.start(&[&drv]);
    building.wait_for("on 'spare' instead");
    let (_, built) = building.finish();
    built.succeeded();
    built.said("its scheduler does not answer");
    slurm.cluster.start_controller();
    slurm.cluster.wait_until_idle(&slurm.farm);
    slurm.assert_nothing_left();
}
