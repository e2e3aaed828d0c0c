//! Jobs are not left behind: clients, hooks, keepers and launchers that are killed.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::harness::derivations::{Building, Client, Script};
use crate::harness::eventually;
use crate::pool_farm::PoolFarm;

/// A build that goes on until it is killed.
fn endless(pool: &PoolFarm, name: &str) -> Building {
    let mut client = pool.client();
    let script = "echo it runs; while true; do sleep 0.1; done";
    let drv = client.write(Script::new(name, script));
    client.start(&[&drv])
}

fn build(client: &mut Client, name: &str) {
    let drv = client.write(Script::new(name, "echo >$out"));
    client.build(&[&drv]).succeeded();
}

/// Kills the process group of the only hook, as daemons do.
fn kill_hook(pool: &PoolFarm) {
    let mut hooks = pool.farm.hooks();
    hooks.retain(|hook| !hook.line.contains(" keeper") && !hook.line.contains(" worker"));
    let group = nix::unistd::getpgid(Some(Pid::from_raw(hooks[0].pid))).unwrap();
    killpg(group, Signal::SIGKILL).unwrap();
}

#[test]
fn a_job_that_nobody_waits_for_is_cancelled() {
    for by_client in [true, false] {
        let pool = PoolFarm::new(|entry| entry);
        pool.set_mode("pending");
        let building = endless(&pool, "x");
        building.wait_for("waiting for a job of 'pool'");
        if by_client {
            building.hang_up();
        } else {
            kill_hook(&pool);
        }
        assert!(eventually(|| !pool.cancelled().is_empty()));
        let name = pool.launched()[0].split(' ').next().unwrap().to_owned();
        assert_eq!(pool.cancelled()[0], name);
        if by_client {
            pool.assert_ends();
            assert_eq!(pool.launched().len(), 1);
        }
    }
}

#[test]
fn a_build_that_nobody_waits_for_ends_and_its_job_stays() {
    let pool = PoolFarm::new(|entry| entry);
    let building = endless(&pool, "x");
    building.wait_for("it runs");
    building.hang_up();
    let builders = || {
        let mut all = crate::namespaces::processes();
        let store = pool.farm.site.store().to_str().unwrap().to_owned();
        all.retain(|process| process.line.contains(&store) && process.line.contains("it runs"));
        all
    };
    assert!(eventually(|| builders().is_empty()), "{:#?}", builders());
    let mut client = pool.client();
    build(&mut client, "next");
    assert_eq!(pool.launched().len(), 1);
    assert!(pool.cancelled().is_empty());
    drop(client);
    pool.assert_nothing_left();
}

#[test]
fn the_job_of_a_keeper_that_was_killed_is_cancelled_by_the_next() {
    let pool = PoolFarm::new(|entry| entry);
    let mut client = pool.client();
    build(&mut client, "first");
    let keepers = pool.keepers();
    assert_eq!(keepers.len(), 1);
    keepers[0].kill();
    // Its command gets a signal, and the worker sees the end of its input.
    assert!(
        eventually(|| pool.workers().is_empty()),
        "{:#?}",
        pool.workers()
    );
    assert!(pool.cancelled().is_empty());
    build(&mut client, "second");
    let name = pool.launched()[0].split(' ').next().unwrap().to_owned();
    assert_eq!(pool.cancelled(), [name]);
    assert_eq!(pool.launched().len(), 2);
    drop(client);
    pool.assert_nothing_left();
}

#[test]
fn a_worker_that_is_lost_fails_the_hook_and_not_the_build() {
    let pool = PoolFarm::new(|entry| entry);
    let building = endless(&pool, "x");
    building.wait_for("it runs");
    for worker in pool.workers() {
        worker.kill();
    }
    building.wait_for("lost 'pool' while building");
    building.hang_up();
    assert_eq!(pool.health()["all_failures"], 1, "{}", pool.health());
    // The directory of a worker that was killed is swept by the next one.
    pool.kill_keepers();
    pool.farm.assert_nothing_left();
}

#[test]
fn a_worker_that_is_silent_is_given_up() {
    let pool = PoolFarm::new(|entry| entry.plain("heartbeat", "1"));
    let building = endless(&pool, "x");
    building.wait_for("it runs");
    let stopped = pool.workers();
    for worker in &stopped {
        worker.stop();
    }
    building.wait_for("nothing was heard of the worker for ");
    building.hang_up();
    // The command and its group are killed, since they ignore the first signal.
    let is_left = |pid: i32| stopped.iter().any(|process| process.pid == pid);
    let left = || pool.workers().iter().any(|process| is_left(process.pid));
    assert!(eventually(|| !left()), "{:#?}", pool.workers());
    pool.kill_keepers();
    pool.farm.assert_nothing_left();
}

#[test]
fn a_worker_that_floods_and_reads_nothing_is_given_up() {
    let pool = PoolFarm::new(|entry| entry.plain("heartbeat", "1"));
    pool.set_mode("deaf");
    let building = endless(&pool, "x");
    building.wait_for("the worker has read nothing for ");
    building.hang_up();
    let left = || pool.workers();
    assert!(eventually(|| left().is_empty()), "{:#?}", left());
    let name = pool.launched()[0].split(' ').next().unwrap().to_owned();
    assert!(eventually(|| pool.cancelled().first() == Some(&name)));
    pool.kill_keepers();
    pool.farm.assert_nothing_left();
}

#[test]
fn a_job_that_could_not_be_cancelled_is_cancelled_by_the_next() {
    let pool = PoolFarm::new(|entry| entry);
    pool.set_mode("pending");
    let refuses = pool.file("refuses");
    std::fs::write(&refuses, "").unwrap();
    let building = endless(&pool, "x");
    building.wait_for("waiting for a job of 'pool'");
    building.hang_up();
    assert!(eventually(
        || pool.keepers().is_empty() && !pool.cancelled().is_empty()
    ));
    let name = pool.launched()[0].split(' ').next().unwrap().to_owned();
    assert_eq!(pool.cancelled(), std::slice::from_ref(&name));
    std::fs::remove_file(&refuses).unwrap();
    pool.set_mode("run");
    let mut client = pool.client();
    build(&mut client, "second");
    assert_eq!(pool.cancelled(), [name.clone(), name]);
    assert_eq!(pool.launched().len(), 2);
    drop(client);
    pool.assert_nothing_left();
}
