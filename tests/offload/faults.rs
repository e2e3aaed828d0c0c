//! Many builds, while hooks, connections, servers and daemons are killed at random: nothing is
//! lost, every build ends, nothing leaks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::farm::{Farm, Kind, Process, is_locked};
use crate::harness::derivations::{Drv, Script};
use crate::harness::{eventually, is_ours};

const BUILDS: usize = 20;
const CLIENTS: usize = 4;

/// What may be killed now, with the machine whose part it is.
fn victims(farm: &Farm) -> Vec<(Option<usize>, Process)> {
    let mut all: Vec<(Option<usize>, Process)> = Vec::new();
    let on_head = [farm.hooks(), farm.ssh_sessions(), farm.ssh_masters()].concat();
    all.extend(on_head.into_iter().map(|process| (None, process)));
    for (index, machine) in farm.machines.iter().enumerate() {
        for program in ["sshd", "sshd-session", "guix-daemon", "guix-client"] {
            let found = machine.processes(program).into_iter();
            all.extend(found.map(|process| (Some(index), process)));
        }
    }
    all
}

/// Starts again what a machine lacks, as its service manager would.
fn revive(farm: &Farm) {
    for machine in &farm.machines {
        let listens = |process: &Process| process.line.contains("[listener]");
        if !machine.processes("sshd").iter().any(listens) {
            machine.start_sshd(&farm.site);
        }
        if machine.processes("guix-daemon").is_empty() {
            machine.start_daemon(&farm.site);
        }
    }
}

#[test]
fn everything_is_killed_at_random() {
    if !is_ours() {
        return; // a hook that is killed is the end of the build
    }
    let mut farm = Farm::with(&[Kind::default(), Kind::default()]);
    farm.start(&["--max-jobs=1"]);
    farm.configure(&[
        farm.entry(0).text("transport", "socket"),
        farm.entry(1).text("transport", "commands"),
    ]);
    let farm = &farm;
    let done = AtomicBool::new(false);
    let began = Instant::now();
    let drvs: Vec<Drv> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = farm.client();
                    let data = client.text(&format!("data-{number}"), &"x".repeat(100_000), &[]);
                    let mut drvs = Vec::new();
                    for build in (number..BUILDS).step_by(CLIENTS) {
                        let script = format!(
                            "echo building {build}; for n in 1 2 3 4 5; do sleep 0.1; echo $n; done; \
                             cat {data} >$out; echo {build} {data} >>$out"
                        );
                        let name = format!("build-{build}");
                        let drv = client.write(Script::new(&name, &script).source(&data));
                        let built = client.build(&[&drv]);
                        built.succeeded();
                        let log = format!("building {build}\n1\n2\n3\n4\n5\n");
                        // Where only the way home was cut, the second hook finds it built.
                        let kept = farm.kept_log(&drv.path);
                        assert!(kept == log || kept.is_empty(), "{kept}");
                        assert!(client.is_valid(drv.out()));
                        let info = client.info(drv.out());
                        assert_eq!(info.references, [data.clone()].into());
                        drvs.push(drv);
                    }
                    drvs
                })
            })
            .collect();
        let done = &done;
        let killer = scope.spawn(move || {
            let mut killed = std::collections::BTreeMap::<String, u32>::new();
            while !done.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(60) {
                let victims = victims(farm);
                if !victims.is_empty() {
                    let (_, victim) = &victims[rand::random_range(0..victims.len())];
                    victim.kill();
                    *killed.entry(victim.name().to_owned()).or_default() += 1;
                }
                std::thread::sleep(Duration::from_millis(150));
                revive(farm);
                // Nobody shall have to wait until machines are trusted again.
                farm.forget();
            }
            killed
        });
        let joined: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        done.store(true, Ordering::Relaxed);
        let killed = killer.join().unwrap();
        println!("killed: {killed:?} in {:?}", began.elapsed());
        assert!(
            killed.len() >= 3 && killed.values().sum::<u32>() >= 10,
            "{killed:?}"
        );
        joined.into_iter().flat_map(|drvs| drvs.unwrap()).collect()
    });
    assert_eq!(drvs.len(), BUILDS);
    revive(farm);
    let mut client = farm.client();
    let locked = || {
        drvs.iter()
            .filter(|drv| is_locked(format!("{}.lock", drv.out()).as_ref()))
            .count()
    };
    assert!(eventually(|| locked() == 0));
    assert!(
        !client.connection.verify_store(true, false).unwrap(),
        "the store is damaged"
    );
    // Everything still works.
    farm.forget();
    let last = client.write(Script::new("last", "echo >$out"));
    let built = client.build(&[&last]);
    built.succeeded();
    built.said("done with offloaded ");
    drop(client);
    // A daemon that was killed may have left links there; whoever comes next removes them.
    farm.forget();
    farm.configure(&[farm.entry(1).text("transport", "commands")]);
    let mut client = farm.client();
    let again = client.write(Script::new("again", "echo >$out"));
    client.build(&[&again]).succeeded();
    drop(client);
    assert!(
        eventually(|| farm.taken_slots().is_empty()),
        "slots: {:?}",
        farm.taken_slots()
    );
    assert!(eventually(
        || farm.hooks().is_empty() && farm.ssh_sessions().is_empty()
    ));
    assert!(
        eventually(|| farm.machines[1].roots().is_empty()),
        "{:?}",
        farm.machines[1].roots()
    );
}
