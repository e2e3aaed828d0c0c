//! `guix-client offload add` and `offload remove`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use system::lock::{LockFile, Mode};

use crate::farm::{CLIENT, Farm, Kind, Process, SYSTEM};
use crate::harness::derivations::Script;
use crate::harness::eventually;
use crate::namespaces::output;

const OLD: &str = "# Our machines.\n\n# Not used now:\n# [[machine]]\n# name = \"old\"\n";

/// A farm without entries, and with a comment in `machines.toml`.
fn unlisted(kinds: &[Kind]) -> Farm {
    let mut farm = Farm::with(kinds);
    farm.start(&["--max-jobs=0"]);
    fs::write(file(&farm), OLD).unwrap();
    farm
}

fn file(farm: &Farm) -> PathBuf {
    farm.site.configuration().join("machines.toml")
}

fn text(farm: &Farm) -> String {
    fs::read_to_string(file(farm)).unwrap()
}

/// The fingerprint of the machines' host key.
fn fingerprint(farm: &Farm) -> String {
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-l", "-f"])
        .arg(farm.site.path("ssh/host.pub"));
    let (_, text) = output(command, b"");
    text.split(' ').nth(1).unwrap().to_owned()
}

/// The words of `offload add` for a machine.
fn words(farm: &Farm, name: &str, more: &[&str]) -> Vec<String> {
    let login = farm.site.path("ssh/login");
    let socket = farm.site.socket();
    let words = ["offload", "add", &format!("root@{name}")].map(str::to_owned);
    let mut words = words.to_vec();
    words.extend([
        format!("--private-key={}", login.display()),
        format!("--daemon-socket={}", socket.display()),
        format!("--program={CLIENT}"),
    ]);
    words.extend(more.iter().map(|word| (*word).to_owned()));
    words
}

/// Runs it.
fn add(farm: &Farm, name: &str, more: &[&str]) -> (bool, String) {
    let words = words(farm, name, more);
    farm.try_run(
        CLIENT,
        &words.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

#[test]
fn a_machine_is_tested_and_added_and_builds() {
    let farm = unlisted(&[Kind::default()]);
    fs::set_permissions(file(&farm), fs::Permissions::from_mode(0o640)).unwrap();
    let fingerprint = format!("--fingerprint={}", fingerprint(&farm));
    let options = [
        &*fingerprint,
        "--parallel-builds=3",
        "--cores=1",
        "--speed=2",
        "--features=kvm,big",
    ];
    // First, what would be written.
    let dry = [&options[..], &["--dry-run"]].concat();
    let mut command = farm.site.command(CLIENT);
    command.args(words(&farm, "build-1", &dry));
    let printed = farm
        .on_head(&command)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let tests = String::from_utf8_lossy(&printed.stderr).into_owned();
    assert!(printed.status.success(), "{tests}");
    assert!(
        tests.contains("right  signatures here") && !tests.contains("wrong"),
        "{tests}"
    );
    let entry = String::from_utf8(printed.stdout).unwrap();
    for line in [
        "name = \"build-1\"",
        &format!("systems = [\"{SYSTEM}\"]"),
        "user = \"root\"",
        "parallel-builds = 3",
        "cores = 1",
        "speed = 2.0",
        "features = [\"kvm\", \"big\"]",
    ] {
        assert!(entry.lines().any(|found| found == line), "{line}: {entry}");
    }
    assert_eq!(text(&farm), OLD);

    let (succeeded, said) = add(&farm, "build-1", &options);
    assert!(
        succeeded && said.contains("added 'build-1:22' to '"),
        "{said}"
    );
    assert_eq!(text(&farm), format!("{OLD}\n{entry}"));
    assert_eq!(fs::metadata(file(&farm)).unwrap().mode() & 0o7777, 0o640);
    let names = crate::farm::names(&farm.site.configuration());
    assert!(
        !names.contains(&".machines.toml.new".to_owned()),
        "{names:?}"
    );
    let mut client = farm.client();
    let script = Script::new("x", "echo >$out").variable("requiredSystemFeatures", "kvm");
    let drv = client.write(script);
    client.build(&[&drv]).succeeded();
    assert_eq!(farm.health(0)["builds"], 1);

    let (succeeded, said) = add(&farm, "build-1", &options);
    assert!(
        !succeeded && said.contains("there is an entry for 'build-1:22' already, at "),
        "{said}"
    );
    // Away with it, while it builds.
    let script = format!("{}; echo >$out", farm.await_gate("go"));
    let slow = client.write(Script::new("slow", &script));
    let building = client.start(&[&slow]);
    farm.wait_for_builder("go");
    let (succeeded, said) = farm.try_run(CLIENT, &["offload", "remove", "--dry-run", "build-*"]);
    assert!(succeeded && said == entry, "{said}");
    farm.run(CLIENT, &["offload", "drain", "build-1"]);
    let said = farm.run(CLIENT, &["offload", "remove", "build-1"]);
    assert_eq!(
        said,
        "removed 'build-1:22'; the build that it has goes on\n"
    );
    assert_eq!(text(&farm), format!("{OLD}\n"));
    assert!(crate::farm::names(&farm.offload_directory().join("drained")).is_empty());
    farm.open("go");
    building.finish().1.succeeded();
    let (succeeded, said) = farm.try_run(CLIENT, &["offload", "remove", "build-1"]);
    assert!(
        !succeeded && said.contains("no build machine is called 'build-1': there is none"),
        "{said}"
    );
}

#[test]
fn no_host_key_is_accepted_that_nobody_has_confirmed() {
    let farm = unlisted(&[Kind::default()]);
    let (succeeded, said) = add(&farm, "build-1", &[]);
    assert!(
        !succeeded && said.contains("give --fingerprint or --host-key"),
        "{said}"
    );
    let other = format!("SHA256:{}", "A".repeat(43));
    let (succeeded, said) = add(&farm, "build-1", &["--fingerprint", &other]);
    let expected = format!("have other fingerprints: {}", fingerprint(&farm));
    assert!(!succeeded && said.contains(&expected), "{said}");
    let key = fs::read_to_string(farm.site.path("ssh/other.pub")).unwrap();
    let (succeeded, said) = add(&farm, "build-1", &["--host-key", &key]);
    assert!(
        !succeeded && said.contains("its host key is not the one"),
        "{said}"
    );
    // On a terminal, somebody is asked.
    let on_terminal = |answer: &str| {
        let words = words(&farm, "build-1", &["--dry-run"]);
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let line = format!("{CLIENT} {}", quoted.join(" "));
        let mut script = farm.site.command("script");
        script
            .args(["-qec", &line, "/dev/null"])
            .env("TERM", "xterm");
        output(farm.on_head(&script), format!("{answer}\n").as_bytes())
    };
    for answer in ["no", "", "y", &other, "\u{4}"] {
        let (succeeded, said) = on_terminal(answer);
        assert!(
            !succeeded && said.contains("was not accepted"),
            "{answer}: {said}"
        );
        assert!(said.contains(&fingerprint(&farm)), "{said}");
    }
    for answer in ["yes", &fingerprint(&farm)] {
        let (succeeded, said) = on_terminal(answer);
        assert!(
            succeeded && said.contains("[[machine]]"),
            "{answer}: {said}"
        );
    }
    assert_eq!(text(&farm), OLD);
    // One that doesn't answer.
    let fingerprint = fingerprint(&farm);
    let (succeeded, said) = add(&farm, "nowhere.invalid", &["--fingerprint", &fingerprint]);
    assert!(
        !succeeded && said.contains("failed to ask 'nowhere.invalid' for its host key"),
        "{said}"
    );
    for name in ["-oProxyCommand=x", "a b", "a/../b", ""] {
        let (succeeded, said) = add(&farm, name, &["--fingerprint", &fingerprint]);
        assert!(!succeeded && said.contains("name: "), "{name}: {said}");
    }
}

#[test]
fn both_sides_accept_each_others_signatures_if_that_is_wanted() {
    let strange = Kind {
        strange_here: true,
        strange_there: true,
        ..Kind::default()
    };
    let farm = unlisted(&[strange]);
    let fingerprint = format!("--fingerprint={}", fingerprint(&farm));
    let (succeeded, said) = add(&farm, "build-1", &[&fingerprint]);
    assert!(
        !succeeded && said.contains("wrong  signatures there"),
        "{said}"
    );
    assert!(
        said.contains("'build-1:22' is not added, as something is wrong with it"),
        "{said}"
    );
    assert_eq!(text(&farm), OLD);
    let (succeeded, said) = add(&farm, "build-1", &[&fingerprint, "--authorize"]);
    assert!(succeeded, "{said}");
    let mut client = farm.client();
    let drv = client.write(Script::new("x", "echo >$out"));
    client.build(&[&drv]).succeeded();
}

#[test]
fn a_broken_file_is_left_alone_and_entries_elsewhere_stay() {
    let farm = unlisted(&[Kind::default()]);
    let fingerprint = format!("--fingerprint={}", fingerprint(&farm));
    let broken = "[[machine]\nname = \"x\"\n";
    fs::write(file(&farm), broken).unwrap();
    for words in [&["offload", "remove", "x"][..], &["offload", "drain", "x"]] {
        let (succeeded, said) = farm.try_run(CLIENT, words);
        assert!(
            !succeeded && said.contains("failed to load machine file"),
            "{said}"
        );
    }
    let (succeeded, said) = add(&farm, "build-1", &[&fingerprint]);
    assert!(
        !succeeded && said.contains("failed to load machine file"),
        "{said}"
    );
    assert_eq!(text(&farm), broken);
    fs::remove_file(file(&farm)).unwrap();
    let scheme = farm.site.configuration().join("machines.scm");
    fs::write(&scheme, format!("(list {})\n", farm.entry(0).scheme())).unwrap();
    let (succeeded, said) = farm.try_run(CLIENT, &["offload", "remove", "build-1"]);
    let words = format!(
        "'build-1' comes from {}:1:7, which this command does not change",
        scheme.display()
    );
    assert!(!succeeded && said.contains(&words), "{said}");
    let (succeeded, said) = add(&farm, "build-1", &[&fingerprint]);
    assert!(
        !succeeded && said.contains("there is an entry for 'build-1:22' already"),
        "{said}"
    );
    assert!(!file(&farm).exists());
}

/// Whether a process has a file open.
fn has_open(pid: i32, file: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let mut links = descriptors.filter_map(|one| fs::read_link(one.ok()?.path()).ok());
    links.any(|link| link == file)
}

#[test]
fn two_are_added_at_once_and_one_who_dies_leaves_no_half() {
    let farm = unlisted(&[Kind::default(), Kind::default()]);
    let fingerprint = format!("--fingerprint={}", fingerprint(&farm));
    let mut client = farm.client();
    // Any user can do this, and holds nobody up.
    let directory = fs::File::open(farm.site.configuration()).unwrap();
    let _flock = nix::fcntl::Flock::lock(directory, nix::fcntl::FlockArg::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        for name in ["build-1", "build-2", "build-1"] {
            let (farm, fingerprint) = (&farm, &fingerprint);
            scope.spawn(move || add(farm, name, &[fingerprint]));
        }
    });
    let list = text(&farm);
    assert_eq!(list.matches("\n[[machine]]\n").count(), 2, "{list}");
    assert!(list.starts_with(OLD), "{list}");
    let drv = client.write(Script::new("x", "echo >$out"));
    client.build(&[&drv]).succeeded();
    // Whoever has the lock may die: the next one finds no half of a file.
    farm.run(CLIENT, &["offload", "remove", "build-*"]);
    fs::write(
        farm.site.configuration().join(".machines.toml.new"),
        "[[machine]]\nna",
    )
    .unwrap();
    let file = farm.site.configuration().join(".machines.toml.lock");
    let lock = LockFile::open(&file).unwrap();
    lock.lock(Mode::Exclusive).unwrap();
    let mut command = farm.site.command(CLIENT);
    command.args(words(&farm, "build-1", &[&fingerprint]));
    let mut waiter = farm
        .on_head(&command)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let waits = || {
        let all = farm.head_processes();
        let mut clients = all.iter().filter(|process| process.name() == "guix-client");
        clients.any(|process| has_open(process.pid, &file))
    };
    let is_waiting = eventually(waits);
    let clients = farm.head_processes();
    clients
        .iter()
        .filter(|process| process.name() == "guix-client")
        .for_each(Process::kill);
    assert!(!waiter.wait().unwrap().success());
    drop(lock);
    assert!(is_waiting);
    let (succeeded, said) = add(&farm, "build-1", &[&fingerprint]);
    assert!(succeeded, "{said}");
    let names = crate::farm::names(&farm.site.configuration());
    assert!(
        !names.contains(&".machines.toml.new".to_owned()),
        "{names:?}"
    );
}
