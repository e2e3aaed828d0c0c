//! All long operations end at the timeout, or when no client waits for them any more.

use std::os::unix::fs::MetadataExt;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use formats::{Hash, StorePath};
use protocol::operations::BuildMode;

use super::harness::derivations::{Drv, processes_with};
use super::*;

/// How soon a build has to end after its timeout or cancellation.
const SOON: Duration = Duration::from_secs(20);

/// A script whose output takes hours to read: a sparse file of 8 TiB.
const HOLE: &str = "dd if=/dev/zero of=$out bs=1M seek=8388608 count=0 2>/dev/null";

/// Derivations whose builders end quickly, with outputs that take hours to read.
fn holes(client: &mut Client) -> Vec<Drv> {
    let unknown = Hash::sha256(b"something else");
    let in_directory = HOLE.replace("$out", "$out/hole");
    [
        Script::new("plain", HOLE),
        Script::new("flat", HOLE).fixed(false, unknown),
        Script::new("tree", &format!("mkdir $out; {in_directory}")).fixed(true, unknown),
    ]
    .map(|script| client.write(script))
    .into()
}

/// Checks that another client's build succeeds soon.
fn others_can_build(setup: &Setup) {
    let mut other = setup.client();
    let drvs: Vec<Drv> = (0..3)
        .map(|number| other.write(Script::new(&format!("other-{number}"), "echo >$out")))
        .collect();
    let started = Instant::now();
    other.build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
}

#[test]
fn reading_outputs_obeys_the_timeout() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&["--max-jobs=3"]);
    let mut client = setup.client();
    for hole in holes(&mut client) {
        client.set(|options| options.set("build-timeout", "2"));
        let started = Instant::now();
        let built = client.build(&[&hole]);
        built.failed(101, &format!("build of `{}' failed", hole.path));
        built.said(&format!(
            "building of `{}' timed out after 2 seconds\n",
            hole.path
        ));
        built.said(&format!("@ build-failed {} - timeout\n", hole.path));
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        assert!(!client.is_valid(hole.out()));
    }
    others_can_build(&setup);
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
}

#[test]
fn reading_outputs_ends_with_the_client() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&["--max-jobs=3"]);
    let mut client = setup.client();
    let holes = holes(&mut client);
    let building = client.start(&holes.iter().collect::<Vec<_>>());
    // When nothing changes any more, all build users are in use, and all builders have ended.
    assert!(eventually(|| names(&setup.site.path("tmp")).len() == 3));
    std::thread::sleep(Duration::from_millis(500));
    building.hang_up();
    others_can_build(&setup);
    assert!(eventually(|| build_threads(&setup.daemon) == 0));
}

#[test]
fn a_hole_in_a_fixed_output_stays_a_hole() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let size = 64 << 20;
    let hash = Hash::sha256(vec![0; size]);
    let script = "dd if=/dev/zero of=$out bs=1M seek=64 count=0 2>/dev/null";
    let drv = client.write(Script::new("sparse", script).fixed(false, hash));
    client.build(&[&drv]).succeeded();
    let metadata = fs::metadata(drv.out().as_path()).unwrap();
    assert_eq!(metadata.len(), size as u64);
    assert!(
        !is_ours() || metadata.blocks() < 2048,
        "{}",
        metadata.blocks()
    );
}

/// A derivation that requests `pairs` files about a chain of `length` items.
fn with_graphs(client: &mut Client, length: usize, pairs: usize) -> Drv {
    let mut last: Option<StorePath> = None;
    for number in 0..length {
        let references: Vec<&StorePath> = last.iter().collect();
        last = Some(client.text(&format!("item-{number}"), "text", &references));
    }
    let last = last.unwrap();
    let words: Vec<String> = (0..pairs)
        .map(|number| format!("graph-{number} {last}"))
        .collect();
    let script = Script::new("graphs", "echo >$out").source(&last);
    client.write(script.variable("exportReferencesGraph", words.join(" ")))
}

/// The number of attempts to build in progress.
fn build_threads(daemon: &Daemon) -> usize {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok())
        .filter(|name| name.trim() == "build")
        .count()
}

#[test]
fn writing_references_graphs_ends_in_time() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = with_graphs(&mut client, 200, 3000);
    client.set(|options| options.set("build-timeout", "1"));
    client.build(&[&drv]).failed(101, "failed");

    client.set(|options| options.set("build-timeout", "0"));
    let building = client.start(&[&drv]);
    assert!(eventually(|| build_threads(&setup.daemon) == 1));
    std::thread::sleep(Duration::from_millis(200));
    building.hang_up();
    let left = Instant::now();
    assert!(eventually(|| build_threads(&setup.daemon) == 0));
    assert!(
        left.elapsed() < Duration::from_secs(3),
        "{:?}",
        left.elapsed()
    );
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
}

#[test]
fn limits_hold_while_the_client_does_not_read() {
    if !is_ours() {
        return;
    }
    for (option, message) in [
        ("build-timeout", "timed out after 2 seconds\n"),
        (
            "build-max-silent-time",
            "timed out after 2 seconds of silence\n",
        ),
    ] {
        let setup = Setup::new(&[]);
        let mut client = setup.client();
        client.set(|options| options.set(option, "2"));
        let marker = format!("66666.{}", rand::random::<u32>());
        let drv = client.write(Script::new("talkative", &format!("yes {marker}")));
        let (go_on, wait) = mpsc::channel::<()>();
        let target = drv.path.clone().into();
        let stopped = std::thread::spawn(move || {
            let mut log = Vec::new();
            let result =
                client
                    .connection
                    .build_paths(vec![target], BuildMode::Normal, &mut |text| {
                        // The first text blocks it, until the sender is gone.
                        let _ = wait.recv();
                        log.extend_from_slice(text);
                    });
            (result, String::from_utf8_lossy(&log).into_owned())
        });
        assert!(eventually(|| !processes_with(&marker).is_empty()));
        let started = Instant::now();
        assert!(eventually(|| processes_with(&marker).is_empty()));
        assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
        others_can_build(&setup);
        drop(go_on);
        let (result, log) = stopped.join().unwrap();
        assert!(result.is_err());
        assert!(log.contains(message), "{option}: {}", log.len());
    }
}
