//! What several builds on one machine need is sent there once.

use formats::StorePath;
use system::lock::{LockFile, Mode};

use crate::bad_cables::noise;
use crate::farm::{Farm, by_both_transports};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::{eventually, is_ours};
use crate::hook_process::HookProcess;

const MIB: usize = 1 << 20;

/// A farm of one machine with three slots and this transport, which has what all builds need.
fn farm(transport: &str) -> (Farm, Client) {
    let farm = Farm::new(1);
    let entry = farm.entry(0).text("transport", transport);
    farm.configure(&[entry.plain("parallel-builds", "3")]);
    let mut client = farm.client();
    let first = client.write(Script::new("first", "echo >$out"));
    client.build(&[&first]).succeeded();
    (farm, client)
}

/// The upload lock of the machine, which a hook has that sends something.
fn uploads(farm: &Farm) -> LockFile {
    LockFile::open(farm.offload_directory().join("build-1:22.upload.lock")).unwrap()
}

/// Waits until this many hooks wait for a lock.
#[track_caller]
fn await_waiting(lock: &LockFile, hooks: usize) {
    use std::os::unix::fs::MetadataExt;
    let inode = format!(":{} ", lock.file().metadata().unwrap().ino());
    let waiting = || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let waits = |line: &&str| line.contains("-> ") && line.contains(&inode);
        locks.lines().filter(waits).count()
    };
    assert!(eventually(|| waiting() == hooks), "{} wait", waiting());
}

/// How many bytes have left the head for the machine.
pub fn sent(farm: &Farm) -> usize {
    let devices = farm.run("cat", &["/proc/self/net/dev"]);
    let line = devices
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("m1:"))
        .unwrap_or_else(|| panic!("{devices}"));
    line.split_whitespace().nth(8).unwrap().parse().unwrap()
}

/// A derivation that needs `shared`, which is large, and an item of its own.
fn needs(client: &mut Client, name: &str, shared: &StorePath) -> Drv {
    let (own, _) = noise(client, "own", MIB);
    let script = format!("cat {shared} {own} >$out");
    client.write(Script::new(name, &script).source(shared).source(&own))
}

#[test]
fn a_shared_input_is_sent_once() {
    if !is_ours() {
        return; // how many hooks another daemon starts at a time is its own affair
    }
    by_both_transports(|transport| {
        let (farm, mut client) = farm(transport);
        let (shared, _) = noise(&mut client, "shared", 24 * MIB);
        let drvs = ["a", "b", "c"].map(|name| needs(&mut client, name, &shared));
        let before = sent(&farm);
        // All three have asked what is missing before anything is sent.
        let uploads = uploads(&farm);
        assert!(uploads.try_lock(Mode::Exclusive).unwrap());
        let building = client.start(&drvs.each_ref());
        await_waiting(&uploads, 3);
        drop(uploads);
        let (mut client, built) = building.finish();
        built.succeeded();
        built.said("waiting for what is being sent to 'build-1'...\n");
        for drv in &drvs {
            assert!(client.is_valid(drv.out()));
        }
        let (sent, missing) = (sent(&farm) - before, 27 * MIB);
        assert!(sent >= missing, "{sent}");
        assert!(
            sent * 100 <= missing * 105,
            "{sent} bytes instead of {missing}"
        );
        drop(client);
        farm.assert_nothing_left();
    });
}

#[test]
fn a_sender_that_dies_is_replaced() {
    by_both_transports(|transport| {
        let (farm, mut client) = farm(transport);
        let (shared, data) = noise(&mut client, "shared", 8 * MIB);
        let drvs = ["a", "b"].map(|name| {
            let script = format!("cat {shared} >$out");
            client.write(Script::new(name, &script).source(&shared))
        });
        let busybox = client.busybox().clone();
        let start = |drv: &Drv| {
            let mut hook = HookProcess::start(&farm);
            assert_eq!(hook.ask(drv), "accept");
            hook.send_paths(&[&busybox, &shared], &[drv.out()]);
            hook
        };
        // The machine cannot put what it receives in its place.
        let store = farm.machines[0].files.join("store");
        let name = format!("{}.lock", shared.base_name());
        let item = LockFile::open(store.join(name)).unwrap();
        assert!(item.try_lock(Mode::Exclusive).unwrap());
        let mut sender = start(&drvs[0]);
        sender.wait_for_line("sending 2 store items ");
        let mut other = start(&drvs[1]);
        await_waiting(&uploads(&farm), 1);
        assert!(!other.has_said("sending "));
        drop(sender);
        other.wait_for_line("sending 2 store items ");
        drop(item);
        assert_eq!(other.end(), Some(0), "{}", other.output);
        assert!(std::fs::read(drvs[1].out().as_str()).unwrap() == data);
        assert_eq!(farm.health(0)["all_failures"], 0);
        drop(client);
        farm.assert_nothing_left();
    });
}
