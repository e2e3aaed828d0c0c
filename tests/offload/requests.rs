//! The hook's answers to requests, as `doc/spec/hook-protocol.md` has it.

use std::fs;
use std::time::{Duration, Instant};

use system::lock::{LockFile, Mode};

use crate::entry::Entry;
use crate::farm::{Farm, HOOK, Kind, SYSTEM};
use crate::harness::derivations::Script;
use crate::harness::eventually;
use crate::hook_process::HookProcess;

/// A name that no store has.
const DRV: &str = "/gnu/store/00000000000000000000000000000000-x.drv";

#[test]
fn what_no_machine_could_ever_build_is_declined() {
    let farm = Farm::with(&[Kind::default()]);
    let entry = farm.entry(0).list("features", &["kvm", "big"]);
    farm.configure(&[entry]);
    let mut hook = HookProcess::start(&farm);
    for request in [
        format!("1 mips64el-linux {DRV} \n"),
        format!("0 {SYSTEM} {DRV} quantum\n"),
        format!("1 {SYSTEM} {DRV} kvm,big,quantum\n"),
    ] {
        hook.send(request);
        assert_eq!(hook.reply(), "decline");
    }
    // One that could: it is still the same process.
    hook.send(format!("1 {SYSTEM} {DRV} kvm,,big\n"));
    assert_eq!(hook.reply(), "accept");
    drop(hook);

    farm.configure(&[]);
    let mut hook = HookProcess::start(&farm);
    hook.send(format!("1 {SYSTEM} {DRV} \n"));
    assert_eq!(hook.reply(), "decline");
    assert_eq!(hook.end(), Some(0));
}

#[test]
fn no_byte_of_the_pipe_is_swallowed() {
    let mut farm = Farm::with(&[Kind::default()]);
    farm.start(&["--no-offload"]);
    let mut client = farm.client();
    let drv = client.write(Script::new("x", "echo built; echo >$out"));
    let busybox = client.busybox().clone();
    let mut hook = HookProcess::start(&farm);
    // All at once, though a daemon would wait for each answer.
    hook.send(format!(
        "1 mips64el-linux {DRV} \n0 mips64el-linux {DRV} x\n"
    ));
    hook.send(format!(
        "1 {SYSTEM} {} \n{busybox} \n{} \n",
        drv.path,
        drv.out()
    ));
    for expected in ["decline", "decline", "accept"] {
        assert_eq!(hook.reply(), expected);
    }
    assert_eq!(hook.end(), Some(0), "{}", hook.output);
    assert_eq!(hook.log(), "built\n");
    assert!(client.is_valid(drv.out()));
    farm.assert_nothing_left();
}

#[test]
fn what_is_no_request_is_refused() {
    let farm = Farm::with(&[]);
    for request in [
        "\n".as_bytes(),
        b"x\n",
        b"2 x86_64-linux /gnu/store/a.drv \n",
        b"1 x86_64-linux /gnu/store/a.drv\n",
        b"1 x86_64-linux a.drv \n",
        b"1 x86_64-linux /gnu/store/a \n",
        b"1 X86_64 /gnu/store/a.drv \n",
        b"1  /gnu/store/a.drv \n",
        b"1 x86_64-linux /gnu/store/a\x1b.drv \n",
        b"1 x86_64-linux /gnu/store/a.drv \xff\xfe\n",
        b"1 x86_64-linux /gnu/store/a.drv a b\n",
        b"\0\0\0\0\0\0\0\0\n",
        b"1 x86_64-linux",
        &[b'1'; 1 << 20],
    ] {
        let mut hook = HookProcess::start(&farm);
        hook.send(request);
        assert_eq!(hook.end(), Some(1), "{request:?}");
        assert!(
            hook.output
                .contains("guix offload: error: invalid request line: "),
            "{}",
            hook.output
        );
        assert!(
            hook.output.len() < 1000 && !hook.output.contains('\x1b'),
            "{}",
            hook.output
        );
        assert!(!hook.output.contains("# "));
    }
}

#[test]
fn the_end_of_requests_is_the_end() {
    let farm = Farm::with(&[]);
    assert_eq!(HookProcess::start(&farm).end(), Some(0));
}

#[test]
fn wrong_arguments_are_refused() {
    let farm = Farm::with(&[]);
    for words in [
        &["x86_64-linux", "0", "1"][..],
        &["x86_64-linux", "0", "1", "0", "0"],
        &["x86_64-linux", "x", "1", "0"],
        &["x86_64-linux", "0", "1", "-1"],
        &["offload", "x86_64-linux"],
        &[],
    ] {
        let (succeeded, text) = farm.try_run(HOOK, words);
        assert!(
            !succeeded && text.contains("invalid arguments"),
            "{words:?}: {text}"
        );
    }
    // As `guix offload' is called.
    let mut hook = HookProcess::with(&farm, &["offload", SYSTEM, "0", "true", "0"]);
    hook.send(format!("1 {SYSTEM} {DRV} \n"));
    assert_eq!(hook.reply(), "decline");
    assert!(
        farm.run(HOOK, &["--version"])
            .starts_with("guix-offload (GNU Guix) ")
    );
    assert!(
        farm.run(HOOK, &["--help"])
            .starts_with("Usage: guix-offload")
    );
}

#[test]
fn paths_that_make_no_sense_end_the_hook_and_free_its_slot() {
    let farm = Farm::with(&[Kind::default()]);
    for (lines, message) in [
        ("", "the daemon did not say what to transfer"),
        (" ", "the daemon did not say what to transfer"),
        ("\n", "the daemon did not say what to transfer"),
        ("/etc/passwd \n\n", "invalid store item"),
        ("\n../../x \n", "invalid store item"),
    ] {
        let mut hook = HookProcess::start(&farm);
        hook.send(format!("1 {SYSTEM} {DRV} \n"));
        assert_eq!(hook.reply(), "accept");
        assert_eq!(farm.taken_slots().len(), 1);
        hook.send(lines);
        assert_eq!(hook.end(), Some(1), "{lines:?}");
        assert!(hook.output.contains(message), "{}", hook.output);
        assert!(farm.taken_slots().is_empty());
    }
    farm.assert_nothing_left();
}

#[test]
fn when_all_slots_are_taken_builds_are_put_off() {
    let mut farm = Farm::with(&[Kind::default()]);
    farm.start(&["--no-offload"]);
    farm.configure(&[farm.entry(0).plain("parallel-builds", "1")]);
    let mut client = farm.client();
    let script = format!("{}; echo >$out", farm.await_gate("go"));
    let first = client.write(Script::new("first", &script));
    let second = client.write(Script::new("second", "echo >$out"));
    let busybox = client.busybox().clone();
    let mut one = HookProcess::start(&farm);
    assert_eq!(one.ask(&first), "accept");
    one.send_paths(&[&busybox], &[first.out()]);
    farm.wait_for_builder("go");
    let mut other = HookProcess::start(&farm);
    assert_eq!(other.ask(&second), "postpone");
    // Only what cannot be built at all is declined.
    other.send(format!("1 {SYSTEM} {} kvm\n", second.path));
    assert_eq!(other.reply(), "decline");
    assert_eq!(other.ask(&second), "postpone");
    farm.open("go");
    assert_eq!(one.end(), Some(0), "{}", one.output);
    assert_eq!(other.ask(&second), "accept");
    other.send_paths(&[&busybox], &[second.out()]);
    assert_eq!(other.end(), Some(0), "{}", other.output);
    farm.assert_nothing_left();
}

#[test]
fn limits_of_the_daemon_hold_on_the_machine() {
    let mut farm = Farm::with(&[Kind::default()]);
    farm.start(&["--no-offload"]);
    let mut client = farm.client();
    let busybox = client.busybox().clone();
    for transport in ["socket", "commands"] {
        farm.configure(&[farm.entry(0).text("transport", transport)]);
        for (name, silence, timeout, script) in [
            ("busy", "0", "1", "while :; do echo busy; sleep 0.1; done"),
            ("silent", "1", "0", "echo silence; sleep 1000"),
        ] {
            let script = format!("{}; {script}", farm.where_am_i());
            let drv = client.write(Script::new(&format!("{name}-{transport}"), &script));
            let mut hook = HookProcess::with(&farm, &[SYSTEM, silence, "1", timeout]);
            assert_eq!(hook.ask(&drv), "accept");
            let began = Instant::now();
            hook.send_paths(&[&busybox], &[drv.out()]);
            assert_eq!(hook.end(), Some(101), "{}", hook.output);
            let took = began.elapsed();
            assert!(
                took > Duration::from_millis(800) && took < Duration::from_secs(15),
                "{took:?}"
            );
            assert!(
                hook.output.contains("timed out after 1 seconds"),
                "{}",
                hook.output
            );
            farm.assert_nothing_left();
        }
    }
}

#[test]
fn four_hundred_busy_machines_are_looked_at_quickly() {
    let farm = Farm::with(&[]);
    let key = fs::read_to_string(farm.site.path("ssh/host.pub")).unwrap();
    let names: Vec<String> = (0..400).map(|number| format!("machine-{number}")).collect();
    let entries: Vec<Entry> = names
        .iter()
        .map(|name| {
            Entry::default()
                .text("name", name)
                .list("systems", &[SYSTEM])
                .text("user", "root")
                .text("host-key", key.trim())
        })
        .collect();
    farm.configure(&entries);
    let locks: Vec<LockFile> = names
        .iter()
        .map(|name| {
            let directory = farm.offload_directory().join(format!("{name}:22"));
            fs::create_dir_all(&directory).unwrap();
            let file = LockFile::open(directory.join("0")).unwrap();
            assert!(file.try_lock(Mode::Exclusive).unwrap());
            file
        })
        .collect();
    let mut hook = HookProcess::start(&farm);
    let ask = |hook: &mut HookProcess| {
        let began = Instant::now();
        hook.send(format!("1 {SYSTEM} {DRV} \n"));
        assert_eq!(hook.reply(), "postpone");
        began.elapsed()
    };
    ask(&mut hook);
    let fastest = (0..5).map(|_| ask(&mut hook)).min().unwrap();
    println!("400 busy machines: {fastest:?}");
    assert!(fastest < Duration::from_millis(250), "{fastest:?}");
    // None was asked: none is known to be dead.
    assert!(
        !farm
            .offload_directory()
            .join("machine-0:22/health.json")
            .exists()
    );
    assert!(!farm.offload_directory().join("ssh").exists());
    drop(locks);
}

#[test]
fn the_second_build_starts_at_once() {
    let mut farm = Farm::with(&[Kind::default()]);
    farm.start(&["--no-offload"]);
    let mut client = farm.client();
    let busybox = client.busybox().clone();
    let mut accepted = Vec::new();
    let mut started = Vec::new();
    let mut whole = Vec::new();
    for number in 0..8 {
        let drv = client.write(Script::new(&format!("n{number}"), "echo built; echo >$out"));
        let mut hook = HookProcess::start(&farm);
        let began = Instant::now();
        assert_eq!(hook.ask(&drv), "accept");
        accepted.push(began.elapsed());
        hook.send_paths(&[&busybox], &[drv.out()]);
        hook.wait_for_line("@ build-remote ");
        started.push(began.elapsed());
        assert_eq!(hook.end(), Some(0), "{}", hook.output);
        whole.push(began.elapsed());
    }
    println!(
        "first offload: accepted {:?}, started {:?}, home {:?}",
        accepted[0], started[0], whole[0]
    );
    for (name, mut times) in [
        ("accepted", accepted),
        ("started", started),
        ("home", whole),
    ] {
        times.remove(0);
        times.sort();
        println!(
            "further offloads: {name} after {:?} (median), {:?} (least)",
            times[3], times[0]
        );
        if name == "started" {
            // 20 ms on a machine that has nothing else to do.
            assert!(times[0] < Duration::from_millis(100), "{times:?}");
        }
    }
    assert_eq!(farm.ssh_masters().len(), 1);
}

#[test]
fn a_hook_that_is_killed_frees_its_slot_at_once() {
    let mut farm = Farm::with(&[Kind::default()]);
    farm.start(&["--no-offload"]);
    farm.configure(&[farm.entry(0).plain("parallel-builds", "1")]);
    let mut client = farm.client();
    let script = format!("{}; echo >$out", farm.await_gate("go"));
    let drv = client.write(Script::new("x", &script));
    let busybox = client.busybox().clone();
    let mut hook = HookProcess::start(&farm);
    assert_eq!(hook.ask(&drv), "accept");
    hook.send_paths(&[&busybox], &[drv.out()]);
    farm.wait_for_builder("go");
    assert_eq!(farm.taken_slots().len(), 1);
    drop(hook);
    assert!(farm.taken_slots().is_empty());
    assert!(eventually(|| crate::farm::processes()
        .iter()
        .all(|p| !p.line.contains("/go-at-")
            || !p.line.contains(farm.site.path(".").to_str().unwrap()))));
    farm.open("go");
    let mut hook = HookProcess::start(&farm);
    assert_eq!(hook.ask(&drv), "accept");
    hook.send_paths(&[&busybox], &[drv.out()]);
    assert_eq!(hook.end(), Some(0), "{}", hook.output);
    farm.assert_nothing_left();
}
