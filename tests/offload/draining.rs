//! `guix-client offload drain` and `offload return`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::farm::{CLIENT, Farm, Process};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::{eventually, is_ours};
use crate::hook_process::HookProcess;
use crate::namespaces::{output, processes};
use crate::pool_farm::PoolFarm;

/// A derivation whose builder waits for `go`.
fn waiting(farm: &Farm, client: &mut Client, name: &str) -> Drv {
    let script = format!("{}; echo built on $me; echo >$out", farm.await_gate("go"));
    client.write(Script::new(name, &script))
}

/// A derivation whose builder tells where it is.
fn telling(farm: &Farm, client: &mut Client, name: &str) -> Drv {
    let script = format!("{}; echo built on $me; echo >$out", farm.where_am_i());
    client.write(Script::new(name, &script))
}

/// A farm of two machines, of which the first is preferred.
fn two_machines() -> Farm {
    let farm = Farm::new(2);
    farm.configure(&[farm.entry(0).plain("speed", "9.0"), farm.entry(1)]);
    farm
}

fn offload(farm: &Farm, words: &[&str]) -> String {
    farm.run(CLIENT, &[&["offload"], words].concat())
}

fn status(farm: &Farm) -> Value {
    serde_json::from_str(&offload(farm, &["status", "--json"])).unwrap()
}

/// How the first machine was last, and why, according to the history.
fn last_state(farm: &Farm) -> (Value, Value) {
    let words = ["history", "--states", "--machine=build-1", "--format=json"];
    let states: Value = serde_json::from_str(&farm.run(CLIENT, &words)).unwrap();
    (states[0]["state"].clone(), states[0]["reason"].clone())
}

#[test]
fn a_drained_machine_keeps_its_builds_and_gets_no_others() {
    let farm = two_machines();
    let mut client = farm.client();
    let slow = waiting(&farm, &mut client, "slow");
    let next = telling(&farm, &mut client, "next");
    let last = telling(&farm, &mut client, "last");
    let building = client.start(&[&slow]);
    assert_eq!(farm.wait_for_builder("go"), "build-1");
    let said = offload(&farm, &["drain", "build-1", "--reason", "new disk"]);
    let expected = "'build-1:22' is drained; 1 build goes on there: slow.drv\n";
    assert_eq!(said, expected);
    let mut client = farm.client();
    client.build(&[&next]).said("built on build-2\n");

    assert_eq!(last_state(&farm), ("drained".into(), "new disk".into()));
    let json = status(&farm);
    assert_eq!(json[0]["drained"]["reason"], "new disk");
    assert!(json[0]["drained"]["since"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        (&json[0]["up"], &json[0]["reachable"]),
        (&false.into(), &true.into())
    );
    assert_eq!(
        (&json[1]["up"], &json[1]["drained"]),
        (&true.into(), &Value::Null)
    );
    let table = offload(&farm, &["status"]);
    let squeezed: String = table.split_whitespace().collect();
    assert!(
        squeezed.contains("newdisk") && squeezed.contains("drainedfor"),
        "{table}"
    );
    let metrics = offload(&farm, &["status", "--prometheus"]);
    for line in [
        "guix_offload_drained{machine=\"build-1:22\"} 1\n",
        "guix_offload_drained{machine=\"build-2:22\"} 0\n",
        "guix_offload_up{machine=\"build-1:22\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    let tested = offload(&farm, &["test"]);
    let note = "gets nothing until it is returned: it is drained: new disk";
    assert!(tested.contains(note), "{tested}");

    // Who waits hears of the end of the last build.
    let mut command = farm.site.command(CLIENT);
    command.args(["offload", "drain", "build-1", "--wait"]);
    let mut command = farm.on_head(&command);
    let mut waiter = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(waiter.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "guix-client offload: waiting for 1 build: slow.drv\n");
    assert!(waiter.try_wait().unwrap().is_none());
    farm.open("go");
    let (_, built) = building.finish();
    built.succeeded();
    built.said("built on build-1\n");
    assert!(waiter.wait().unwrap().success());

    // The reason is the same, and a test doesn't return it.
    assert_eq!(status(&farm)[0]["drained"]["reason"], "new disk");
    assert_eq!(
        offload(&farm, &["return", "build-1"]),
        "'build-1:22' gets builds again\n"
    );
    assert_eq!(last_state(&farm), ("ready".into(), "".into()));
    assert_eq!(
        offload(&farm, &["return", "build-1"]),
        "'build-1:22' was not drained\n"
    );
    farm.forget();
    client.build(&[&last]).said("built on build-1\n");
    assert_eq!(status(&farm)[0]["drained"], Value::Null);
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn what_no_other_machine_can_build_is_built_here_or_waits() {
    let mut farm = Farm::with(&[crate::farm::Kind::default()]);
    farm.start(&["--max-jobs=1"]);
    fs::write(
        farm.site.configuration().join("machines.scm"),
        format!("(list {})\n", farm.entry(0).scheme()),
    )
    .unwrap();
    fs::remove_file(farm.site.configuration().join("machines.toml")).unwrap();
    offload(&farm, &["drain", "build-1"]);
    let mut client = farm.client();
    let drv = telling(&farm, &mut client, "x");
    client.build(&[&drv]).said("built on head\n");
    let drv = telling(&farm, &mut client, "y");
    let mut hook = HookProcess::start(&farm);
    // For a daemon that has no free job.
    assert_eq!(hook.ask(&drv), "postpone");
    offload(&farm, &["return", "build-1"]);
    assert_eq!(hook.ask(&drv), "accept");
}

#[test]
fn a_build_that_waits_is_told_that_the_machine_is_drained() {
    let farm = Farm::new(1);
    offload(
        &farm,
        &["drain", "build-1", "--reason", "moves to\n another rack"],
    );
    let mut client = farm.client();
    let drv = telling(&farm, &mut client, "x");
    let building = client.start(&[&drv]);
    if is_ours() {
        building.wait_for("'build-1': it is drained: moves to another rack\n");
    }
    // Nobody has asked it.
    assert!(farm.ssh_masters().is_empty());
    offload(&farm, &["return", "build-1"]);
    let (_, built) = building.finish();
    built.succeeded();
}

#[test]
fn a_hook_that_goes_on_elsewhere_uses_no_drained_machine() {
    let farm = two_machines();
    let mut client = farm.client();
    let drv = waiting(&farm, &mut client, "slow");
    let busybox = client.busybox().clone();
    let mut hook = HookProcess::start(&farm);
    assert_eq!(hook.ask(&drv), "accept");
    hook.send_paths(&[&busybox], &[drv.out()]);
    assert_eq!(farm.wait_for_builder("go"), "build-1");
    offload(&farm, &["drain", "build-2"]);
    let daemons = farm.machines[0].processes("guix-daemon");
    daemons.iter().for_each(Process::kill);
    hook.wait_for_line(&format!(
        "not offloading '{}' to 'build-2': it is drained",
        drv.path
    ));
    assert_eq!(hook.end(), Some(1), "{}", hook.output);
    assert_ne!(farm.health(1)["builds"], 1);
    farm.open("go");
}

#[test]
fn a_machine_that_is_drained_while_it_is_asked_gets_nothing() {
    let farm = Farm::new(1);
    let mut client = farm.client();
    let drv = telling(&farm, &mut client, "x");
    let sshd = farm.machines[0].processes("sshd");
    sshd.iter().for_each(Process::stop);
    let mut hook = HookProcess::start(&farm);
    hook.send(format!("0 {} {} \n", crate::farm::SYSTEM, drv.path));
    let asks = || (farm.head_processes().iter()).any(|process| process.name() == "ssh");
    assert!(eventually(asks));
    offload(&farm, &["drain", "build-1"]);
    for process in sshd {
        let pid = nix::unistd::Pid::from_raw(process.pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    }
    assert_eq!(hook.reply(), "postpone");
    assert!(farm.taken_slots().is_empty());
    offload(&farm, &["return", "build-1"]);
    farm.forget();
    assert_eq!(hook.ask(&drv), "accept");
}

#[test]
fn machines_are_named_as_by_a_shell_and_those_that_are_not_there_are_an_error() {
    let farm = Farm::with(&[]);
    let named = |name: &str| farm.entry(0).text("name", name);
    farm.configure(&[named("a1"), named("a2").plain("port", "2222"), named("b1")]);
    let drained =
        || -> Vec<String> { crate::farm::names(&farm.offload_directory().join("drained")) };
    for (words, expected) in [
        (&["drain", "a*"][..], &["a1:22", "a2:2222"][..]),
        (&["drain", "b1", "a1:22"], &["a1:22", "a2:2222", "b1:22"]),
        (&["return", "[ab]1"], &["a2:2222"]),
        (&["resume", "a2"], &[]),
    ] {
        offload(&farm, words);
        assert_eq!(drained(), expected, "{words:?}");
    }
    for word in ["drain", "return"] {
        let (succeeded, text) = farm.try_run(CLIENT, &["offload", word, "a1", "c?"]);
        assert!(!succeeded && drained().is_empty(), "{text}");
        let message = "no build machine is called 'c?': there are 'a1', 'a2', 'b1'\n";
        assert!(text.ends_with(message), "{text}");
    }
    // One that is listed no more can be returned, also when there is no other.
    offload(&farm, &["drain", "a2", "b1"]);
    farm.configure(&[named("a1")]);
    assert_eq!(
        offload(&farm, &["return", "b1"]),
        "'b1:22' gets builds again\n"
    );
    fs::remove_file(farm.site.configuration().join("machines.toml")).unwrap();
    assert_eq!(
        offload(&farm, &["return", "a2"]),
        "'a2:2222' gets builds again\n"
    );
    let (succeeded, text) = farm.try_run(CLIENT, &["offload", "drain", "a1"]);
    assert!(
        !succeeded && text.contains("there is no machine file"),
        "{text}"
    );
}

#[test]
fn many_may_drain_and_return_at_once() {
    let farm = Farm::with(&[]);
    farm.configure(&[farm.entry(0)]);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let farm = &farm;
            scope.spawn(move || {
                let reason = format!("reason {number}");
                offload(farm, &["drain", "build-1", "--reason", &reason]);
                offload(farm, &["return", "build-1"]);
                offload(farm, &["drain", "build-1", "--reason", &reason]);
            });
        }
    });
    let directory = farm.offload_directory().join("drained");
    let text = fs::read(directory.join("build-1:22")).unwrap();
    let drained: Value = serde_json::from_slice(&text).unwrap();
    assert!(drained["reason"].as_str().unwrap().starts_with("reason "));
    assert_eq!(crate::farm::names(&directory), ["build-1:22"]);
}

#[test]
fn a_machine_that_is_returned_is_not_waited_for() {
    let farm = Farm::new(1);
    let mut client = farm.client();
    let slow = waiting(&farm, &mut client, "slow");
    let building = client.start(&[&slow]);
    farm.wait_for_builder("go");
    let mut command = farm.site.command(CLIENT);
    command.args(["offload", "drain", "build-1", "--wait"]);
    let (succeeded, text) = std::thread::scope(|scope| {
        let waiter = scope.spawn(|| output(farm.on_head(&command), b""));
        let drained = farm.offload_directory().join("drained/build-1:22");
        assert!(eventually(|| drained.exists()));
        offload(&farm, &["return", "build-1"]);
        waiter.join().unwrap()
    });
    assert!(
        !succeeded && text.contains("'build-1' has been returned meanwhile"),
        "{text}"
    );
    farm.open("go");
    building.finish().1.succeeded();
}

#[test]
fn a_pool_can_be_drained() {
    let pool = PoolFarm::new(|entry| entry.plain("parallel-builds", "2"));
    let farm = &pool.farm;
    let mut client = pool.client();
    // The sandbox of a job shows no gate: the build ends when its `sleep' is killed.
    let sleeps = format!("sleep {}", rand::random_range(100_000..1_000_000));
    let script = format!("echo begun; {sleeps} || true; echo >$out");
    let slow = client.write(Script::new("slow", &script));
    let next = client.write(Script::new("next", "echo >$out"));
    let building = client.start(&[&slow]);
    building.wait_for("begun\n");
    offload(farm, &["drain", "pool"]);
    let mut hook = HookProcess::start(farm);
    assert_eq!(hook.ask(&next), "postpone");
    assert_eq!(status(farm)[0]["drained"]["reason"], Value::Null);
    let sleeping = || -> Vec<Process> {
        let mut all = processes();
        all.retain(|process| process.line == sleeps);
        all
    };
    assert!(eventually(|| !sleeping().is_empty()));
    sleeping().iter().for_each(Process::kill);
    building.finish().1.succeeded();
    offload(farm, &["drain", "pool", "--wait"]);
    assert_eq!(hook.ask(&next), "postpone");
    offload(farm, &["return", "pool"]);
    assert_eq!(hook.ask(&next), "accept");
    drop(hook);
    pool.assert_nothing_left();
}

#[test]
fn root_makes_nothing_where_hooks_of_another_user_would_be_locked_out() {
    let farm = Farm::with(&[]);
    farm.configure(&[farm.entry(0)]);
    let directory = farm.offload_directory();
    fs::create_dir_all(&directory).unwrap();
    std::os::unix::fs::chown(&directory, Some(65534), Some(65534)).unwrap();
    for word in ["drain", "return"] {
        let (succeeded, text) = farm.try_run(CLIENT, &["offload", word, "build-1"]);
        assert!(
            !succeeded && text.contains("only nobody may do that, to whom"),
            "{text}"
        );
    }
    assert!(crate::farm::names(&directory).is_empty());
}
