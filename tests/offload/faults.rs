//! Many builds, while hooks, connections, servers and daemons of both kinds are killed at random,
//! over cables that change at random: nothing is lost, only complete and signed items are imported,
//! every build ends, nothing leaks.
//!
//! `GUIX_TEST_BUILDS=300` makes it do more, and then cables may be silent for so long that
//! connections are given up.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use formats::StorePath;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::cable::{self, Quality, seed};
use crate::entry::Entry;
use crate::farm::{CLIENT, Farm, Kind, Process, offloading};
use crate::harness::derivations::{Client, Drv, Script};
use crate::harness::{Daemon, eventually, is_ours, program};
use crate::inspection::{locks_and_temporary, store_items};

const BUILDS: usize = 20;
const CLIENTS: usize = 4;
/// From this number of builds on, cables may be silent for long.
const MANY: usize = 100;
/// The time between faults.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a client may hear nothing.
const FAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// The head's daemon, which is killed, too. Nobody connects at that time.
struct Head<'a> {
    farm: &'a Farm,
    daemon: Mutex<Daemon>,
    /// How often it was killed.
    killed: AtomicU32,
    /// How often clients lost their connection.
    lost: AtomicU32,
}

impl Head<'_> {
    fn launch(farm: &Farm) -> Daemon {
        farm.launch(&program(), &["--max-jobs=1"])
    }

    fn kill(&self) {
        let mut daemon = self.daemon.lock().unwrap();
        self.killed.fetch_add(1, Ordering::Relaxed);
        daemon.signal(nix::sys::signal::Signal::SIGKILL);
        daemon.wait();
        *daemon = Head::launch(self.farm);
    }

    /// Builds, and tries again if the daemon is killed.
    fn build(&self, drv: &Drv) {
        loop {
            let mut client = offloading(&self.daemon.lock().unwrap());
            client.set_read_timeout(FAULT_TIMEOUT);
            let built = client.build(&[drv]);
            match built.result {
                Err((_, 0)) => {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                    let (lost, killed) = (&self.lost, &self.killed);
                    let most = CLIENTS as u32 * killed.load(Ordering::Relaxed);
                    assert!(lost.load(Ordering::Relaxed) <= most, "{built:#?}");
                }
                _ => return built.succeeded(),
            }
        }
    }
}

/// A derivation that prints numbers, and the item that it copies.
struct Work {
    number: usize,
    drv: Drv,
    data: StorePath,
}

impl Work {
    fn write(farm: &Farm, builds: usize) -> Vec<Work> {
        let mut client = farm.client();
        let mut write = |number| {
            let text = format!("{number:060000}\n");
            let data = client.text(&format!("data-{number}"), &text, &[]);
            let script = format!(
                "{}; echo building {number}; for n in 1 2 3 4 5; do sleep 0.1; echo $n; done; \
                 cat {data} >$out; echo {data} >>$out; echo $me >>$out",
                farm.where_am_i()
            );
            let name = format!("build-{number}");
            let drv = client.write(Script::new(&name, &script).source(&data));
            Work { number, drv, data }
        };
        (0..builds).map(&mut write).collect()
    }

    /// Checks the result; returns where it was built.
    fn check(&self, farm: &Farm, client: &mut Client) -> String {
        let Work { number, drv, data } = self;
        assert!(client.is_valid(drv.out()), "{} is lost", drv.out());
        assert_eq!(client.info(drv.out()).references, [data.clone()].into());
        let text = fs::read_to_string(drv.out().as_str()).unwrap();
        let begins = format!("{number:060000}\n{data}\n");
        let machine = text.strip_prefix(&begins).unwrap().trim().to_owned();
        // Each attempt that has printed anything did so from the start; of one that only had to
        // bring it home there is nothing. That one ended otherwise may be said, too.
        let kept = farm.kept_log(&drv.path);
        let printed = |line: &&str| !line.starts_with("guix-client build: error: ");
        let lines: String = kept.split_inclusive('\n').filter(printed).collect();
        for attempt in lines.split(&format!("building {number}\n")) {
            assert!("1\n2\n3\n4\n5\n".starts_with(attempt), "{kept}");
        }
        machine
    }
}

/// The second machine is used by commands, the others by their daemons' sockets.
fn entry(farm: &Farm, index: usize) -> Entry {
    let transport = ["socket", "commands", "socket"][index];
    farm.entry(index).text("transport", transport)
}

/// The processes that may be killed now.
fn victims(farm: &Farm) -> Vec<Process> {
    let mut all = [farm.hooks(), farm.ssh_sessions(), farm.ssh_masters()].concat();
    for machine in &farm.machines {
        for program in ["sshd", "sshd-session", "guix-daemon", "guix-client"] {
            all.extend(machine.processes(program));
        }
    }
    all
}

/// Restarts what a machine lacks, as its service manager would.
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

/// The next quality of a cable, and for how long.
fn weather(random: &mut StdRng, many: bool) -> (&'static str, Quality, Duration) {
    let mut quality = Quality::default();
    let mut time = Duration::from_millis(random.random_range(200..2000));
    let name = match random.random_range(0..12) {
        0..5 => "good",
        5 | 6 => {
            quality.loss = random.random_range(0.01..0.1);
            "lossy"
        }
        7 | 8 => {
            quality.delay = Duration::from_millis(random.random_range(5..80));
            quality.jitter = quality.delay / 4;
            "long"
        }
        9 | 10 => {
            quality.rate = random.random_range(1_000_000..10_000_000);
            "thin"
        }
        _ => {
            quality = Quality::DEAD;
            if many && random.random_bool(0.1) {
                time = Duration::from_secs(25);
            }
            "dead"
        }
    };
    (name, quality, time)
}

/// Causes faults until `done`; returns what it did how often.
fn break_things(
    head: &Head<'_>,
    done: &AtomicBool,
    limit: Duration,
    many: bool,
    seed: u64,
) -> BTreeMap<String, u32> {
    let farm = head.farm;
    let mut random = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut changes = vec![began; farm.machines.len()];
    let mut counts = BTreeMap::<String, u32>::new();
    let mut count = |what: &str| *counts.entry(what.to_owned()).or_default() += 1;
    while !done.load(Ordering::Relaxed) && began.elapsed() < limit {
        for (index, change) in changes.iter_mut().enumerate() {
            if Instant::now() >= *change {
                let (name, quality, time) = weather(&mut random, many);
                farm.set_quality(index, quality);
                *change = Instant::now() + time;
                count(&format!("cable {name}"));
            }
        }
        match random.random_range(0..30) {
            0 => {
                head.kill();
                count("head's guix-daemon");
            }
            1 | 2 => {
                let index = random.random_range(0..farm.machines.len());
                farm.set_cable(index, false);
                std::thread::sleep(PAUSE);
                farm.set_cable(index, true);
                count("cable pulled");
            }
            _ => {
                if let Some(victim) = victims(farm).choose(&mut random) {
                    victim.kill();
                    count(victim.name());
                }
            }
        }
        std::thread::sleep(PAUSE);
        revive(farm);
        // So that nobody has to wait until machines are used again.
        farm.forget();
    }
    for index in 0..farm.machines.len() {
        farm.set_quality(index, Quality::default());
    }
    counts
}

#[test]
fn everything_breaks_at_random() {
    if !is_ours() || !cable::available() {
        return; // a hook that is killed is the end of the build
    }
    let builds = std::env::var("GUIX_TEST_BUILDS");
    let builds = builds.map_or(BUILDS, |number| number.parse().unwrap());
    let kind = Kind {
        cable: Some(Quality::default()),
        sshd: "ClientAliveInterval 4".to_owned(),
        ..Kind::default()
    };
    let strange = Kind {
        strange_here: true,
        ..kind.clone()
    };
    let mut farm = Farm::with(&[kind.clone(), kind, strange]);
    farm.daemon = Some(Head::launch(&farm));
    let entries = [0, 1, 2].map(|index| entry(&farm, index));
    // Sends the common inputs while that is possible.
    for entry in &entries {
        farm.configure(std::slice::from_ref(entry));
        let mut client = farm.client();
        let first = client.write(Script::new(
            &format!("first-{}", entry.get("name")),
            "echo >$out",
        ));
        client.build(&[&first]).succeeded();
    }
    farm.configure(&entries);
    let work = Work::write(&farm, builds);
    let head = Head {
        daemon: Mutex::new(farm.daemon.take().unwrap()),
        farm: &farm,
        killed: AtomicU32::new(0),
        lost: AtomicU32::new(0),
    };
    let counts = run(&head, &work);
    farm.daemon = Some(head.daemon.into_inner().unwrap());
    assert!(counts.len() >= 6 && counts.values().sum::<u32>() >= 20);
    revive(&farm);
    farm.forget();
    let mut client = farm.client();
    let mut places = BTreeMap::<String, u32>::new();
    for work in &work {
        *places.entry(work.check(&farm, &mut client)).or_default() += 1;
    }
    println!("built: {places:?}");
    assert!(!places.contains_key("build-3"), "nobody vouched for it");
    drop(client);
    assert_nothing_is_broken(&mut farm);
}

/// Builds everything while faults happen; returns which happened how often.
fn run(head: &Head<'_>, work: &[Work]) -> BTreeMap<String, u32> {
    let builds = work.len();
    let done = &AtomicBool::new(false);
    let limit = Duration::from_secs(60).max(Duration::from_secs(3) * builds as u32);
    let (began, many, seed) = (Instant::now(), builds >= MANY, seed());
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|first| {
                let mine = work.iter().skip(first).step_by(CLIENTS);
                scope.spawn(move || mine.for_each(|work| head.build(&work.drv)))
            })
            .collect();
        let breaker = scope.spawn(move || break_things(head, done, limit, many, seed));
        let joined: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        done.store(true, Ordering::Relaxed);
        let counts = breaker.join().unwrap();
        let lost = head.lost.load(Ordering::Relaxed);
        let time = began.elapsed();
        println!("{builds} builds in {time:?}; clients lost the daemon {lost} times; {counts:?}");
        joined.into_iter().for_each(|joined| joined.unwrap());
        counts
    })
}

/// Checks that everything works, and that nothing is left of the faults.
fn assert_nothing_is_broken(farm: &mut Farm) {
    // What a daemon or a hook that was killed has left there, whoever comes next removes.
    let mut client = farm.client();
    for index in [0, 1] {
        farm.configure(&[entry(farm, index)]);
        let name = format!("last-{index}");
        let last = client.write(Script::new(&name, "echo >$out"));
        let built = client.build(&[&last]);
        built.succeeded();
        built.said("done with offloaded ");
    }
    drop(client);
    let busy = || [farm.hooks(), farm.ssh_sessions()].concat();
    assert!(eventually(|| busy().is_empty()), "{:#?}", busy());
    let slots = || farm.taken_slots();
    assert!(eventually(|| slots().is_empty()), "slots: {:?}", slots());
    let roots = || farm.machines[1].roots();
    assert!(eventually(|| roots().is_empty()), "{:?}", roots());
    // Nobody builds for clients that are gone.
    for machine in &farm.machines {
        let builders = || machine.processes("busybox");
        assert!(eventually(|| builders().is_empty()), "{:#?}", builders());
    }
    farm.run(CLIENT, &["gc", "--verify=contents"]);
    farm.run(CLIENT, &["gc"]);
    let mut stores = vec![farm.site.store()];
    for machine in &farm.machines {
        machine.run(&farm.site, CLIENT, &["gc", "--verify=contents"]);
        machine.run(&farm.site, CLIENT, &["gc"]);
        stores.push(machine.files.join("store"));
    }
    for store in stores {
        assert_eq!(store_items(&store), [""; 0], "kept in {}", store.display());
        assert_eq!(
            locks_and_temporary(&store),
            [""; 0],
            "in {}",
            store.display()
        );
    }
}
