//! Builds in containers of the real Podman.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid};

use crate::farm::CLIENT;
use crate::harness::derivations::Script;
use crate::harness::{eventually, is_ours};
use crate::podman_farm::PodmanFarm;

#[test]
fn builds_get_a_container_which_is_kept_and_then_removed() {
    let Some(podman) = PodmanFarm::new(|entry| entry) else {
        return;
    };
    let mut client = podman.client();
    let script = "echo built here; echo contents >$out";
    let first = client.write(Script::new("first", script));
    let built = client.build(&[&first]);
    built.succeeded();
    built.said("built here\n");
    built.said("done with offloaded");
    let containers = podman.containers();
    assert!(
        containers.len() == 1 && containers[0].starts_with("guix-containers-0-"),
        "{containers:?}"
    );
    // The builds' bytes go through its output: they are in no log.
    let format = "--format={{.HostConfig.LogConfig.Type}}";
    let (_, log) = podman.podman(&["inspect", format, &containers[0]]);
    assert_eq!(log, "none\n");
    // The same container, and what was built there is there.
    let script = format!("cat {} >$out", first.out());
    let second = client.write(Script::new("second", &script).input(&first, "out"));
    client.build(&[&second]).succeeded();
    assert_eq!(podman.containers(), containers);
    let bad = client.write(Script::new("bad", "echo so it is; exit 3"));
    let built = client.build(&[&bad]);
    built.failed(100, "failed");
    built.said("so it is\n");
    drop(client);
    for keeper in podman.keepers() {
        keeper.kill();
    }
    podman.assert_nothing_left();
}

#[test]
fn a_container_that_is_idle_ends_and_is_removed() {
    let Some(podman) = PodmanFarm::new(|entry| entry.plain("idle", "1")) else {
        return;
    };
    let mut client = podman.client();
    let drvs: Vec<_> = (0..6)
        .map(|number| client.write(Script::new(&format!("x-{number}"), "echo >$out")))
        .collect();
    let (client, built) = client.start(&drvs.iter().collect::<Vec<_>>()).finish();
    built.succeeded();
    drop(client);
    podman.assert_nothing_left();
}

#[test]
fn whatever_is_killed_no_container_is_left() {
    let Some(mut podman) =
        PodmanFarm::new(|entry| entry.plain("heartbeat", "1").plain("idle", "1"))
    else {
        return;
    };
    for victim in ["hook", "keeper", "podman", "conmon", "daemon", "worker"] {
        let mut client = podman.client();
        let script = "echo begun; while true; do sleep 0.1; done";
        let drv = client.write(Script::new(&format!("endless-{victim}"), script));
        let building = client.start(&[&drv]);
        building.wait_for("begun\n");
        match victim {
            // As daemons do, with its process group; the daemon asks no other one.
            "hook" => {
                let mut hooks = podman.processes("guix-offload");
                hooks.retain(|hook| !hook.line.ends_with(" keeper"));
                let group = getpgid(Some(Pid::from_raw(hooks[0].pid))).unwrap();
                killpg(group, Signal::SIGKILL).unwrap();
            }
            "keeper" => podman.keepers().iter().for_each(|keeper| keeper.kill()),
            "daemon" => podman.farm.daemon.take().unwrap().kill(),
            "worker" => {
                let (succeeded, said) = podman.podman(&["kill", "--all"]);
                assert!(succeeded, "{said}");
            }
            program => {
                let processes = podman.processes(program);
                assert!(!processes.is_empty(), "there is no {program}");
                processes.iter().for_each(|process| process.kill());
            }
        }
        building.hang_up();
        if victim == "daemon" {
            podman.farm.start(&["--max-jobs=0"]);
        }
        // What killed processes have left is removed by who takes the slot next.
        let _ = std::fs::remove_file(podman.health());
        let mut client = podman.client();
        let drv = client.write(Script::new(&format!("after-{victim}"), "echo >$out"));
        let mut built = client.build(&[&drv]);
        if !is_ours() && built.result.is_err() {
            // It got the container that had just died, and Guix's daemon asks no hook a second time.
            let _ = std::fs::remove_file(podman.health());
            built = client.build(&[&drv]);
        }
        built.succeeded();
        drop(client);
        let left = || podman.containers();
        assert!(eventually(|| left().is_empty()), "{victim}: {:?}", left());
        podman.assert_nothing_left();
    }
}

#[test]
fn what_podman_says_is_said() {
    let cases = [
        (
            "worker",
            "\"/bin/guix-ofload\"",
            "executable file `/bin/guix-ofload` not found",
        ),
        (
            "options",
            "[\"no-such-image\"]",
            "no-such-image: image not known",
        ),
        (
            "run-as",
            "\"no-such-user-here\"",
            "there is no user `no-such-user-here'",
        ),
    ];
    for (field, value, words) in cases {
        let Some(podman) = PodmanFarm::new(|entry| entry.plain(field, value)) else {
            return;
        };
        let (all_right, text) = podman.farm.try_run(CLIENT, &["offload", "test"]);
        assert!(!all_right && text.contains(words), "{text}");
        podman.assert_nothing_left();
    }
}
