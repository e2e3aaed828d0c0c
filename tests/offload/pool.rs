//! Pools: builds in jobs, the jobs that are kept, and those that are not had.

use crate::entry::Entry;
use crate::farm::CLIENT;
use crate::harness::derivations::{Drv, Script};
use crate::harness::eventually;
use crate::hook_process::HookProcess;
use crate::pool_farm::PoolFarm;

fn simple(name: &str) -> Script {
    Script::new(name, "echo built here; echo contents >$out")
}

#[test]
fn a_build_gets_a_job_and_the_next_one_the_same() {
    let pool = PoolFarm::new(|entry| entry);
    let mut client = pool.client();
    let first = client.write(simple("first"));
    let built = client.build(&[&first]);
    built.succeeded();
    built.said("built here\n");
    built.said("to 'pool' (on ");
    built.said("done with offloaded");
    let text = std::fs::read_to_string(first.out().as_str()).unwrap();
    assert_eq!(text, "contents\n");
    let script = format!("cat {} >$out", first.out());
    let second = client.write(Script::new("second", &script).input(&first, "out"));
    client.build(&[&second]).succeeded();
    assert_eq!(pool.launched().len(), 1, "{:?}", pool.launched());
    assert_eq!(pool.keepers().len(), 1);
    drop(client);
    pool.assert_nothing_left();
}

#[test]
fn a_job_ends_when_it_is_idle() {
    for (idle, jobs) in [("0", 2), ("1", 1)] {
        let pool = PoolFarm::new(|entry| entry.plain("idle", idle));
        let mut client = pool.client();
        for name in ["first", "second"] {
            let drv = client.write(simple(name));
            client.build(&[&drv]).succeeded();
            if idle == "0" {
                assert!(eventually(|| pool.workers().is_empty()));
            }
        }
        assert_eq!(pool.launched().len(), jobs);
        drop(client);
        pool.assert_ends();
        // The command that ends jobs is run for each, in case that it has outlived its command.
        assert_eq!(pool.cancelled().len(), jobs);
    }
}

#[test]
fn many_builds_use_as_many_jobs_as_there_are_slots() {
    let pool = PoolFarm::new(|entry| entry.plain("parallel-builds", "3"));
    let mut client = pool.client();
    let drvs: Vec<Drv> = (0..20)
        .map(|number| client.write(simple(&format!("build-{number}"))))
        .collect();
    let (mut client, built) = client.start(&drvs.iter().collect::<Vec<_>>()).finish();
    built.succeeded();
    for drv in &drvs {
        assert!(client.is_valid(drv.out()));
    }
    let jobs = pool.launched().len();
    assert!((1..=3).contains(&jobs), "{jobs} jobs");
    drop(client);
    pool.assert_nothing_left();
}

#[test]
fn greetings_of_profiles_are_skipped_and_builds_that_fail_fail() {
    let pool = PoolFarm::new(|entry| entry);
    pool.set_mode("banner");
    let mut client = pool.client();
    let drv = client.write(simple("x"));
    client.build(&[&drv]).succeeded();
    let failing = client.write(Script::new("failing", "echo so it is; exit 3"));
    let built = client.build(&[&failing]);
    built.failed(100, "failed");
    built.said("so it is\n");
    assert_eq!(pool.launched().len(), 1);
    assert_eq!(pool.health()["all_failures"], 0);
    assert_eq!(pool.health()["failed_builds"], 1);
    drop(client);
    pool.assert_nothing_left();
}

/// A pool that fails, and another one that works.
fn two_pools(mode: &str) -> PoolFarm {
    let pool = PoolFarm::stopped();
    let works = Entry::default()
        .text("name", "spare")
        .list("systems", &[crate::farm::SYSTEM])
        .text("transport", "command")
        .list("command", &[crate::farm::HOOK, "worker"])
        .text("trust", "connection")
        .plain("speed", "0.5");
    // Its scheduler's words are known, though it has other commands.
    pool.farm
        .configure(&[pool.entry().text("scheduler", "slurm"), works]);
    pool.set_mode(mode);
    let mut farm = pool.farm;
    farm.start(&["--max-jobs=0"]);
    PoolFarm { farm }
}

#[test]
fn a_pool_that_cannot_work_is_replaced_with_its_own_words() {
    for (mode, words) in [
        (
            "wrong",
            "failed to get a worker of 'pool': srun: error: invalid partition specified: x",
        ),
        (
            "version",
            "it speaks version 99 of the worker's protocol; here is version 2",
        ),
        (
            "noise",
            "it says something else than `guix-offload worker': ",
        ),
    ] {
        let pool = two_pools(mode);
        let mut client = pool.client();
        let drv = client.write(simple("x"));
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said(words);
        built.said("on 'spare' instead");
        assert_eq!(pool.health()["all_failures"], 1, "{}", pool.health());
        drop(client);
        pool.assert_nothing_left();
    }
}

#[test]
fn a_job_that_ends_at_its_limit_is_not_the_fault_of_the_pool() {
    let pool = two_pools("limit");
    let mut client = pool.client();
    let drv = client.write(Script::new("slow", "sleep 3; echo >$out"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("the job of 'pool' has lasted as long as it may while ");
    built.said("CANCELLED DUE TO TIME LIMIT");
    built.said("on 'spare' instead");
    assert_eq!(pool.health()["all_failures"], 0, "{}", pool.health());
    drop(client);
    pool.assert_nothing_left();
}

#[test]
fn a_build_waits_for_its_job_and_says_why() {
    let pool = PoolFarm::new(|entry| entry);
    pool.set_mode("pending");
    let mut client = pool.client();
    let drv = client.write(simple("x"));
    let building = client.start(&[&drv]);
    // What stands for a variable in a shell is a word here.
    building.wait_for("waiting for a job of 'pool' (0 s): Resources; $HOME");
    pool.set_mode("run");
    let (client, built) = building.finish();
    built.succeeded();
    drop(client);
    pool.assert_nothing_left();
}

#[test]
fn a_pool_without_room_is_asked_again_only_after_some_seconds() {
    let pool = PoolFarm::new(|entry| entry.text("queue", "now").plain("idle", "1"));
    pool.set_mode("busy");
    let mut client = pool.client();
    let drv = client.write(simple("x"));
    let mut hook = HookProcess::start(&pool.farm);
    for _ in 0..5 {
        assert_eq!(hook.ask(&drv), "postpone");
        assert_eq!(pool.launched().len(), 1);
    }
    assert!(hook.has_said("'pool' has no room: srun: error: Requested nodes are busy"));
    pool.set_mode("run");
    let asked = std::cell::RefCell::new(hook);
    assert!(eventually(|| asked.borrow_mut().ask(&drv) == "accept"));
    assert_eq!(pool.launched().len(), 2);
    assert_eq!(pool.health()["all_failures"], 0);
    let mut hook = asked.into_inner();
    hook.send_paths(&[client.busybox()], &[drv.out()]);
    assert_eq!(hook.end(), Some(0), "{}", hook.output);
    drop(client);
    pool.assert_ends();
}

#[test]
fn features_become_words_or_are_declined() {
    let pool = PoolFarm::new(|entry| {
        entry
            .plain("cores", "4")
            .list("options", &["-c{cores}", "plain word"])
            .plain("resources", "{ gpu = [\"--gres=gpu:1\"], big = [] }")
    });
    let mut client = pool.client();
    let with = |features: &str| simple("x").variable("requiredSystemFeatures", features);
    let drv = client.write(with("gpu big"));
    client.build(&[&drv]).succeeded();
    let words = pool.launched();
    assert!(
        words[0].contains(" -c{cores} plain word --gres=gpu:1 -- "),
        "{words:?}"
    );
    // The job that has it will do for what does not need it, but not the other way round.
    let plain = client.write(simple("plain"));
    client.build(&[&plain]).succeeded();
    assert_eq!(pool.launched().len(), 1);
    let mut hook = HookProcess::start(&pool.farm);
    hook.send(format!("0 {} {} gpu,fpga\n", crate::farm::SYSTEM, drv.path));
    assert_eq!(hook.reply(), "decline");
    drop((client, hook));
    pool.assert_nothing_left();
}

#[test]
fn what_one_build_asks_for_in_vain_is_not_held_against_the_pool() {
    let pool = PoolFarm::new(|entry| {
        entry
            .text("queue", "now")
            .plain("resources", "{ odd = [\"--gres=none\"] }")
            .plain("idle", "1")
    });
    let mut client = pool.client();
    let drv = client.write(simple("x"));
    let mut hook = HookProcess::start(&pool.farm);
    // A daemon that could build it itself does.
    for (willing, answer) in [(0, "postpone"), (1, "decline")] {
        hook.send(format!(
            "{willing} {} {} odd\n",
            crate::farm::SYSTEM,
            drv.path
        ));
        assert_eq!(hook.reply(), answer);
    }
    assert!(hook.has_said("srun: error: Invalid generic resource"));
    assert_eq!(pool.health()["all_failures"], 0, "{}", pool.health());
    assert_eq!(hook.ask(&drv), "accept");
    hook.send_paths(&[client.busybox()], &[drv.out()]);
    assert_eq!(hook.end(), Some(0), "{}", hook.output);
    drop(client);
    pool.assert_ends();
}

#[test]
fn a_job_without_what_is_needed_is_replaced() {
    let table = "{ gpu = [\"--gres=gpu:1\"] }";
    let pool = PoolFarm::new(|entry| entry.plain("resources", table));
    let mut client = pool.client();
    let plain = client.write(simple("plain"));
    client.build(&[&plain]).succeeded();
    let drv = client.write(simple("x").variable("requiredSystemFeatures", "gpu"));
    client.build(&[&drv]).succeeded();
    let words = pool.launched();
    assert_eq!(words.len(), 2);
    assert!(words[1].contains("--gres=gpu:1"), "{words:?}");
    assert_eq!((pool.keepers().len(), pool.cancelled().len()), (1, 1));
    drop(client);
    pool.assert_nothing_left();
}

#[test]
fn what_signs_for_one_connection_is_not_trusted_otherwise() {
    let pool = PoolFarm::new(|entry| entry.text("trust", "pool"));
    let mut client = pool.client();
    let drv = client.write(simple("x"));
    let keys_known = || {
        let acl = pool.farm.site.configuration().join("acl");
        let acl = std::fs::read_to_string(acl).unwrap_or_default();
        acl.matches("public-key").count()
    };
    let built = client.build(&[&drv]);
    built.said("unauthorized public key");
    assert!(built.result.is_err() && !client.is_valid(drv.out()));
    // Authorising that key would help no other job.
    let (all_right, text) = pool.farm.try_run(CLIENT, &["offload", "test"]);
    assert!(
        !all_right && text.contains("machines.toml, and set trust = \"connection\""),
        "{text}"
    );
    // With keys that this host knows.
    let before = keys_known();
    let keys = pool.farm.site.path("keys");
    std::fs::create_dir(&keys).unwrap();
    let mut generate = pool.farm.site.command(CLIENT);
    generate.args(["archive", "--generate-key"]);
    generate.env("GUIX_CONFIGURATION_DIRECTORY", &keys);
    assert!(crate::namespaces::output(generate, b"").0);
    pool.farm
        .authorize(&std::fs::read(keys.join("signing-key.pub")).unwrap());
    let entry = pool.entry().text("trust", "pool");
    let key = keys.join("signing-key");
    pool.farm
        .configure(&[entry.text("worker-key", key.to_str().unwrap())]);
    std::fs::remove_file(pool.farm.offload_directory().join("pool:22/health.json")).unwrap();
    client.build(&[&drv]).succeeded();
    assert_eq!(keys_known(), before + 1);
    drop(client);
    pool.assert_nothing_left();
}

#[test]
fn a_test_tries_a_worker_and_the_status_shows_jobs() {
    let pool = PoolFarm::new(|entry| entry);
    let client = pool.client();
    let (all_right, text) = pool.farm.try_run(CLIENT, &["offload", "test"]);
    assert!(all_right, "{text}");
    for (what, found) in [
        ("job", " on "),
        ("namespaces", "the worker has a store"),
        ("system", crate::farm::SYSTEM),
        ("size", " cores, "),
        ("disk", " MiB free"),
        ("signatures there", "our signature is accepted"),
        ("signatures here", "its key for this connection is accepted"),
    ] {
        let line = format!("right  {what:<16} ");
        let line = text
            .lines()
            .find_map(|text| text.trim().strip_prefix(&line));
        assert!(
            line.is_some_and(|line| line.contains(found)),
            "{what}: {text}"
        );
    }
    let jobs = || -> serde_json::Value {
        let text = pool.farm.run(CLIENT, &["offload", "status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status[0]["up"], true, "{text}");
        status[0]["jobs"].clone()
    };
    let running = jobs();
    assert_eq!(
        (&running["running"], &running["pending"]),
        (&1.into(), &0.into())
    );
    pool.kill_keepers();
    assert!(eventually(|| jobs()["running"] == 0));
    pool.set_mode("pending");
    let mut client = client;
    let drv = client.write(simple("x"));
    let building = client.start(&[&drv]);
    building.wait_for("waiting for a job of 'pool'");
    let pending = jobs();
    assert_eq!(pending["pending"], 1);
    assert_eq!(pending["reason"], "Resources; $HOME");
    let table = pool.farm.run(CLIENT, &["offload", "status"]);
    assert!(
        table.contains("1 pending, for ") && table.contains("Resources; $HOME"),
        "{table}"
    );
    building.hang_up();
    assert!(eventually(|| pool.keepers().is_empty()));
    // A test says that it waits; nobody waits with it any more.
    let test = std::thread::scope(|scope| {
        let test = scope.spawn(|| pool.farm.try_run(CLIENT, &["offload", "test"]));
        assert!(eventually(|| pool.keepers().len() == 1));
        let reason = || jobs()["reason"] == "Resources; $HOME";
        assert!(eventually(reason));
        pool.set_mode("run");
        test.join().unwrap()
    });
    assert!(
        test.0
            && test
                .1
                .contains("waiting for a job of 'pool' (0 s): Resources; $HOME"),
        "{}",
        test.1
    );
    pool.kill_keepers();
    // The words of the scheduler are in the results of the test.
    pool.set_mode("wrong");
    let (all_right, text) = pool.farm.try_run(CLIENT, &["offload", "test"]);
    assert!(
        !all_right && text.contains("invalid partition specified: x"),
        "{text}"
    );
    pool.assert_nothing_left();
}

#[test]
fn the_commands_of_a_scheduler_run_as_another_user() {
    use std::os::unix::fs::PermissionsExt;
    let pool = PoolFarm::stopped();
    let site = &pool.farm.site;
    let daemon = site.for_everybody(env!("CARGO_BIN_EXE_guix-daemon"));
    let worker = daemon.with_file_name("guix-offload");
    let everybody = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(site.path("scheduler"), everybody).unwrap();
    let entry = pool.entry().text("worker", worker.to_str().unwrap());
    pool.farm.configure(&[entry.text("run-as", "nobody")]);
    let mut farm = pool.farm;
    farm.start(&["--max-jobs=0"]);
    let pool = PoolFarm { farm };
    let mut client = pool.client();
    let drv = client.write(simple("x"));
    client.build(&[&drv]).succeeded();
    assert_eq!(pool.users(), ["nobody"]);
    drop(client);
    pool.assert_nothing_left();
}
