//! Items of which each refers to the one before: they are received as soon as the request begins, and
//! registered one after the other.
//!
//! The web server is nginx; what it serves of the first item comes from a server that holds it back
//! until the test lets it go.

use std::collections::BTreeSet;
use std::fs;
use std::net::Shutdown;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

use formats::StorePath;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::operations::GcAction;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use substitutes::Compression;

use crate::fixture::{Client, Fixture, Outcome, SmallDisk, write_script};
use crate::harness::derivations::{self, Script};
use crate::harness::substitutes::{Item, Publisher, Tree};
use crate::harness::web_server::{Protocol, WebServer};
use crate::harness::{Site, eventually, program, skip};
use crate::network::fixture::{HandServer, noise, respond};

/// A daemon, and servers with a chain of items.
struct Chain {
    fixture: Fixture,
    server: WebServer,
    /// The server of the first item.
    held: HandServer,
    /// Every item but the first refers to the one before.
    paths: Vec<StorePath>,
}

/// Has the first item delivered when it is dropped.
type Hold = Sender<()>;

impl Chain {
    /// So many items, each of them a file of that size. The first item is delivered with this status
    /// when the test drops what is returned besides.
    fn new(length: usize, size: usize, status: &'static str, options: &[&str]) -> (Chain, Hold) {
        Chain::at(Site::new(), length, size, status, options)
    }

    fn at(
        site: Site,
        length: usize,
        size: usize,
        status: &'static str,
        options: &[&str],
    ) -> (Chain, Hold) {
        let directory = site.path("server");
        fs::create_dir_all(&directory).unwrap();
        let (hold, gate) = channel();
        let gate: Mutex<std::sync::mpsc::Receiver<()>> = Mutex::new(gate);
        let first = item(0, size);
        let nar = first.nar().to_vec();
        let held = HandServer::start(move |_, _, stream| {
            let _ = gate.lock().unwrap().recv();
            respond(stream, status, "", &nar);
        });
        let directives = format!(
            "location ~ -item-0$ {{ proxy_pass http://{}; }}",
            held.host()
        );
        let server = WebServer::with(&directory, Protocol::Http, &directives);
        // It notes its process id.
        let program = site.path("noting-fetch");
        let script = format!(
            "echo $$ >'{}'; exec '{}' \"$@\"",
            site.path("network-pid").display(),
            env!("CARGO_BIN_EXE_guix-fetch")
        );
        write_script(&program, &script);
        let fixture = Fixture::with(site, &program, server.address(), options);
        let mut paths = vec![fixture.publish(&first)];
        for number in 1..length {
            let item = item(number, size).reference(&paths[number - 1]);
            paths.push(fixture.publish(&item));
        }
        let chain = Chain {
            fixture,
            server,
            held,
            paths,
        };
        (chain, hold)
    }

    fn last(&self) -> &StorePath {
        self.paths.last().unwrap()
    }

    /// A client that is told everything.
    fn client(&self) -> Client {
        let mut client = self.fixture.client();
        client.set(|_| ());
        client
    }

    /// How often the server has delivered an item's nar.
    fn delivered(&self, path: &StorePath) -> usize {
        let nar = format!(" /nar/{} ", path.base_name());
        let log = self.server.log();
        log.iter().filter(|line| line.contains(&nar)).count()
    }

    /// Waits until the server has delivered all items but the first. Nothing is valid then.
    #[track_caller]
    fn wait_for_the_others(&self) {
        let others = &self.paths[1..];
        let all = || others.iter().all(|path| self.delivered(path) > 0);
        assert!(eventually(all), "{:#?}", self.server.log());
        let mut client = self.fixture.client();
        for path in &self.paths {
            assert!(!client.0.is_valid_path(path).unwrap(), "{path}");
        }
    }

    /// What is in the store but `.links` and lock files.
    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.fixture.site.store()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name != ".links" && !name.ends_with(".lock"))
            .collect()
    }

    fn collect_garbage(&self) {
        let mut client = self.fixture.client();
        let freed =
            (client.0).collect_garbage(GcAction::DeleteDead, [].into(), u64::MAX, &mut |_| ());
        freed.unwrap();
    }

    /// Kills the program that touches the network.
    fn kill_network_program(&self) {
        let pid = fs::read_to_string(self.fixture.site.path("network-pid")).unwrap();
        kill(Pid::from_raw(pid.trim().parse().unwrap()), Signal::SIGKILL).unwrap();
    }

    /// The last item can be had after all.
    #[track_caller]
    fn recovers(&self) {
        self.client().ensure(self.last()).succeeded();
        self.fixture.assert_holds(&self.paths);
    }

    /// Does `work` while a client waits for the last item, the first one being held back; then lets
    /// it go.
    fn meanwhile(&self, hold: Hold, work: impl FnOnce()) -> Outcome {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| self.client().ensure(self.last()));
            self.wait_for_the_others();
            work();
            drop(hold);
            waiting.join().unwrap()
        })
    }
}

/// An item of a chain; the references are to come.
fn item(number: usize, size: usize) -> Item {
    let mut contents = noise(size);
    contents.extend(format!("contents of {number}").bytes());
    let item = Item::new(&format!("item-{number}"), Tree::file(contents));
    item.compressed(&[Compression::None])
}

#[test]
fn a_chain_is_received_at_once_and_registered_one_after_the_other() {
    let (chain, hold) = Chain::new(40, 100, "200 OK", &[]);
    let done = chain.meanwhile(hold, || ());
    done.succeeded();
    let at = |path: &StorePath| {
        let trace = format!("@ substituter-succeeded {path}\n");
        done.log.find(&trace).unwrap_or_else(|| panic!("{path}"))
    };
    assert!(
        chain
            .paths
            .windows(2)
            .all(|pair| at(&pair[0]) < at(&pair[1]))
    );
    for path in &chain.paths {
        assert_eq!(chain.delivered(path), 1);
        let started = format!("@ substituter-started {path} ");
        assert_eq!(done.log.matches(&started).count(), 1);
    }
    chain.fixture.assert_holds(&chain.paths);
}

/// What is kept in memory, and what is unpacked.
const SIZES: [usize; 2] = [100, 400_000];

#[test]
fn what_waits_is_no_garbage() {
    for size in SIZES {
        let (chain, hold) = Chain::new(6, size, "200 OK", &[]);
        let done = chain.meanwhile(hold, || {
            chain.collect_garbage();
            chain.collect_garbage();
        });
        done.succeeded();
        assert!(chain.paths.iter().all(|path| chain.delivered(path) == 1));
        chain.fixture.assert_holds(&chain.paths);
        assert!(
            !(chain.fixture.client().0)
                .verify_store(true, false)
                .unwrap()
        );
    }
}

#[test]
fn a_client_that_leaves_leaves_nothing() {
    for size in SIZES {
        let (chain, hold) = Chain::new(6, size, "200 OK", &[]);
        let stream = chain.fixture.daemon.connect();
        let mut client = chain.fixture.client_over(stream.try_clone().unwrap());
        let last = chain.last().clone();
        let waiting = std::thread::spawn(move || client.ensure(&last));
        chain.wait_for_the_others();
        let is_unpacked = size > 100;
        assert!(!is_unpacked || eventually(|| chain.names().len() == 5));
        stream.shutdown(Shutdown::Both).unwrap();
        waiting.join().unwrap().failed();
        assert!(eventually(|| chain.names().is_empty()));
        drop(hold);
        chain.recovers();
    }
}

#[test]
fn a_reference_that_cannot_be_had_ends_all_that_needs_it() {
    for size in SIZES {
        let (chain, hold) = Chain::new(6, size, "404 Not Found", &[]);
        let done = chain.meanwhile(hold, || ());
        done.failed();
        done.said(&format!("@ substituter-failed {} ", chain.paths[0]));
        done.did_not_say("@ substituter-succeeded");
        chain.fixture.assert_holds([]);
    }
}

#[test]
fn an_item_with_other_contents_ends_what_needs_it_and_nothing_else() {
    let (chain, hold) = Chain::new(6, 100, "200 OK", &[]);
    let wrong = &chain.paths[3];
    let name = format!("nar/{}", wrong.base_name());
    let other = item(7, 100);
    let publisher = &chain.fixture.publisher;
    publisher.write_nar(&name, other.nar(), Compression::None);
    let done = chain.meanwhile(hold, || ());
    done.failed();
    done.said(&format!("@ hash-mismatch {wrong} sha256 "));
    // What was received of it is registered as far as its references go.
    chain.fixture.assert_holds(&chain.paths[..3]);
    publisher.write_nar(&name, item(3, 100).nar(), Compression::None);
    chain.recovers();
}

#[test]
fn what_no_server_delivered_before_is_not_asked_for_again_when_its_turn_comes() {
    let (chain, hold) = Chain::new(6, 100, "200 OK", &[]);
    let late = &chain.paths[3];
    let name = format!("nar/{}", late.base_name());
    let file = chain.fixture.publisher.directory().join(&name);
    let away = file.with_extension("away");
    fs::rename(&file, &away).unwrap();
    let done = chain.meanwhile(hold, || {
        // Servers are asked once more before an item counts as missing.
        assert!(eventually(|| chain.delivered(late) == 2));
    });
    done.failed();
    done.said(&format!("@ substituter-failed {late} "));
    assert_eq!(chain.delivered(late), 2);
    chain.fixture.assert_holds(&chain.paths[..3]);
    fs::rename(&away, &file).unwrap();
    chain.recovers();
}

#[test]
fn when_the_network_program_dies_another_is_asked_for_the_items_once() {
    let (chain, hold) = Chain::new(6, 400_000, "200 OK", &[]);
    let done = chain.meanwhile(hold, || chain.kill_network_program());
    done.succeeded();
    chain.fixture.assert_holds(&chain.paths);
}

#[test]
fn when_the_network_program_dies_twice_the_request_fails_and_nothing_stays() {
    let (chain, hold) = Chain::new(6, 400_000, "200 OK", &[]);
    let done = chain.meanwhile(hold, || {
        chain.kill_network_program();
        assert!(eventually(|| chain.held.requests().len() == 2));
        chain.kill_network_program();
    });
    done.failed();
    chain.fixture.assert_holds([]);
    chain.recovers();
}

#[test]
fn a_daemon_that_is_killed_leaves_what_the_collector_removes() {
    for size in SIZES {
        let (chain, hold) = Chain::new(6, size, "200 OK", &[]);
        let mut client = chain.fixture.client();
        let last = chain.last().clone();
        let waiting = std::thread::spawn(move || client.ensure(&last));
        chain.wait_for_the_others();
        let Chain {
            fixture,
            server,
            held: _held,
            paths,
        } = chain;
        let Fixture {
            daemon,
            site,
            publisher,
        } = fixture;
        daemon.kill();
        waiting.join().unwrap().failed();
        drop(hold);
        let daemon = site.start(&[&format!("--substitute-urls={}", server.address())]);
        let fixture = Fixture {
            daemon,
            site,
            publisher,
        };
        let chain = Chain {
            fixture,
            server,
            held: _held,
            paths,
        };
        chain.collect_garbage();
        chain.fixture.assert_holds([]);
        chain.recovers();
    }
}

#[test]
fn requests_share_what_waits_and_what_one_leaves_the_other_has() {
    for leaves in [false, true] {
        let (chain, hold) = Chain::new(8, 400_000, "200 OK", &[]);
        let stream = chain.fixture.daemon.connect();
        let mut first = chain.fixture.client_over(stream.try_clone().unwrap());
        let last = chain.last().clone();
        let waiting = std::thread::spawn(move || first.ensure(&last));
        chain.wait_for_the_others();
        let middle = &chain.paths[5];
        let (first, second) = std::thread::scope(|scope| {
            let second = scope.spawn(|| chain.client().ensure(middle));
            if leaves {
                stream.shutdown(Shutdown::Both).unwrap();
            }
            // With the rest, it waits for the first item.
            drop(hold);
            (waiting.join().unwrap(), second.join().unwrap())
        });
        second.succeeded();
        if !leaves {
            first.succeeded();
            assert!(chain.paths.iter().all(|path| chain.delivered(path) == 1));
            chain.fixture.assert_holds(&chain.paths);
        }
        assert!(chain.fixture.client().0.is_valid_path(middle).unwrap());
        assert!(
            !(chain.fixture.client().0)
                .verify_store(true, false)
                .unwrap()
        );
    }
}

#[test]
fn items_that_refer_to_each_other_are_refused() {
    for size in SIZES {
        let (chain, hold) = Chain::new(2, size, "200 OK", &[]);
        drop(hold);
        let fixture = &chain.fixture;
        let (one, two) = (item(1, size), item(2, size));
        let paths = [&one, &two].map(|item| item.path(&fixture.store()));
        fixture.publish(&one.reference(&paths[1]));
        fixture.publish(&two.reference(&paths[0]).reference(&chain.paths[0]));
        let done = chain.client().ensure(&paths[1]);
        assert_eq!(
            done.result.as_ref().unwrap_err().as_str(),
            "the goals of this request wait for each other"
        );
        fixture.assert_holds(&chain.paths[..1]);
    }
}

#[test]
fn no_more_are_received_at_once_than_are_allowed() {
    const MOST: usize = 3;
    let site = Site::new();
    let directory = site.path("server");
    let running = Arc::new((Mutex::new((0, 0)), Condvar::new()));
    let (counter, served) = (running.clone(), directory.clone());
    let server = HandServer::start(move |_, header, stream| {
        let name = header.split(' ').nth(1).unwrap().trim_start_matches('/');
        let body = fs::read(served.join(name)).unwrap();
        if !name.starts_with("nar/") {
            return respond(stream, "200 OK", "", &body);
        }
        // The first ones wait for each other.
        let (count, changed) = &*counter;
        let mut count = count.lock().unwrap();
        *count = (count.0 + 1, count.1.max(count.0 + 1));
        changed.notify_all();
        while count.1 < MOST {
            count = changed.wait(count).unwrap();
        }
        drop(count);
        respond(stream, "200 OK", "", &body);
        counter.0.lock().unwrap().0 -= 1;
    });
    let program = Path::new(env!("CARGO_BIN_EXE_guix-fetch"));
    let options = format!("--max-substitutions={MOST}");
    let fixture = Fixture::with(site, program, &server.url(""), &[&options]);
    let mut paths = vec![fixture.publish(&item(0, 100))];
    for number in 1..12 {
        let item = item(number, 100).reference(&paths[number - 1]);
        paths.push(fixture.publish(&item));
    }
    fixture.client().ensure(&paths[11]).succeeded();
    fixture.assert_holds(&paths);
    assert_eq!(running.0.lock().unwrap().1, MOST);
}

#[test]
fn one_at_a_time_is_enough() {
    let (chain, hold) = Chain::new(6, 100, "200 OK", &["--max-substitutions=1"]);
    drop(hold);
    chain.recovers();
    assert!(chain.paths.iter().all(|path| chain.delivered(path) == 1));
}

/// A substitute that nobody delivers is a failure if it could have been used. If not, the derivation is
/// built.
#[test]
fn what_was_not_received_does_not_matter_where_a_reference_is_missing() {
    let (chain, hold) = Chain::new(1, 100, "200 OK", &[]);
    let fixture = &chain.fixture;
    let store = fixture.store();
    let missing = store.join(&format!("{}-x", "1".repeat(32))).unwrap();
    let middle = item(1, 100).reference(&chain.paths[0]).reference(&missing);
    let middle = fixture.publish(&middle);
    let mut builder = derivations::Client::connect(&fixture.daemon);
    let drv = builder.write(Script::new("x", "echo built >$out"));
    fixture.publish_with(&item(2, 100).reference(&middle), |draft| {
        draft.hash_part = drv.out().hash_part().to_owned();
        draft.store_path = drv.out().to_string();
        draft.files[0].url = "nar/nowhere".to_owned();
    });
    let (was_tried, built) = std::thread::scope(|scope| {
        let building = scope.spawn(|| builder.build(&[&drv]));
        let log = || chain.server.log();
        let was_tried = eventually(|| log().iter().any(|line| line.contains(" /nar/nowhere ")));
        drop(hold);
        (was_tried, building.join().unwrap())
    });
    assert!(was_tried, "{:#?}", chain.server.log());
    built.succeeded();
    assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), "built\n");
}

#[test]
fn few_descriptors_are_enough() {
    let site = Site::new();
    let directory = site.path("server");
    let publisher = Publisher::new(&directory);
    publisher.authorise(&site.configuration());
    let server = WebServer::start(&directory);
    let mut command = site.command("sh");
    command
        .args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""])
        .arg(program())
        .arg(format!("--substitute-urls={}", server.address()))
        .arg("--max-substitutions=100")
        .env("GUIX_FETCH", env!("CARGO_BIN_EXE_guix-fetch"));
    let fixture = Fixture::launch(site, command, publisher);
    let mut paths = vec![fixture.publish(&item(0, 400_000))];
    for number in 1..20 {
        let item = item(number, 400_000).reference(&paths[number - 1]);
        paths.push(fixture.publish(&item));
    }
    fixture.client().ensure(&paths[19]).succeeded();
    fixture.assert_holds(&paths);
}

#[test]
fn a_full_disk_ends_the_request_and_nothing_waits_on_it() {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root, for a file system of its own");
    }
    let site = Site::new();
    let mounted = SmallDisk::mount(site.store(), "6m");
    let (chain, hold) = Chain::at(site, 6, 2_000_000, "200 OK", &[]);
    let done = chain.meanwhile(hold, || ());
    done.failed();
    done.said("No space left on device");
    let valid = |path: &&StorePath| chain.fixture.client().0.is_valid_path(path).unwrap();
    let valid: Vec<&StorePath> = chain.paths.iter().filter(valid).collect();
    assert!(valid.len() < 4, "{valid:?}");
    chain.fixture.assert_holds(valid);
    // A directory on which something is mounted can't be removed.
    let Fixture { daemon, site, .. } = chain.fixture;
    drop((daemon, mounted, site));
}

/// Clients that want whatever they like, some of which leave again, and items that nobody delivers.
#[test]
fn many_requests_for_items_that_refer_to_many() {
    const ITEMS: usize = 40;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut chain, hold) = Chain::new(1, 100, "200 OK", &["--max-substitutions=3"]);
    drop(hold);
    let lost: BTreeSet<usize> = (0..3).map(|_| random.random_range(5..ITEMS)).collect();
    let mut can_be_had = vec![true];
    for number in 1..ITEMS {
        let size = SIZES[random.random_range(0..SIZES.len())];
        let mut new = item(number, size);
        let mut is_usable = !lost.contains(&number);
        for _ in 0..random.random_range(0..4) {
            let reference = random.random_range(number.saturating_sub(6)..number);
            new = new.reference(&chain.paths[reference]);
            is_usable &= can_be_had[reference];
        }
        let path = chain.fixture.publish(&new);
        if lost.contains(&number) {
            let nar = format!("nar/{}", path.base_name());
            fs::remove_file(chain.fixture.publisher.directory().join(nar)).unwrap();
        }
        chain.paths.push(path);
        can_be_had.push(is_usable);
    }
    let chain = &chain;
    let (can_be_had, wanted) = (&can_be_had, &mut random);
    std::thread::scope(|scope| {
        for turn in 0..12 {
            let number = wanted.random_range(ITEMS / 2..ITEMS);
            let leaves = turn % 3 == 0;
            let stream = chain.fixture.daemon.connect();
            let connection = stream.try_clone().unwrap();
            let mut client = chain.fixture.client_over(connection);
            client.set(|options| options.set("build-poll-interval", "1"));
            scope.spawn(move || {
                let done = client.ensure(&chain.paths[number]);
                if !leaves {
                    assert_eq!(
                        done.result.is_ok(),
                        can_be_had[number],
                        "{number}: {done:#?}"
                    );
                }
            });
            if leaves {
                let pause = wanted.random_range(0..50);
                std::thread::sleep(std::time::Duration::from_millis(pause));
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    });
    // Nothing remains but valid items, with all that they refer to.
    let store = chain.fixture.store();
    let is_valid = |name: &String| {
        let path = store.join(name).unwrap();
        chain.fixture.client().0.is_valid_path(&path).unwrap()
    };
    assert!(eventually(|| chain.names().iter().all(is_valid)));
    assert!(
        !(chain.fixture.client().0)
            .verify_store(true, false)
            .unwrap()
    );
}
