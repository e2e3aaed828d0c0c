//! Builds over networks with delay, loss, low bandwidth, or silence.

use std::fs;
use std::time::{Duration, Instant};

use formats::{Algorithm, StorePath};

use crate::cable::{self, Quality};
use crate::farm::{CLIENT, Farm, Kind};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::{eventually, is_ours};

const MIB: usize = 1 << 20;

/// Working machines with cables of this quality.
fn farm(machines: usize, quality: Quality) -> Farm {
    let kind = Kind {
        cable: Some(quality),
        // As in the manual, but sooner: a peer that is gone without notice is given up there, too.
        sshd: "ClientAliveInterval 4".to_owned(),
        ..Kind::default()
    };
    let mut farm = Farm::with(&vec![kind; machines]);
    farm.start(&["--max-jobs=0"]);
    farm
}

/// An incompressible store item.
pub fn noise(client: &mut Client, name: &str, size: usize) -> (StorePath, Vec<u8>) {
    let mut data = vec![0; size];
    rand::fill(&mut data[..]);
    let path = client
        .connection
        .add_to_store(name, true, Algorithm::Sha256, |nar| {
            use formats::nar::Sink;
            nar.regular(false, data.len() as u64, &mut &data[..])
        })
        .unwrap();
    (path, data)
}

/// A build without inputs, which tells where it runs.
fn trivial(farm: &Farm, client: &mut Client, name: &str) -> Drv {
    let script = format!("{}; echo built on $me; echo >$out", farm.where_am_i());
    client.write(Script::new(name, &script))
}

/// Checks that every store is intact.
fn assert_stores_are_whole(farm: &Farm) {
    farm.run(CLIENT, &["gc", "--verify=contents"]);
    for machine in &farm.machines {
        machine.run(&farm.site, CLIENT, &["gc", "--verify=contents"]);
    }
}

#[test]
fn frames_that_are_lost() {
    if !cable::available() {
        return;
    }
    let farm = farm(
        2,
        Quality {
            delay: Duration::from_millis(10),
            loss: 0.03,
            ..Quality::default()
        },
    );
    farm.configure(&[
        farm.entry(0).text("transport", "socket"),
        farm.entry(1).text("transport", "commands"),
    ]);
    let mut client = farm.client();
    let attempts = |name: &str| farm.gate().join(format!("attempts-{name}"));
    let builds: Vec<_> = ["a", "b", "c", "d"]
        .into_iter()
        .map(|name| {
            let (item, data) = noise(&mut client, "data", MIB / 2);
            let script = format!(
                "echo building {name}; echo x >>{}; cat {item} >$out",
                attempts(name).display()
            );
            let drv = client.write(Script::new(name, &script).source(&item));
            (name, drv, data)
        })
        .collect();
    let drvs: Vec<&Drv> = builds.iter().map(|(_, drv, _)| drv).collect();
    let built = client.build(&drvs);
    built.succeeded();
    for (name, drv, data) in &builds {
        built.said(&format!("building {name}\n"));
        assert_eq!(fs::read_to_string(attempts(name)).unwrap(), "x\n");
        assert!(fs::read(drv.out().as_str()).unwrap() == *data, "{name}");
    }
    drop(client);
    for (index, machine) in farm.machines.iter().enumerate() {
        assert!(machine.cable.as_ref().unwrap().lost() > 20);
        assert_eq!(farm.health(index)["all_failures"], 0);
        assert_eq!(farm.health(index)["builds"], 2);
    }
    assert_stores_are_whole(&farm);
    farm.assert_nothing_left();
}

#[test]
fn a_cable_that_is_full() {
    if !cable::available() {
        return;
    }
    let farm = farm(1, Quality::default());
    farm.configure(&[farm.entry(0).plain("parallel-builds", "4")]);
    let mut client = farm.client();
    let script = format!(
        "until test -e {}/quiet; do echo talking; sleep 0.2; done; echo >$out",
        farm.gate().display()
    );
    let talker = client.write(Script::new("talker", &script));
    let (item, _) = noise(&mut client, "data", 3 * MIB / 2);
    let large = client.write(Script::new("large", "echo >$out").source(&item));
    let small = trivial(&farm, &mut client, "small");
    // The common inputs are there now.
    let talk = client.start(&[&talker]);
    talk.wait_for("talking\n");
    let slow = Quality {
        delay: Duration::from_millis(5),
        rate: 500_000,
        ..Quality::default()
    };
    farm.set_quality(0, slow);
    let began = Instant::now();
    let upload = farm.client().start(&[&large]);
    upload.wait_for("sending 2 store items");
    std::thread::sleep(Duration::from_secs(3));
    // One direction is saturated, the other is not.
    let lines = || talk.said().matches("talking\n").count();
    let before = lines();
    assert!(eventually(|| lines() > before + 5), "{}", talk.said());
    // A probe may time out: then that is reported, and the machine isn't at fault.
    farm.forget();
    let another = farm.client().start(&[&small]);
    let asked = Instant::now();
    let status = farm.run(CLIENT, &["offload", "status", "--json"]);
    let answered = asked.elapsed();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let error = status[0]["error"].as_str();
    let says_why = |error: &str| error.contains("its connection is busy with store items");
    assert!(error.is_none_or(says_why), "{status:#}");
    assert!(answered < Duration::from_secs(17), "{answered:?}");
    assert!(!upload.is_finished());
    let (_, uploaded) = upload.finish();
    uploaded.succeeded();
    uploaded.said("\nsending to 'build-1': ");
    let took = began.elapsed();
    println!("status after {answered:?}: {error:?}; upload {took:?}");
    // Longer than the timeout for a silent machine.
    assert!(took > Duration::from_secs(22), "{took:?}");
    farm.set_quality(0, Quality::default());
    another.finish().1.succeeded();
    farm.open("quiet");
    talk.finish().1.succeeded();
    assert_eq!(farm.health(0)["all_failures"], 0);
    farm.assert_nothing_left();
    assert_stores_are_whole(&farm);
}

/// What is in progress when a cable goes silent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Sending,
    Building,
    Retrieving,
}

/// The first of two machines goes silent; the other one takes over.
fn silenced(phase: Phase, transport: &str) -> Farm {
    let farm = farm(2, Quality::default());
    let entry = farm.entry(0).plain("speed", "9.0");
    farm.configure(&[entry.text("transport", transport), farm.entry(1)]);
    let mut client = farm.client();
    let (item, data) = noise(&mut client, "data", 2 * MIB);
    // The first one has the common inputs.
    let first = trivial(&farm, &mut client, "first");
    client.build(&[&first]).said("built on build-1\n");
    let gate = match phase {
        Phase::Building => farm.await_gate("go"),
        _ => farm.where_am_i(),
    };
    let script = format!("{gate}; echo built on $me; cp {item} $out");
    let drv = client.write(Script::new("x", &script).source(&item));
    let thin = Quality {
        rate: 4_000_000,
        ..Quality::default()
    };
    if phase == Phase::Sending {
        farm.set_quality(0, thin);
    }
    let building = client.start(&[&drv]);
    let cable = farm.machines[0].cable.as_ref().unwrap();
    match phase {
        Phase::Building => assert_eq!(farm.wait_for_builder("go"), "build-1"),
        Phase::Sending => building.wait_for("sending 2 store items"),
        Phase::Retrieving => {
            building.wait_for("built on build-1\n");
            farm.set_quality(0, thin);
            building.wait_for("retrieving 1 store item from 'build-1'");
        }
    }
    if phase != Phase::Building {
        let start = cable.bytes();
        assert!(eventually(|| cable.bytes() > start + 200_000));
    }
    farm.set_quality(0, Quality::DEAD);
    let silent = Instant::now();
    building.wait_for("lost 'build-1' ");
    let noticed = silent.elapsed();
    println!("{phase:?} by {transport}: noticed after {noticed:?}");
    // Three of ssh's keepalive messages without a reply.
    assert!(noticed < Duration::from_secs(25), "{noticed:?}");
    farm.open("go");
    let (client, built) = building.finish();
    built.succeeded();
    built.said(match phase {
        Phase::Sending => "lost 'build-1' while sending store items: ",
        Phase::Building => "lost 'build-1' while building ",
        Phase::Retrieving => "lost 'build-1' while retrieving store items: ",
    });
    built.said("built on build-2\n");
    assert!(fs::read(drv.out().as_str()).unwrap() == data);
    assert_eq!(farm.health(0)["failures"], 1);
    drop(client);
    // It returns by itself after a while.
    farm.set_quality(0, Quality::default());
    farm
}

#[test]
fn a_cable_that_falls_silent() {
    if !cable::available() {
        return;
    }
    // These mostly wait, so run them in parallel.
    std::thread::scope(|scope| {
        for (phase, transport) in [(Phase::Sending, "socket"), (Phase::Retrieving, "commands")] {
            scope.spawn(move || {
                let farm = silenced(phase, transport);
                farm.assert_nothing_left();
                assert_stores_are_whole(&farm);
            });
        }
        scope.spawn(|| {
            let farm = silenced(Phase::Building, "commands");
            farm.assert_nothing_left();
            let mut client = farm.client();
            let mut number = 0;
            let began = Instant::now();
            while farm.health(0)["failures"] != 0 {
                assert!(
                    began.elapsed() < Duration::from_secs(25),
                    "{}",
                    farm.health(0)
                );
                number += 1;
                let drv = trivial(&farm, &mut client, &format!("later-{number}"));
                let built = client.build(&[&drv]);
                built.succeeded();
                built.did_not_say("lost ");
                std::thread::sleep(Duration::from_millis(500));
            }
            assert_stores_are_whole(&farm);
        });
        scope.spawn(short_silence);
    });
}

/// A few seconds of silence only cost time.
fn short_silence() {
    let farm = farm(1, Quality::default());
    let mut client = farm.client();
    let (item, data) = noise(&mut client, "data", 2 * MIB);
    let script = format!("{}; cp {item} $out", farm.await_gate("go"));
    let drv = client.write(Script::new("x", &script).source(&item));
    let rate = 8_000_000;
    let thin = Quality {
        rate,
        ..Quality::default()
    };
    farm.set_quality(0, thin);
    let silence = || {
        farm.set_quality(0, Quality::DEAD);
        std::thread::sleep(Duration::from_secs(4));
        farm.set_quality(0, thin);
    };
    let building = client.start(&[&drv]);
    building.wait_for("sending ");
    silence();
    farm.wait_for_builder("go");
    farm.open("go");
    building.wait_for("retrieving ");
    silence();
    let (_, built) = building.finish();
    built.succeeded();
    assert!(fs::read(drv.out().as_str()).unwrap() == data);
    assert_eq!(farm.health(0)["all_failures"], 0);
    farm.assert_nothing_left();
}

#[test]
fn a_machine_far_away() {
    if !is_ours() || !cable::available() {
        return; // how often another daemon's hook is asked is its own affair
    }
    let farm = farm(1, Quality::default());
    let mut client = farm.client();
    let mut time = |name: String| {
        let drv = trivial(&farm, &mut client, &name);
        let began = Instant::now();
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said("built on build-1\n");
        began.elapsed().as_secs_f64()
    };
    // The minimum of several: the rest is other load of this machine.
    let mut least = |name: &str, count| {
        let times = (0..count).map(|number| time(format!("{name}-{number}")));
        times.min_by(f64::total_cmp).unwrap()
    };
    least("first", 1);
    let near = least("near", 2);
    let far = Quality {
        delay: Duration::from_millis(150),
        jitter: Duration::from_millis(20),
        ..Quality::default()
    };
    farm.set_quality(0, far);
    let warm = least("warm", 2);
    farm.end_masters();
    farm.forget();
    let cold = least("cold", 1);
    let trips = |time: f64| (time - near) / 0.32;
    let (warm, cold) = (trips(warm), trips(cold));
    println!("round trips: {warm:.1} over a connection that stands, {cold:.1} without");
    assert!(warm < 12.0 && cold < 50.0, "{warm} {cold}");
    assert_eq!(farm.health(0)["all_failures"], 0);
    drop(client);
    assert_stores_are_whole(&farm);
    farm.assert_nothing_left();
}
