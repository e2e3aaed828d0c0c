//! The choice of a machine. (The tests set the load that machines report.)

use std::time::Instant;

use crate::farm::{Farm, Kind, SYSTEM};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::is_ours;
use crate::hook_process::HookProcess;

/// A derivation whose output tells where it was built.
fn tells(farm: &Farm, client: &mut Client, name: &str) -> Script {
    let _ = client;
    Script::new(
        name,
        &format!("{}; echo built on $me; echo >$out", farm.where_am_i()),
    )
}

/// Where it was built.
pub fn built_on(client: &mut Client, drv: &Drv) -> String {
    let built = client.build(&[drv]);
    built.succeeded();
    let (_, rest) = built
        .log
        .split_once("\nbuilt on ")
        .unwrap_or_else(|| panic!("{built:#?}"));
    rest.lines().next().unwrap().to_owned()
}

fn with_loads(loads: &[f64]) -> Farm {
    let kinds: Vec<Kind> = loads
        .iter()
        .map(|&load| Kind {
            load,
            ..Kind::default()
        })
        .collect();
    let mut farm = Farm::with(&kinds);
    farm.start(&["--max-jobs=0"]);
    farm
}

#[test]
fn the_fastest_of_equals() {
    let farm = with_loads(&[0.0, 0.0, 0.0]);
    let speeds = ["1.5", "4.0", "2"];
    let entries: Vec<_> = speeds
        .iter()
        .enumerate()
        .map(|(n, speed)| farm.entry(n).plain("speed", speed))
        .collect();
    farm.configure(&entries);
    let mut client = farm.client();
    for number in 0..3 {
        farm.forget();
        let script = tells(&farm, &mut client, &format!("x{number}"));
        let drv = client.write(script);
        assert_eq!(built_on(&mut client, &drv), "build-2");
    }
}

#[test]
fn the_least_loaded_before_the_fastest() {
    let farm = with_loads(&[7.5, 0.1]);
    farm.configure(&[farm.entry(0).plain("speed", "9.0"), farm.entry(1)]);
    let mut client = farm.client();
    let script = tells(&farm, &mut client, "x");
    let drv = client.write(script);
    assert_eq!(built_on(&mut client, &drv), "build-2");
}

#[test]
fn none_that_is_overloaded() {
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    let farm = with_loads(&[cores * 0.9, cores * 0.5]);
    let entry = |index| farm.entry(index).plain("overload-threshold", "0.8");
    farm.configure(&[entry(0).plain("speed", "9.0")]);
    let mut client = farm.client();
    let script = tells(&farm, &mut client, "x");
    let drv = client.write(script);
    let mut hook = HookProcess::start(&farm);
    assert_eq!(hook.ask(&drv), "postpone");
    drop(hook);
    // Whoever waits is told why, once.
    let waiting = client.start(&[&drv]);
    let why = format!(
        "no build machine is free for `{}': 'build-1': its load 0.90 is not below 0.80\n",
        drv.path
    );
    if is_ours() {
        waiting.wait_for(&why);
    }
    farm.configure(&[entry(0).plain("speed", "9.0"), entry(1)]);
    let (mut client, built) = waiting.finish();
    built.succeeded();
    built.said("\nbuilt on build-2\n");
    built.did_not_say("@ build-postponed");
    // Its load has decreased.
    std::fs::write(
        farm.machines[0].files.join("loadavg"),
        "0.00 0.00 0.00 1/1 1\n",
    )
    .unwrap();
    farm.forget();
    let script = tells(&farm, &mut client, "y");
    let drv = client.write(script);
    assert_eq!(built_on(&mut client, &drv), "build-1");
}

#[test]
fn builds_that_have_ended_are_no_load() {
    let farm = with_loads(&[0.0]);
    farm.configure(&[farm.entry(0).plain("overload-threshold", "0.8")]);
    let mut client = farm.client();
    let began = Instant::now();
    for number in 0..4 * std::thread::available_parallelism().unwrap().get() {
        let drv = client.write(Script::new(&format!("x{number}"), "echo >$out"));
        let built = client.build(&[&drv]);
        built.succeeded();
        built.did_not_say("waiting for locks or build slots...");
    }
    // While the reported load is still valid.
    println!("one after the other: {:?}", began.elapsed());
    assert_eq!(farm.health(0)["given"], 0);
}

#[test]
fn one_that_has_what_is_asked_for() {
    let farm = with_loads(&[0.0, 0.0, 0.0]);
    farm.configure(&[
        farm.entry(0).plain("speed", "9.0"),
        farm.entry(1)
            .list("systems", &["i686-linux", SYSTEM])
            .list("features", &["kvm", "big"]),
        farm.entry(2)
            .list("features", &["big"])
            .plain("speed", "2.0"),
    ]);
    let mut client = farm.client();
    for (features, expected) in [
        ("", "build-1"),
        ("kvm", "build-2"),
        ("big kvm", "build-2"),
        ("big", "build-3"),
    ] {
        let name = format!("x-{}", features.replace(' ', "-"));
        let script = tells(&farm, &mut client, &name);
        let drv = client.write(script.variable("requiredSystemFeatures", features));
        assert_eq!(built_on(&mut client, &drv), expected, "{features}");
    }
    if SYSTEM == "x86_64-linux" {
        let script = tells(&farm, &mut client, "other-system");
        let drv = client.write(script.system("i686-linux"));
        assert_eq!(built_on(&mut client, &drv), "build-2");
    }
}

#[test]
fn one_that_is_kept_for_those_who_ask_for_it() {
    let farm = with_loads(&[0.0, 0.0]);
    farm.configure(&[
        farm.entry(0)
            .plain("speed", "9.0")
            .list("mandatory-features", &["benchmark"]),
        farm.entry(1),
    ]);
    let mut client = farm.client();
    for (features, expected) in [("", "build-2"), ("benchmark", "build-1")] {
        let script = tells(&farm, &mut client, &format!("x-{features}"));
        let drv = client.write(script.variable("requiredSystemFeatures", features));
        assert_eq!(built_on(&mut client, &drv), expected);
    }
}

#[test]
fn what_prefers_to_be_built_here_is() {
    let mut farm = Farm::with(&[Kind::default()]);
    farm.start(&["--max-jobs=1"]);
    let mut client = farm.client();
    let script = tells(&farm, &mut client, "x");
    let drv = client.write(script.variable("preferLocalBuild", "1"));
    assert_eq!(built_on(&mut client, &drv), "head");
    assert!(farm.ssh_masters().is_empty());
    let script = tells(&farm, &mut client, "y");
    let drv = client.write(script);
    assert_eq!(built_on(&mut client, &drv), "build-1");
}

#[test]
fn no_machine_gets_more_than_its_share() {
    let farm = with_loads(&[0.0, 0.0]);
    farm.configure(&[
        farm.entry(0)
            .plain("parallel-builds", "1")
            .plain("speed", "9.0"),
        farm.entry(1).plain("parallel-builds", "2"),
    ]);
    let mut client = farm.client();
    let script = |name: &str| format!("{}; echo >$out", farm.await_gate(name));
    let all: Vec<Drv> = (0..5)
        .map(|number| {
            client.write(Script::new(
                &format!("x{number}"),
                &script(&format!("go{number}")),
            ))
        })
        .collect();
    let building = client.start(&all.iter().collect::<Vec<_>>());
    let waiting = || {
        let mut names = crate::farm::names(&farm.gate());
        names.retain(|name| name.contains("-at-"));
        names
    };
    assert!(
        crate::harness::eventually(|| waiting().len() == 3),
        "{:?}",
        waiting()
    );
    building.wait_for("waiting for locks or build slots...\n");
    let at = |machine: &str| {
        waiting()
            .iter()
            .filter(|name| name.ends_with(machine))
            .count()
    };
    assert_eq!((at("build-1"), at("build-2")), (1, 2));
    assert_eq!(farm.taken_slots().len(), 3);
    (0..5).for_each(|number| farm.open(&format!("go{number}")));
    building.finish().1.succeeded();
    farm.assert_nothing_left();
}

#[test]
fn an_entry_given_twice_lends_its_slots_once() {
    let farm = with_loads(&[0.0]);
    let entry = farm.entry(0).plain("parallel-builds", "1");
    farm.configure(&[entry.clone(), entry]);
    let mut client = farm.client();
    let script = format!("{}; echo >$out", farm.await_gate("go"));
    let one = client.write(Script::new("one", &script));
    let two = client.write(Script::new("two", "echo >$out"));
    let building = client.start(&[&one]);
    farm.wait_for_builder("go");
    let mut hook = HookProcess::start(&farm);
    assert_eq!(hook.ask(&two), "postpone");
    farm.open("go");
    building.finish().1.succeeded();
}

#[test]
fn one_without_space_is_passed_over() {
    let small = Kind {
        store_mib: Some(64),
        ..Kind::default()
    };
    let mut farm = Farm::with(&[small, Kind::default()]);
    farm.start(&["--max-jobs=0"]);
    farm.configure(&[farm.entry(0).plain("speed", "9.0"), farm.entry(1)]);
    let mut client = farm.client();
    let script = tells(&farm, &mut client, "x");
    let drv = client.write(script);
    let built = client.build(&[&drv]);
    built.succeeded();
    let skipping = "skipping machine 'build-1' because it is low on disk space (";
    let (_, rest) = built.log.split_once(skipping).expect(&built.log);
    let (free, _) = rest.split_once(" MiB free)\n").expect(rest);
    assert!((50..100).contains(&free.parse::<u32>().unwrap()), "{free}");
    built.said("built on build-2\n");
    assert_eq!(farm.health(0)["failures"], 0);
}

#[test]
fn who_waits_can_hear_why() {
    let farm = with_loads(&[3000.0, 0.0]);
    farm.configure(&[
        farm.entry(0).plain("overload-threshold", "0.5"),
        farm.entry(1),
    ]);
    for (verbosity, told) in [(1, false), (2, true)] {
        farm.forget();
        let mut client = farm.client();
        client.set(|options| options.verbosity = verbosity);
        let script = tells(&farm, &mut client, &format!("x{verbosity}"));
        let drv = client.write(script);
        let built = client.build(&[&drv]);
        built.succeeded();
        let reason = "' to 'build-1': its load ";
        assert_eq!(built.log.contains(reason), told, "{}", built.log);
    }
}
