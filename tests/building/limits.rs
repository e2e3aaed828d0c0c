//! Limits of time, of output, and of how many builds run.

use std::time::{Duration, Instant};

use super::harness::derivations::processes_with;
use super::*;

/// A build that doesn't end by itself, and a string to find it by.
fn endless(name: &str, chatter: &str) -> (Script, String) {
    let marker = format!("88888.{}", rand::random::<u32>());
    let script = format!("{chatter} sleep {marker}; echo >$out");
    (Script::new(name, &script), marker)
}

#[test]
fn a_build_that_takes_too_long_has_status_101() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    client.set(|options| options.set("build-timeout", "1"));
    let (script, marker) = endless("slow", "while sleep 0.2; do echo busy; done &");
    let drv = client.write(script);
    let started = Instant::now();
    let built = client.build(&[&drv]);
    built.failed(101, &format!("build of `{}' failed", drv.path));
    built.said(&format!(
        "building of `{}' timed out after 1 seconds\n",
        drv.path
    ));
    built.said(&format!("@ build-failed {} - timeout\n", drv.path));
    // Guix counts in whole seconds of the clock.
    assert!(!is_ours() || started.elapsed() >= Duration::from_secs(1));
    assert!(eventually(|| processes_with(&marker).is_empty()));
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
}

#[test]
fn a_build_that_is_silent_too_long_has_status_101() {
    let setup = Setup::new(&["--max-silent-time=2"]);
    let mut client = setup.client();
    let (script, marker) = endless("silent", "");
    let silent = client.write(script);
    let built = client.build(&[&silent]);
    built.failed(101, &format!("build of `{}' failed", silent.path));
    built.said(&format!(
        "building of `{}' timed out after 2 seconds of silence\n",
        silent.path
    ));
    assert!(eventually(|| processes_with(&marker).is_empty()));

    // A build that prints something now and then may take longer.
    let talk = "for i in 1 2 3; do echo $i; sleep 0.8; done; echo >$out";
    let talkative = client.write(Script::new("talkative", talk));
    client.build(&[&talkative]).succeeded();
}

#[test]
fn the_administrators_timeout_holds_if_the_client_sets_none() {
    let setup = Setup::new(&["--timeout=1"]);
    let mut client = setup.client();
    let drv = client.write(endless("slow", "").0);
    client.build(&[&drv]).failed(101, "failed");
    // The client may raise the limit.
    client.set(|options| options.set("build-timeout", "60"));
    let drv = client.write(Script::new("patient", "sleep 1.5; echo >$out"));
    client.build(&[&drv]).succeeded();
}

#[test]
fn what_times_out_counts_before_what_fails() {
    let setup = Setup::new(&["--max-jobs=2"]);
    let mut client = setup.client();
    client.set(|options| {
        options.keep_going = true;
        options.set("build-timeout", "1");
    });
    let slow = client.write(endless("slow", "").0);
    let bad = client.write(Script::new("bad", "exit 1"));
    client.build(&[&bad, &slow]).failed(101, "failed");
}

#[test]
fn a_log_that_grows_too_large_ends_the_build() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    client.set(|options| options.set("build-max-log-size", "10000"));
    let drv = client.write(Script::new("chatty", "yes"));
    let built = client.build(&[&drv]);
    built.failed(101, "failed");
    built.said(&format!(
        "building of `{}' killed after writing more than 10000 bytes of log output",
        drv.path
    ));
}

/// A script that records how many of its kind are running.
fn counted(setup: &Setup, name: &str) -> Script {
    let gate = setup.gate();
    let gate = gate.display();
    // Long enough for others to start, if they may.
    let script = format!(
        "touch {gate}/running-{name}; sleep 0.4; ls {gate} | grep -c running- >>{gate}/count-{name}
         rm {gate}/running-{name}; echo >$out"
    );
    Script::new(name, &script)
}

fn most_at_a_time(setup: &Setup) -> u32 {
    let gate = names(&setup.gate());
    let counts = gate.iter().filter(|name| name.starts_with("count-"));
    counts
        .map(|name| setup.read(name).trim().parse().unwrap())
        .max()
        .unwrap()
}

#[test]
fn no_more_than_max_jobs_run_at_a_time() {
    for (daemons, clients, expected) in [("1", None, 1), ("2", None, 2), ("1", Some("3"), 3)] {
        let setup = Setup::new(&[&format!("--max-jobs={daemons}")]);
        let mut client = setup.client();
        if let Some(jobs) = clients {
            client.set(|options| options.set("build-max-jobs", jobs));
        }
        let drvs: Vec<_> = (0..expected + 1)
            .map(|number| client.write(counted(&setup, &format!("job-{number}"))))
            .collect();
        let all: Vec<_> = drvs.iter().collect();
        client.build(&all).succeeded();
        assert_eq!(most_at_a_time(&setup), expected);
    }
}

#[test]
fn many_short_builds_all_come_out() {
    let setup = Setup::new(&["--max-jobs=3"]);
    let mut clients = [setup.client(), setup.client()];
    clients[0].set(|options| options.set("build-max-jobs", "2"));
    clients[1].set(|options| options.set("build-max-jobs", "1"));
    let buildings = clients.map(|mut client| {
        // The middle ones belong to both clients.
        let name = |number: u32| match number {
            5..10 => format!("both-{number}"),
            _ => format!("own-{number}-{}", rand::random::<u32>()),
        };
        let drvs: Vec<_> = (0..15)
            .map(|number| client.write(Script::new(&name(number), "echo $out; echo >$out")))
            .collect();
        client.start(&drvs.iter().collect::<Vec<_>>())
    });
    for building in buildings {
        building.finish().1.succeeded();
    }
}

#[test]
fn without_slots_nothing_is_built_but_what_must_be_local() {
    let setup = Setup::new(&["--max-jobs=0"]);
    let mut client = setup.client();
    let drv = client.write(Script::new("elsewhere", "echo >$out"));
    let built = client.build(&[&drv]);
    built.failed(1, "unable to start any build; either increase `--max-jobs'");
    let script = Script::new("local", "echo >$out").variable("preferLocalBuild", "1");
    let drv = client.write(script);
    client.build(&[&drv]).succeeded();
}

#[cfg(not(have_daemon_offload_hook))]
#[test]
fn a_daemon_without_offloading_ignores_hooks_and_the_wish_for_them() {
    let site = Site::new();
    let hook = site.path("hook");
    fs::write(&hook, "#!/bin/sh\nexit 1\n").unwrap();
    let setup = Setup::at(site.env("NIX_BUILD_HOOK", hook), &[]);
    let mut client = setup.client();
    client.set(|options| options.use_build_hook = Some(true));
    let drv = client.write(Script::new("example", "echo >$out"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.did_not_say("hook");
    assert!(!setup.daemon.messages().contains("hook"));
}

#[test]
fn each_build_has_a_user_of_its_own() {
    let setup = Setup::new(&["--max-jobs=2"]);
    let Some(users) = &setup.users else { return };
    let mut client = setup.client();
    let script = |name: &str, other: &str| {
        let gate = setup.gate();
        let gate = gate.display();
        let meet = format!("touch {gate}/{name}; {}", setup.await_gate(other));
        Script::new(
            name,
            &format!("id -u >{gate}/uid-{name}; {meet}; echo >$out"),
        )
    };
    let (one, two) = (
        client.write(script("one", "two")),
        client.write(script("two", "one")),
    );
    client.build(&[&one, &two]).succeeded();
    let used = ["uid-one", "uid-two"].map(|name| setup.read(name).trim().parse().unwrap());
    let mut used: Vec<u32> = used.into();
    used.sort();
    assert_eq!(used.len(), 2);
    used.dedup();
    assert!(
        used.len() == 2 && used.iter().all(|uid| users.uids.contains(uid)),
        "{used:?}"
    );
}
