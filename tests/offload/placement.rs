//! Placement: a build goes where its inputs are, unless another machine has it done sooner.

use std::fs;

use formats::StorePath;

use crate::bad_cables::noise;
use crate::cable::{self, Quality};
use crate::choosing::built_on;
use crate::farm::{CLIENT, Farm, Kind, names};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::{eventually, is_ours};
use crate::hook_process::HookProcess;

const MIB: usize = 1 << 20;

/// Idle machines, whose lines carry so many KiB in a second.
fn farm(machines: usize, rate: u64) -> Farm {
    let line = Quality {
        rate: rate * 1024 * 8,
        ..Quality::default()
    };
    let kind = Kind {
        cable: Some(line),
        ..Kind::default()
    };
    let mut farm = Farm::with(&vec![kind; machines]);
    farm.start(&["--max-jobs=0"]);
    farm
}

/// A derivation that needs an item, and tells where it was built.
fn needs(farm: &Farm, client: &mut Client, name: &str, item: &StorePath) -> Drv {
    let script = format!(
        "{}; echo built on $me; echo {name} >$out",
        farm.where_am_i()
    );
    client.write(Script::new(name, &script).source(item))
}

/// The position of a machine with this name.
fn index(name: &str) -> usize {
    name.strip_prefix("build-")
        .unwrap()
        .parse::<usize>()
        .unwrap()
        - 1
}

/// Sets the load that a machine reports, and makes what is known of it old.
fn set_load(farm: &Farm, machine: usize, load: f64) {
    let processors = std::thread::available_parallelism().unwrap().get() as f64;
    let text = format!("{:.2} 0.00 0.00 1/1 1\n", load * processors);
    fs::write(farm.machines[machine].files.join("loadavg"), text).unwrap();
    let file = format!("{}:22/health.json", farm.machines[machine].name);
    let mut health = farm.health(machine);
    health["asked"] = 0.into();
    fs::write(farm.offload_directory().join(file), health.to_string()).unwrap();
}

#[test]
fn the_machine_that_has_the_inputs() {
    if !cable::available() {
        return;
    }
    for transport in ["socket", "commands"] {
        let farm = farm(2, 2048);
        let entry = |index| farm.entry(index).text("transport", transport);
        farm.configure(&[entry(0), entry(1)]);
        let mut client = farm.client();
        let (item, _) = noise(&mut client, "data", 4 * MIB);
        let first = needs(&farm, &mut client, "first", &item);
        let machine = built_on(&mut client, &first);
        for number in 0..20 {
            let drv = needs(&farm, &mut client, &format!("x{number}"), &item);
            assert_eq!(built_on(&mut client, &drv), machine, "build {number}");
        }
        drop(client);
        farm.assert_nothing_left();
    }
}

#[test]
fn a_chain_stays_where_its_inputs_are() {
    if !cable::available() {
        return;
    }
    let farm = farm(3, 2048);
    let mut client = farm.client();
    let mut last: Option<Drv> = None;
    for step in 0..6 {
        let script = format!(
            "{}; echo step {step} on $me; head -c {} /dev/urandom >$out",
            farm.where_am_i(),
            2 * MIB
        );
        let script = Script::new(&format!("step-{step}"), &script);
        let script = match &last {
            Some(before) => script.input(before, "out"),
            None => script,
        };
        last = Some(client.write(script));
    }
    let built = client.build(&[&last.unwrap()]);
    built.succeeded();
    let machine = |step: usize| {
        let (_, rest) = built.log.split_once(&format!("step {step} on ")).unwrap();
        rest.lines().next().unwrap()
    };
    for step in 1..6 {
        assert_eq!(machine(step), machine(0), "{}", built.log);
    }
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn waiting_is_weighed_against_sending() {
    if !cable::available() {
        return;
    }
    let farm = farm(2, 512);
    farm.configure(&[farm.entry(0)]);
    let mut client = farm.client();
    client.set(|options| options.verbosity = 2);
    let (item, _) = noise(&mut client, "data", 3 * MIB);
    let first = needs(&farm, &mut client, "first", &item);
    assert_eq!(built_on(&mut client, &first), "build-1");
    farm.configure(&[farm.entry(0), farm.entry(1)]);
    // Sending everything to the other one takes about 10 s. A bit of load is no reason to do that.
    set_load(&farm, 0, 0.5);
    let drv = needs(&farm, &mut client, "loaded", &item);
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("built on build-1\n");
    if is_ours() {
        // Another daemon does not pass on that its client wants to know.
        built.said("where to build '");
        built.said(
            "': 'build-1': 15 s (has all inputs, builds perhaps 15 s at load 0.50); 'build-2': ",
        );
        built.said(" s (sends ");
    }
    // Much is.
    set_load(&farm, 0, 30.0);
    let drv = needs(&farm, &mut client, "overloaded", &item);
    assert_eq!(built_on(&mut client, &drv), "build-2");
    // Now both have it.
    let drv = needs(&farm, &mut client, "later", &item);
    assert_eq!(built_on(&mut client, &drv), "build-2");
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn a_record_that_lies_costs_only_the_sending() {
    let farm = Farm::new(2);
    let mut client = farm.client();
    let (item, _) = noise(&mut client, "data", 4 * MIB);
    let first = needs(&farm, &mut client, "first", &item);
    let name = built_on(&mut client, &first);
    let machine = &farm.machines[index(&name)];
    // Garbage is collected there, of which the head hears nothing.
    let is_there = || {
        let names = machine.store_names();
        names.iter().any(|name| name == item.base_name())
    };
    assert!(is_there());
    machine.collect_garbage(&farm.site);
    assert!(!is_there());
    for (round, sent) in [("again", true), ("and-again", false)] {
        let drv = needs(&farm, &mut client, round, &item);
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said(&format!("built on {name}\n"));
        let little = built.log.contains(" (0.0 MiB) to '");
        assert_ne!(little, sent, "{}", built.log);
    }
    assert_eq!(farm.health(index(&name))["all_failures"], 0);
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn what_cannot_be_read_in_the_state_directory_is_no_harm() {
    let farm = Farm::new(2);
    let mut client = farm.client();
    let (item, _) = noise(&mut client, "data", MIB);
    let first = needs(&farm, &mut client, "first", &item);
    built_on(&mut client, &first);
    let state = farm.offload_directory();
    let absurd =
        r#"{"rates_there": [-1.0, 1e308, 0], "rates_back": [1e-300], "rates_fetched": [0]}"#;
    let huge = "x".repeat(20 * MIB);
    let other = "have 9\n\n12345678";
    for (round, text) in ["", "{", other, absurd, &huge].into_iter().enumerate() {
        fs::create_dir_all(state.join("sending/directory")).unwrap();
        fs::write(state.join("sending/left"), text).unwrap();
        for machine in ["build-1:22", "build-2:22"] {
            for file in ["have", "health.json"] {
                fs::write(state.join(machine).join(file), text).unwrap();
            }
        }
        let drv = needs(&farm, &mut client, &format!("x{round}"), &item);
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said("built on build-");
        built.did_not_say("warning");
        assert!(!state.join("sending/left").exists());
    }
    // What a machine has is known again.
    let drv = needs(&farm, &mut client, "last", &item);
    let name = built_on(&mut client, &drv);
    for number in 0..5 {
        let drv = needs(&farm, &mut client, &format!("y{number}"), &item);
        assert_eq!(built_on(&mut client, &drv), name);
    }
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn what_is_on_its_way_to_one_machine_is_not_sent_to_another() {
    if !is_ours() || !cable::available() {
        return; // how many hooks another daemon starts at a time is its own affair
    }
    let farm = farm(2, 512);
    farm.configure(&[farm.entry(0)]);
    let mut client = farm.client();
    // The line is measured with the common inputs.
    let (little, _) = noise(&mut client, "little", 1);
    let first = needs(&farm, &mut client, "first", &little);
    built_on(&mut client, &first);
    let (item, _) = noise(&mut client, "data", 4 * MIB);
    farm.configure(&[farm.entry(0), farm.entry(1)]);
    let drvs = ["a", "b"].map(|name| needs(&farm, &mut client, name, &item));
    let building = client.start(&[&drvs[0]]);
    building.wait_for("sending ");
    let sending = farm.offload_directory().join("sending");
    assert_eq!(names(&sending).len(), 1);
    let mut other = farm.client();
    other.build(&[&drvs[1]]).said("built on build-1\n");
    building.finish().1.said("built on build-1\n");
    assert!(farm.machines[1].store_names().is_empty());
    assert!(eventually(|| names(&sending).is_empty()));
    farm.assert_nothing_left();
}

#[test]
fn the_record_of_a_hook_that_is_killed_means_nothing() {
    if !cable::available() {
        return;
    }
    let farm = farm(2, 256);
    let mut client = farm.client();
    let (item, _) = noise(&mut client, "data", 4 * MIB);
    let drvs = ["a", "b"].map(|name| needs(&farm, &mut client, name, &item));
    let busybox = client.busybox().clone();
    let mut killed = HookProcess::start(&farm);
    assert_eq!(killed.ask(&drvs[0]), "accept");
    killed.send_paths(&[&busybox, &item], &[drvs[0].out()]);
    killed.wait_for_line("sending ");
    let sending = farm.offload_directory().join("sending");
    assert_eq!(names(&sending).len(), 1);
    drop(killed);
    assert!(eventually(|| farm.hooks().is_empty()));
    assert_eq!(names(&sending).len(), 1);
    let mut next = HookProcess::start(&farm);
    assert_eq!(next.ask(&drvs[1]), "accept");
    // Its own.
    assert_eq!(names(&sending).len(), 1);
    drop(next);
    assert!(eventually(|| farm.hooks().is_empty()));
    let mut last = HookProcess::start(&farm);
    assert_eq!(last.ask(&drvs[1]), "accept");
    drop(last);
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn the_history_says_how_long_a_build_will_take() {
    if !is_ours() {
        return; // another daemon does not pass on that its client wants to know
    }
    let farm = Farm::new(2);
    let mut client = farm.client();
    client.set(|options| options.verbosity = 2);
    let item = client.text("data", "data", &[]);
    for (name, known) in [("tool-1.0", false), ("tool-1.1", true), ("other-1", false)] {
        let drv = needs(&farm, &mut client, name, &item);
        let built = client.build(&[&drv]);
        built.succeeded();
        assert_eq!(
            built.log.contains(", builds about "),
            known,
            "{}",
            built.log
        );
        assert_ne!(
            built.log.contains(", builds perhaps "),
            known,
            "{}",
            built.log
        );
        // The daemon writes it a little later.
        let words = ["history", "--format=json", drv.path.as_str()];
        let is_there = || farm.run(CLIENT, &words).contains("\"done\"");
        assert!(eventually(is_there), "{name}");
    }
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn large_outputs_do_not_come_back_over_a_slow_line() {
    if !cable::available() {
        return;
    }
    let farm = farm(2, 512);
    farm.set_quality(1, Quality::default());
    let mut client = farm.client();
    let (item, _) = noise(&mut client, "data", MIB / 2);
    let large = |name: &str| {
        let where_am_i = farm.where_am_i();
        let script = format!("{where_am_i}; echo built on $me; head -c 4194304 /dev/urandom >$out");
        Script::new(name, &script).source(&item)
    };
    // Both lines are measured; then only the first machine has the input.
    for (machine, name) in [(1, "other-1.0"), (0, "tool-1.0")] {
        farm.configure(&[farm.entry(machine)]);
        let drv = client.write(large(name));
        built_on(&mut client, &drv);
    }
    farm.machines[1].collect_garbage(&farm.site);
    let have = farm.offload_directory().join("build-2:22/have");
    fs::remove_file(have).unwrap();
    farm.configure(&[farm.entry(0), farm.entry(1)]);
    // Nothing is known of the first one's outputs.
    for (name, machine) in [("new-1.0", "build-1"), ("tool-1.1", "build-2")] {
        let drv = client.write(large(name));
        assert_eq!(built_on(&mut client, &drv), machine, "{name}");
    }
    drop(client);
    farm.assert_nothing_left();
}
