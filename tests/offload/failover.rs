//! Failing machines: others take over, and no build fails.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::farm::{Farm, Kind, SYSTEM};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::{eventually, is_ours};
use crate::hook_process::HookProcess;

/// Configures two machines, of which this one is always preferred.
fn prefer(farm: &Farm, index: usize, transport: &str) {
    let entry = |other: usize| {
        let speed = if other == index { "9.0" } else { "1.0" };
        farm.entry(other)
            .plain("speed", speed)
            .text("transport", transport)
    };
    farm.configure(&[entry(0), entry(1)]);
}

/// A derivation whose builder waits for `go`, and then tells where it is.
fn waiting(farm: &Farm, client: &mut Client) -> Drv {
    let script = format!(
        "{}; echo built on $me; cp /proc/self/stat $out",
        farm.await_gate("go")
    );
    client.write(Script::new("waiting", &script))
}

/// Something happens to the first machine during a build: the other one takes over.
fn taken_over(transport: &str, words: &str, happen: impl Fn(&Farm)) {
    let farm = Farm::new(2);
    prefer(&farm, 0, transport);
    let mut client = farm.client();
    let drv = waiting(&farm, &mut client);
    let building = client.start(&[&drv]);
    assert_eq!(farm.wait_for_builder("go"), "build-1");
    happen(&farm);
    assert_eq!(farm.wait_for_builder("go"), "build-2");
    farm.open("go");
    let (mut client, built) = building.finish();
    built.succeeded();
    built.said(words);
    built.said(&format!("trying '{}' on 'build-2' instead\n", drv.path));
    built.said("built on build-2\n");
    assert!(client.is_valid(drv.out()));
    assert_eq!(farm.health(0)["failures"], 1);
    assert_eq!(farm.health(1)["builds"], 1);
    drop(client);
    farm.set_cable(0, true);
    farm.assert_nothing_left();
}

/// The processes of sshd on a machine that serve one connection.
fn sessions(farm: &Farm, index: usize) -> Vec<crate::farm::Process> {
    let mut all = farm.machines[index].processes("sshd");
    all.extend(farm.machines[index].processes("sshd-session"));
    all.retain(|process| !process.line.contains("[listener]"));
    all
}

fn cut(farm: &Farm) {
    let sessions = sessions(farm, 0);
    assert!(!sessions.is_empty());
    sessions.iter().for_each(crate::farm::Process::kill);
}

#[test]
fn a_connection_that_is_cut() {
    taken_over("socket", "lost 'build-1' while building ", cut);
}

#[test]
fn a_connection_that_is_cut_under_a_command() {
    taken_over("commands", "'build-1'", cut);
}

#[test]
fn a_daemon_that_dies() {
    taken_over("socket", "lost 'build-1' while building ", |farm| {
        let daemons = farm.machines[0].processes("guix-daemon");
        assert!(!daemons.is_empty());
        daemons.iter().for_each(crate::farm::Process::kill);
    });
}

#[test]
fn a_shared_connection_that_dies() {
    taken_over("socket", "lost 'build-1' while building ", |farm| {
        let masters = farm.ssh_masters();
        // That of the second machine, too; its next user notices.
        masters.iter().for_each(crate::farm::Process::kill);
    });
}

#[test]
fn a_shared_connection_that_ends_as_it_is_used() {
    let mut farm = Farm::with(&[Kind::default()]);
    farm.start(&["--max-jobs=0"]);
    farm.configure(&[farm.entry(0)]);
    let mut client = farm.client();
    let first = client.write(Script::new("first", "echo >$out"));
    client.build(&[&first]).succeeded();
    // So that it is probed.
    farm.forget();
    // Its ssh takes the next hook's command before it notices that the other side is gone.
    let masters = farm.ssh_masters();
    assert!(!masters.is_empty());
    let signal = |signal| {
        for master in &masters {
            kill(Pid::from_raw(master.pid), signal).unwrap();
        }
    };
    signal(Signal::SIGSTOP);
    cut(&farm);
    let second = client.write(Script::new("second", "echo >$out"));
    let building = client.start(&[&second]);
    std::thread::sleep(Duration::from_millis(500));
    signal(Signal::SIGCONT);
    let (client, built) = building.finish();
    built.succeeded();
    built.said("done with offloaded ");
    built.did_not_say("lost ");
    drop(client);
    farm.assert_nothing_left();
}

/// One unusable machine, and one that works: a build goes to the latter.
fn other_used(kind: Kind, prepare: impl Fn(&Farm), words: &str) -> Farm {
    let mut farm = Farm::with(&[kind, Kind::default()]);
    farm.start(&["--max-jobs=0"]);
    prefer(&farm, 0, "auto");
    prepare(&farm);
    let mut client = farm.client();
    let script = format!("{}; echo built on $me; echo >$out", farm.where_am_i());
    let drv = client.write(Script::new("x", &script));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("built on build-2\n");
    built.said(words);
    assert_eq!(farm.health(0)["failures"], 1);
    // Once it is known to be unusable, it costs no more time.
    let next = client.write(Script::new("y", &script));
    let built = client.build(&[&next]);
    built.succeeded();
    built.said("built on build-2\n");
    built.did_not_say(words);
    drop(client);
    farm.assert_nothing_left();
    farm
}

#[test]
fn a_machine_that_cannot_be_reached() {
    let no_sshd = |farm: &Farm| {
        farm.machines[0]
            .processes("sshd")
            .iter()
            .for_each(crate::farm::Process::kill);
    };
    let words = "failed to connect to 'build-1': it cannot be reached";
    other_used(Kind::default(), no_sshd, words);
}

#[test]
fn a_cable_that_is_pulled() {
    // These mostly wait, about 15 seconds: before a build and during one, in parallel.
    let pull = |farm: &Farm| farm.set_cable(0, false);
    std::thread::scope(|scope| {
        scope.spawn(|| taken_over("socket", "lost 'build-1' while building ", pull));
        scope.spawn(|| {
            let began = Instant::now();
            other_used(Kind::default(), pull, "failed to connect to 'build-1': ");
            assert!(
                began.elapsed() < Duration::from_secs(25),
                "{:?}",
                began.elapsed()
            );
        });
    });
}

#[test]
fn a_name_that_does_not_exist() {
    let farm = Farm::new(1);
    let nowhere = farm
        .entry(0)
        .text("name", "nowhere.invalid")
        .plain("speed", "9.0");
    farm.configure(&[nowhere, farm.entry(0)]);
    let mut client = farm.client();
    let drv = client.write(Script::new("x", "echo >$out"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("failed to connect to 'nowhere.invalid': its name cannot be resolved");
}

#[test]
fn a_machine_without_a_daemon() {
    let kind = Kind {
        no_daemon: true,
        ..Kind::default()
    };
    other_used(
        kind,
        |_| (),
        "failed to reach the build daemon of 'build-1': ",
    );
}

#[test]
fn a_machine_without_a_daemon_alone_is_never_accepted() {
    let farm = Farm::with(&[Kind {
        no_daemon: true,
        ..Kind::default()
    }]);
    let mut hook = HookProcess::start(&farm);
    let request = |willing| {
        let drv = "/gnu/store/00000000000000000000000000000000-x.drv";
        format!("{willing} {SYSTEM} {drv} \n")
    };
    hook.send(request(0));
    assert_eq!(hook.reply(), "postpone");
    assert!(
        hook.output
            .contains("failed to reach the build daemon of 'build-1'"),
        "{}",
        hook.output
    );
    // A daemon that can build it now should not wait for machines that don't work.
    hook.send(request(1));
    assert_eq!(hook.reply(), "decline");
    // It starts to work.
    farm.machines[0].start_daemon(&farm.site);
    farm.forget();
    hook.send(request(1));
    assert_eq!(hook.reply(), "accept");
}

#[test]
fn outputs_that_nobody_vouches_for_are_refused() {
    let kind = Kind {
        strange_here: true,
        ..Kind::default()
    };
    let farm = other_used(kind, |_| (), "what 'build-1' sent cannot be taken: ");
    let verified = farm.client().connection.verify_store(true, false).unwrap();
    assert!(!verified, "the store is damaged");
}

#[test]
fn a_machine_that_does_not_accept_our_signature() {
    let kind = Kind {
        strange_there: true,
        ..Kind::default()
    };
    other_used(kind, |_| (), "'build-1' failed at sending store items: ");
}

#[test]
fn a_machine_with_another_host_key() {
    let other_key = |farm: &Farm| {
        let key = std::fs::read_to_string(farm.site.path("ssh/other.pub")).unwrap();
        let wrong = farm
            .entry(0)
            .text("host-key", key.trim())
            .plain("speed", "9.0");
        farm.configure(&[wrong, farm.entry(1)]);
    };
    let words = "failed to connect to 'build-1': its host key is not the one in the machine file";
    other_used(Kind::default(), other_key, words);
}

#[test]
fn a_disk_that_is_full_is_not_the_builds_fault() {
    let small = Kind {
        store_mib: Some(120),
        ..Kind::default()
    };
    let mut farm = Farm::with(&[small, Kind::default()]);
    farm.start(&["--max-jobs=0"]);
    for transport in ["socket", "commands"] {
        farm.forget();
        prefer(&farm, 0, transport);
        let mut client = farm.client();
        // Fills the store, but keeps nothing of it.
        let script = format!(
            "{}; echo built on $me; mkdir $out; dd if=/dev/zero of=$out/large bs=1048576 count=130; rm $out/large",
            farm.where_am_i()
        );
        let drv = client.write(Script::new(&format!("large-{transport}"), &script));
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said("built on build-1\n");
        built.said("No space left on device");
        built.said("'build-1' ran out of resources while building ");
        built.said("built on build-2\n");
        assert_eq!(farm.health(0)["failures"], 1);
        drop(client);
        // The outputs of a failed build are kept for inspection, and then collected.
        farm.machines[0].collect_garbage(&farm.site);
    }
    farm.assert_nothing_left();
}

#[test]
fn a_full_directory_for_builds_is_not_the_builds_fault() {
    let small = Kind {
        build_mib: Some(20),
        ..Kind::default()
    };
    let mut farm = Farm::with(&[small, Kind::default()]);
    farm.start(&["--max-jobs=0"]);
    for transport in ["socket", "commands"] {
        farm.forget();
        prefer(&farm, 0, transport);
        let mut client = farm.client();
        let script = format!(
            "{}; echo built on $me; dd if=/dev/zero of=large bs=1048576 count=30 && echo >$out",
            farm.where_am_i()
        );
        let drv = client.write(Script::new(&format!("large-{transport}"), &script));
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said("built on build-1\n");
        built.said("'build-1' ran out of resources while building ");
        built.said("built on build-2\n");
        assert_eq!(farm.health(0)["failures"], 1);
        // Where it is not full, a builder that says so has failed by itself.
        farm.forget();
        let note = "note: build failure may have been caused by lack of free disk space";
        let script = format!("echo '{note}'; echo 'No space left on device'; exit 1");
        let liar = client.write(Script::new(&format!("liar-{transport}"), &script));
        let built = client.build(&[&liar]);
        built.failed(100, "failed");
        built.said("offloaded to 'build-1' failed");
        assert_eq!(farm.health(0)["all_failures"], 0, "{built:#?}");
    }
    farm.assert_nothing_left();
}

#[test]
fn inputs_that_do_not_fit_go_elsewhere() {
    let small = Kind {
        store_mib: Some(110),
        ..Kind::default()
    };
    let mut farm = Farm::with(&[small, Kind::default()]);
    farm.start(&["--max-jobs=0"]);
    prefer(&farm, 0, "socket");
    let mut client = farm.client();
    let mut recipe = Script::new(
        "x",
        &format!("{}; echo built on $me; echo >$out", farm.where_am_i()),
    );
    for number in 0..4u8 {
        let data = vec![number; 32 << 20];
        let large = client
            .connection
            .add_to_store("large", true, formats::Algorithm::Sha256, |nar| {
                use formats::nar::Sink;
                nar.regular(false, data.len() as u64, &mut &data[..])
            })
            .unwrap();
        recipe = recipe.source(&large);
    }
    let drv = client.write(recipe);
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("'build-1' ran out of resources while sending store items: ");
    built.said("built on build-2\n");
    drop(client);
    farm.assert_nothing_left();
}

#[test]
fn what_no_machine_manages_is_built_here() {
    if !is_ours() {
        return; // a hook that fails is the end of the build
    }
    let mut farm = Farm::with(&[Kind {
        strange_there: true,
        ..Kind::default()
    }]);
    farm.start(&["--max-jobs=1"]);
    let mut client = farm.client();
    let script = format!("{}; echo built on $me; echo >$out", farm.where_am_i());
    let drv = client.write(Script::new("x", &script));
    let building = client.start(&[&drv]);
    // It is retried, each time as if after a long time.
    assert!(eventually(|| {
        farm.forget();
        building.is_finished()
    }));
    let (_, built) = building.finish();
    built.succeeded();
    built.said("built on head\n");
    built.said("@ hook-failed ");
}

#[test]
fn a_machine_that_is_this_very_host_is_refused() {
    let mut farm = Farm::with(&[Kind::default()]);
    farm.start(&["--max-jobs=1"]);
    // A separate sshd on the head, which leads to the daemon that offloads.
    let config = farm.site.path("sshd-config");
    let ssh = farm.site.path("ssh");
    let text = format!(
        "Port 2222\nListenAddress 127.0.0.1\nPidFile none\nStrictModes no\nUsePAM no\n\
         HostKey {0}/host\nAuthorizedKeysFile {0}/login.pub\n",
        ssh.display()
    );
    std::fs::write(&config, text).unwrap();
    let _ = std::fs::create_dir_all("/run/sshd");
    let mut command = farm.site.command("/usr/sbin/sshd");
    command.args(["-D", "-e", "-f"]).arg(&config);
    let log = farm.site.path("sshd.log");
    let mut sshd = farm
        .on_head(&command)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    assert!(eventually(|| std::fs::read_to_string(&log)
        .unwrap()
        .contains("Server listening")));
    let mut client = farm.client();
    for transport in ["socket", "commands"] {
        let entry = farm
            .entry(0)
            .text("name", "localhost")
            .plain("port", "2222");
        farm.configure(&[entry.text("transport", transport)]);
        let _ = std::fs::remove_file(farm.offload_directory().join("localhost:2222/health.json"));
        let drv = client.write(Script::new(&format!("x-{transport}"), "echo >$out"));
        let mut hook = HookProcess::start(&farm);
        assert_eq!(hook.ask(&drv), "postpone");
        let words = format!(
            "build machine 'localhost' has this very store '{}'",
            farm.site.store().display()
        );
        assert!(hook.output.contains(&words), "{}", hook.output);
    }
    sshd.kill().unwrap();
    sshd.wait().unwrap();
}
