//! Machines that a command prints.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::entry::Entry;
use crate::farm::{CLIENT, Farm, Process};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::{eventually, is_ours};
use crate::hook_process::HookProcess;

/// A farm whose machines are printed by a command, which also counts how often it runs.
struct Cloud {
    farm: Farm,
}

impl Cloud {
    /// With these fields of its table, and these entries at first.
    fn new(machines: usize, fields: &str) -> Cloud {
        let cloud = Cloud {
            farm: Farm::new(machines),
        };
        let script = "#!/bin/sh\nhere=$(dirname \"$0\")\necho x >>\"$here/runs\"\n\
             test ! -e \"$here/slow\" || sleep 1000\n\
             test ! -e \"$here/fails\" || { echo no credentials >&2; exit 1; }\n\
             exec cat \"$here/entries\"\n";
        fs::create_dir(cloud.file("")).unwrap();
        fs::write(cloud.file("command"), script).unwrap();
        fs::set_permissions(cloud.file("command"), fs::Permissions::from_mode(0o755)).unwrap();
        let table = format!(
            "[[generate]]\ncommand = [{:?}]\n{fields}\n",
            cloud.file("command")
        );
        fs::write(cloud.farm.site.configuration().join("machines.toml"), table).unwrap();
        let entries: Vec<_> = (0..machines).map(|index| cloud.farm.entry(index)).collect();
        cloud.print(&entries);
        cloud
    }

    fn file(&self, name: &str) -> PathBuf {
        self.farm.site.path("cloud").join(name)
    }

    /// What the command prints from now on.
    fn print(&self, entries: &[Entry]) {
        let text: String = entries.iter().map(Entry::toml).collect();
        fs::write(self.file("new"), text).unwrap();
        fs::rename(self.file("new"), self.file("entries")).unwrap();
    }

    fn runs(&self) -> usize {
        let runs = fs::read_to_string(self.file("runs")).unwrap_or_default();
        runs.lines().count()
    }

    /// Makes the last answer older, by changing what is remembered.
    fn age(&self, seconds: u64) {
        let directory = self.farm.offload_directory().join("generated");
        for name in crate::farm::names(&directory) {
            if name.ends_with(".json") {
                let file = directory.join(name);
                let mut json: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
                for time in ["asked", "answered"] {
                    json[time] = json[time].as_u64().unwrap().saturating_sub(seconds).into();
                }
                fs::write(file, serde_json::to_vec(&json).unwrap()).unwrap();
            }
        }
    }

    fn status(&self) -> Vec<String> {
        let text = self.farm.run(CLIENT, &["offload", "status", "--json"]);
        // Warnings come after it.
        let json = serde_json::Deserializer::from_str(&text)
            .into_iter::<Value>()
            .next();
        let json = json.unwrap().unwrap();
        let names = json.as_array().unwrap().iter();
        names
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect()
    }
}

fn telling(farm: &Farm, client: &mut Client, name: &str) -> Drv {
    let script = format!("{}; echo built on $me; echo >$out", farm.where_am_i());
    client.write(Script::new(name, &script))
}

#[test]
fn what_a_command_prints_are_machines() {
    let cloud = Cloud::new(2, "every = 1000");
    let farm = &cloud.farm;
    let mut client = farm.client();
    cloud.print(&[farm.entry(0)]);
    let drvs: Vec<Drv> = (0..4)
        .map(|number| telling(farm, &mut client, &format!("x{number}")))
        .collect();
    let (mut client, built) = client.start(&drvs.iter().collect::<Vec<_>>()).finish();
    built.succeeded();
    built.did_not_say("built on build-2\n");
    assert_eq!(cloud.status(), ["build-1"]);
    assert_eq!(cloud.runs(), 1);
    // The old answer is used while a new one is fetched in the background.
    cloud.print(&[farm.entry(1)]);
    cloud.age(1000);
    let drv = telling(farm, &mut client, "old");
    let built = client.build(&[&drv]);
    built.succeeded();
    assert!(eventually(|| cloud.status() == ["build-2"]));
    assert_eq!(cloud.runs(), 2);
    let drv = telling(farm, &mut client, "new");
    client.build(&[&drv]).said("built on build-2\n");
    drop(client);
    farm.assert_nothing_left();
}

/// The machines that the daemon tells of.
fn told(cloud: &Cloud) -> Vec<String> {
    let text = cloud.farm.run(CLIENT, &["status", "--format=json"]);
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status["machines_error"], Value::Null, "{status:#}");
    let machines = status["machines"].as_array().unwrap().iter();
    let names = machines.map(|one| one["name"].as_str().unwrap().to_owned());
    names.collect()
}

#[test]
fn the_status_tells_of_printed_machines_and_runs_nothing() {
    let cloud = Cloud::new(2, "every = 1000\nkeep = 2000");
    let farm = &cloud.farm;
    let mut client = farm.client();
    assert_eq!(told(&cloud), [""; 0]);
    assert_eq!(cloud.runs(), 0);
    let drv = telling(farm, &mut client, "x");
    client.build(&[&drv]).succeeded();
    let both = || told(&cloud) == ["build-1", "build-2"];
    assert!(eventually(both), "{:?}", told(&cloud));
    // However old that is.
    cloud.age(3000);
    let runs = cloud.runs();
    assert!(both());
    assert_eq!(cloud.runs(), runs);
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn a_hundred_hooks_run_the_command_once() {
    let cloud = Cloud::new(0, "every = 1000");
    let farm = &cloud.farm;
    cloud.print(&[farm.entry(0).plain("parallel-builds", "0")]);
    let mut client = farm.client();
    let drv = telling(farm, &mut client, "x");
    for runs in 1..=2 {
        let mut hooks: Vec<HookProcess> = (0..100).map(|_| HookProcess::start(farm)).collect();
        for hook in &mut hooks {
            hook.send(format!("0 {} {} \n", crate::farm::SYSTEM, drv.path));
        }
        for hook in &mut hooks {
            assert_eq!(hook.reply(), "postpone");
        }
        let refreshed = || {
            let refreshing = farm
                .hooks()
                .iter()
                .any(|hook| hook.line.ends_with(" refresh"));
            cloud.runs() == runs && !refreshing
        };
        assert!(eventually(refreshed), "{}", cloud.runs());
        // The second time, in the background.
        cloud.age(1000);
    }
}

#[test]
fn a_command_that_fails_costs_no_build_and_is_reported_once() {
    let cloud = Cloud::new(1, "every = 1\nkeep = 1000");
    let farm = &cloud.farm;
    let mut client = farm.client();
    let first = telling(farm, &mut client, "first");
    client.build(&[&first]).succeeded();
    fs::write(cloud.file("fails"), "").unwrap();
    let mut warnings = 0;
    for number in 0..4 {
        cloud.age(1);
        let drv = telling(farm, &mut client, &format!("x{number}"));
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said("built on build-1\n");
        let words = "`command' fails, and its last answer stays in use, which is ";
        warnings += built.log.matches(words).count();
        let runs = cloud.runs();
        assert!(eventually(
            || farm.hooks().is_empty() && cloud.runs() >= runs
        ));
    }
    if is_ours() {
        assert_eq!(warnings, 1);
    }
    // Who asks hears it each time.
    for _ in 0..2 {
        let text = farm.run(CLIENT, &["offload", "status"]);
        let words = "machines.toml:1:1: `command' fails, and its last answer stays in use, ";
        assert!(
            text.contains(words) && text.contains(": no credentials\n"),
            "{text}"
        );
    }
    cloud.age(2000);
    let (succeeded, text) = farm.try_run(CLIENT, &["offload", "status"]);
    assert!(
        !succeeded && text.contains("`command' fails, and its machines are not used: "),
        "{text}"
    );
    fs::remove_file(cloud.file("fails")).unwrap();
    cloud.age(2000);
    assert_eq!(cloud.status(), ["build-1"]);
}

#[test]
fn a_machine_that_vanishes_keeps_its_build_and_one_that_is_lost_fails_none() {
    let cloud = Cloud::new(3, "every = 1000");
    let farm = &cloud.farm;
    cloud.print(&[farm.entry(0), farm.entry(1).plain("speed", "0.1")]);
    let mut client = farm.client();
    let script = |name: &str| format!("{}; echo built on $me; echo >$out", farm.await_gate(name));
    let stays = client.write(Script::new("stays", &script("stays")));
    let lost = client.write(Script::new("lost", &script("lost")));
    let stays = client.start(&[&stays]);
    assert_eq!(farm.wait_for_builder("stays"), "build-1");
    let mut client = farm.client();
    let busybox = client.busybox().clone();
    let mut hook = HookProcess::start(farm);
    assert_eq!(hook.ask(&lost), "accept");
    hook.send_paths(&[&busybox], &[lost.out()]);
    let at = farm.wait_for_builder("lost");
    // Both vanish; there is another one.
    cloud.print(&[farm.entry(2)]);
    cloud.age(5000);
    assert_eq!(cloud.status(), ["build-3"]);
    farm.open("stays");
    let (_, built) = stays.finish();
    built.succeeded();
    built.said("built on build-1\n");
    // The one is lost: what it built goes on neither here nor there, but is tried again.
    let index = usize::from(at == "build-2");
    let daemons = farm.machines[index].processes("guix-daemon");
    daemons.iter().for_each(Process::kill);
    hook.wait_for_line(&format!("lost '{at}'"));
    assert_eq!(hook.end(), Some(1), "{}", hook.output);
    assert!(
        hook.output.contains("no other build machine can take"),
        "{}",
        hook.output
    );
    let drv = telling(farm, &mut client, "next");
    client.build(&[&drv]).said("built on build-3\n");
    farm.open("lost");
}

#[test]
fn hostile_answers_harm_nobody() {
    let cloud = Cloud::new(2, "every = 1\nkeep = 0\ntimeout = 2\nrun-as = \"nobody\"");
    let farm = &cloud.farm;
    for name in ["", "command", "entries"] {
        let _ = std::os::unix::fs::chown(cloud.file(name), Some(65534), None);
    }
    let toml = farm.site.configuration().join("machines.toml");
    let table = fs::read_to_string(&toml).unwrap();
    fs::write(&toml, format!("{}{table}", farm.entry(0).toml())).unwrap();
    let evil = farm.site.path("evil");
    fs::write(
        &evil,
        format!("Host *\nProxyCommand touch {0}.done\n", evil.display()),
    )
    .unwrap();
    let evil = evil.to_str().unwrap().to_owned();
    let named = |name: &str| farm.entry(1).text("name", name);
    let print = |entries: &[Entry]| {
        cloud.print(entries);
        cloud.age(10_000);
        farm.try_run(CLIENT, &["offload", "status"])
    };
    // The name of a listed machine, by which it would lead elsewhere.
    let (_, text) = print(&[farm
        .entry(0)
        .text("host-key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA==")]);
    assert!(text.contains("is not a whole public key"), "{text}");
    let other = farm
        .entry(0)
        .plain("port", "22")
        .plain("parallel-builds", "77");
    let (_, text) = print(&[other]);
    assert!(text.contains("0/2") && !text.contains("/77"), "{text}");
    // Programs of the command's choice.
    let pool = Entry::default()
        .text("name", "pool")
        .list("systems", &[crate::farm::SYSTEM])
        .text("transport", "command")
        .list("command", &["touch", &format!("{evil}.done")]);
    let (_, text) = print(&[
        named("build-2").text("ssh-config", &evil),
        pool,
        named("../x"),
    ]);
    for words in [
        "field `ssh-config': not from a command with `run-as'",
        "field `transport': not from a command with `run-as'",
        "field `name': `../x' is not a host name",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!farm.site.path("evil.done").exists());
    // Too much, too late, and nonsense; the listed machine stays in use.
    let endless = "#!/bin/sh\nyes '[[machine]]'\n";
    let late = "#!/bin/sh\nsleep 1000\n";
    let nonsense = "#!/bin/sh\nprintf '\\033[2J[[[\\377'\n";
    let nested = "#!/bin/sh\necho '[[generate]]'; echo 'command = [\"reboot\"]'\n";
    for (script, words) in [
        (endless, "it prints more than 4 MiB"),
        (late, "it takes longer than 2 s"),
        (nonsense, "it prints what is not UTF-8"),
        (nested, "a command's answer has no commands"),
    ] {
        fs::write(cloud.file("command"), script).unwrap();
        let (succeeded, text) = print(&[]);
        assert!(
            succeeded && text.contains(words) && text.contains("build-1"),
            "{words}: {text}"
        );
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
    let left =
        || (farm.head_processes().iter()).any(|process| matches!(process.name(), "yes" | "sleep"));
    assert!(eventually(|| !left()));
}
