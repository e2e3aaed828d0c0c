//! What the daemon remembers of the builds of its own machine, and that nothing in the way of the history
//! stops a build.

use std::os::unix::fs::symlink;

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use protocol::operations::BuildMode;
use rusqlite::Connection;
use serde_json::Value;

use super::*;

/// The client.
const CLIENT: &str = env!("CARGO_BIN_EXE_guix-client");

/// The database's file.
fn file(site: &Site) -> PathBuf {
    site.state().join("offload/history.sqlite")
}

/// The rows that the client shows, the newest first.
fn rows(site: &Site, words: &[&str]) -> Vec<Value> {
    let mut command = site.command(CLIENT);
    command.args(["history", "--format=json"]).args(words);
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits until there are so many rows: they are written a little after the client's reply.
#[track_caller]
fn wait_for_rows(setup: &Setup, count: usize) -> Vec<Value> {
    let there = || rows(&setup.site, &[]).len() >= count;
    setup.daemon.wait_until(there, "to write the history");
    let rows = rows(&setup.site, &[]);
    assert_eq!(rows.len(), count, "{rows:#?}");
    rows
}

/// A column of rows.
fn column<'a>(rows: &'a [Value], name: &str) -> Vec<&'a str> {
    rows.iter().map(|row| row[name].as_str().unwrap()).collect()
}

/// Builds something that takes no time.
fn build(client: &mut Client, name: &str) {
    let drv = client.write(Script::new(name, "echo >$out"));
    client.build(&[&drv]).succeeded();
}

/// Builds, twice, while something is in the way of the history; then the daemon has said so once.
fn builds_go_on(setup: &Setup, words: &str) {
    let mut client = setup.client();
    for name in ["first", "second"] {
        build(&mut client, name);
    }
    let warnings = || {
        let said = setup.daemon.messages();
        let lines = said.lines().filter(|line| line.contains("history"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    setup
        .daemon
        .wait_until(|| !warnings().is_empty(), "to warn");
    build(&mut client, "third");
    setup.daemon.signal(nix::sys::signal::Signal::SIGTERM);
    setup
        .daemon
        .wait_until(|| !setup.site.socket().exists(), "to end");
    let said = warnings();
    assert!(said.len() == 1 && said[0].contains(words), "{said:?}");
}

#[test]
fn builds_are_remembered() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let good = client.write(Script::new("good-1.2", "sleep 0.1; echo >$out"));
    client.build(&[&good]).succeeded();
    let bad = client.write(Script::new("bad-2", "exit 3"));
    client.build(&[&bad]).failed(100, "failed");
    let rows = wait_for_rows(&setup, 2);
    assert_eq!(column(&rows, "name"), ["bad", "good"]);
    assert_eq!(column(&rows, "version"), ["2", "1.2"]);
    assert_eq!(column(&rows, "result"), ["failed", "done"]);
    assert_eq!(column(&rows, "machine"), ["local", "local"]);
    assert_eq!(column(&rows, "system"), [env!("GUIX_SYSTEM"); 2]);
    assert_eq!(column(&rows, "kind"), ["build", "build"]);
    let reason = format!("builder for `{}' failed with exit code 3", bad.path);
    assert_eq!(column(&rows, "reason"), [&reason, ""]);
    assert_eq!(
        column(&rows, "derivation"),
        [bad.path.as_str(), good.path.as_str()]
    );
    assert!(rows[1]["built_ms"].as_u64() >= Some(100), "{rows:#?}");
    // What is valid is not built, and nobody has tried.
    client.build(&[&good]).succeeded();
    client.build_in_mode(&[&good], BuildMode::Check).succeeded();
    let rows = wait_for_rows(&setup, 3);
    assert_eq!(rows[0]["kind"], "check");
}

#[test]
fn how_builds_end_is_remembered() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&["--max-jobs=1"]);
    let mut client = setup.client();
    client.set(|options| options.set("build-max-silent-time", "1"));
    let silent = client.write(Script::new("silent", &setup.await_gate("never")));
    client.build(&[&silent]).failed(101, "");
    let rows = wait_for_rows(&setup, 1);
    assert_eq!(column(&rows, "result"), ["timed-out"]);

    let mut client = setup.client();
    let script = format!("echo begun; {}", setup.await_gate("never"));
    let unwanted = client.write(Script::new("unwanted", &script));
    let building = client.start(&[&unwanted]);
    building.wait_for("begun\n");
    building.hang_up();
    let rows = wait_for_rows(&setup, 2);
    assert_eq!(column(&rows, "result"), ["cancelled", "timed-out"]);

    // A graft has the package's name, and takes no time.
    let mut client = setup.client();
    let graft = client.write(graft("emacs-30", "echo >$out"));
    client.build(&[&graft]).succeeded();
    let rows = wait_for_rows(&setup, 3);
    assert_eq!(rows[0]["name"], "emacs (graft)");
}

/// A row as a hook tells it, in which a name is a lie.
#[cfg(have_daemon_offload_hook)]
fn told(result: &str, reason: &str) -> String {
    let row = serde_json::json!({"attempt": {
        "time": 1_800_000_000, "derivation": "lie.drv", "item": {"name": "lie", "version": ""},
        "system": env!("GUIX_SYSTEM"), "machine": "build-1:22", "speed": 2.5, "kind": "build",
        "times": {
            "waited": {"secs": 0, "nanos": 0}, "sent": {"secs": 1, "nanos": 0},
            "built": {"secs": 2, "nanos": 0}, "retrieved": {"secs": 3, "nanos": 0},
        },
        "bytes_sent": 10, "bytes_retrieved": 20, "result": result, "reason": reason,
    }});
    row.to_string()
}

#[cfg(have_daemon_offload_hook)]
#[test]
fn what_a_hook_tells_is_remembered_as_its_own() {
    if !is_ours() {
        return;
    }
    let state = r#"{"state":{"time":1800000000,"machine":"build-1:22","state":"ready","reason":"",
        "load":0.5,"cores":4,"free_bytes":1000,"slots":2}}"#;
    // A state before the reply; nothing that is no row, is too long, or tells of a build that isn't its own.
    let script = format!(
        "ask
         eval \"exec 3>&$GUIX_OFFLOAD_ROWS\"
         echo '{state}' >&3
         echo '{done}' >&3
         accept
         echo '{{}}' >&3; printf '\\0\\377\\n' >&3; head -c 1000000 /dev/zero >&3; echo >&3
         case $drv in
         *silent*) make;;
         *broken*) echo '{failed}' >&3; test -e $dir/broken || {{ : >$dir/broken; exit 1; }}; make;;
         *) echo '{failed}' >&3; printf %s '{half}' >&3; sleep 0.1; echo '{rest}' >&3; make;;
         esac",
        state = state.replace('\n', ""),
        done = told("done", ""),
        failed = told("machine-failed", "lost it"),
        half = &told("done", "")[..40],
        rest = &told("done", "")[40..],
    );
    let setup = super::hook::hooked(&script, &[]);
    let mut client = super::hook::client(&setup);
    for (name, count) in [("told-1.2", 2), ("silent-1", 3)] {
        let drv = client.write(Script::new(name, "exit 1"));
        client.build(&[&drv]).succeeded();
        wait_for_rows(&setup, count);
    }
    // The next hook has more luck.
    let drv = client.write(Script::new("broken-1", "exit 1"));
    client.build(&[&drv]).succeeded();
    drop(client);
    setup.daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let has_ended = || !setup.site.socket().exists();
    setup.daemon.wait_until(has_ended, "to end");
    let rows = rows(&setup.site, &[]);
    let of = |name: &str| {
        let own = rows.iter().filter(|row| row["name"] == name);
        own.map(|row| (row["result"].as_str().unwrap(), row["machine"].as_str()))
            .collect::<Vec<_>>()
    };
    let machine = Some("build-1:22");
    assert_eq!(of("told"), [("done", machine), ("machine-failed", machine)]);
    assert_eq!(of("silent"), [("done", None)]);
    assert_eq!(of("lie"), []);
    let failed = ("machine-failed", machine);
    assert_eq!(of("broken"), [("done", None), failed, failed]);
    assert_eq!(rows.last().unwrap()["sent_ms"], 1000, "{rows:#?}");
}

/// A script of what Guix would make to replace references of a package.
fn graft(name: &str, script: &str) -> Script {
    Script::new(name, script).variable("guix properties", "((type . graft) (graft (count . 2)))")
}

#[test]
fn a_graft_is_expected_to_take_as_long_as_grafts_do() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&["--max-jobs=2"]);
    let mut client = setup.client();
    let slow = client.write(Script::new("emacs-30", "sleep 2.1; echo >$out"));
    let quick = client.write(graft("emacs-30", "echo 1 >$out"));
    client.build(&[&slow, &quick]).succeeded();
    drop(client);
    wait_for_rows(&setup, 2);
    // A daemon that begins reads what builds take.
    let setup = setup.restarted(&["--max-jobs=2"]);
    let gate = setup.await_gate("go");
    let mut client = setup.client();
    let usual = |number: u32| {
        let mut asker = setup.client();
        let status = asker.connection.query_farm_status().unwrap().0.to_string();
        let status: Value = serde_json::from_str(&status).unwrap();
        let builds = status["requests"][0]["builds"].as_array().cloned();
        let builds = builds.unwrap_or_default();
        let named = |build: &&Value| {
            build["path"]
                .as_str()
                .is_some_and(|path| path.ends_with(&format!("-emacs-{number}.drv")))
        };
        builds
            .iter()
            .find(named)
            .map(|build| build["usual_s"].clone())
    };
    let again = client.write(graft("emacs-31", &gate));
    let next = client.write(Script::new("emacs-32", &gate));
    let building = client.start(&[&again, &next]);
    let is_known = || usual(31).is_some() && usual(32).is_some();
    setup.daemon.wait_until(is_known, "to tell what runs");
    assert_eq!(usual(31), Some(1.into()));
    let full = usual(32).and_then(|seconds| seconds.as_u64());
    assert!(full >= Some(3), "{full:?}");
    building.hang_up();
}

#[test]
fn a_daemon_without_a_history() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&["--history=no"]);
    build(&mut setup.client(), "one");
    let setup = setup.restarted(&[]);
    build(&mut setup.client(), "two");
    let rows = wait_for_rows(&setup, 1);
    assert_eq!(rows[0]["name"], "two");
    // Only the newest row stays.
    let setup = setup.restarted(&["--history=30,1"]);
    build(&mut setup.client(), "three");
    let is_three = || rows_named(&setup, "three") == 1;
    setup.daemon.wait_until(is_three, "to write the history");
    assert_eq!(wait_for_rows(&setup, 1)[0]["name"], "three");

    let site = Site::new().env("GUIX_OFFLOAD_HISTORY", "no");
    let setup = Setup::at(site, &[]);
    build(&mut setup.client(), "one");
    drop(setup.daemon);
    assert!(!file(&setup.site).exists());
}

fn rows_named(setup: &Setup, name: &str) -> usize {
    rows(&setup.site, &[&format!("--name={name}")]).len()
}

#[test]
fn wrong_limits_are_refused() {
    if !is_ours() {
        return;
    }
    let (status, _, said) = Site::new().run(&["--history=0"]);
    assert!(!status.success());
    assert!(
        said.contains("'--history': '0': expected `yes', `no', DAYS"),
        "{said}"
    );
    let site = Site::new().env("GUIX_OFFLOAD_HISTORY", "x");
    let (status, _, said) = site.run(&[]);
    assert!(!status.success());
    assert!(
        said.contains("GUIX_OFFLOAD_HISTORY: 'x': expected"),
        "{said}"
    );
}

#[test]
fn a_daemon_that_is_killed_leaves_a_whole_history() {
    if !is_ours() {
        return;
    }
    let mut setup = Setup::new(&[]);
    for round in 0..3 {
        let mut client = setup.client();
        let name = format!("last-{round}");
        let script = format!("echo begun; {}", setup.await_gate("never"));
        let endless = client.write(Script::new(&name, &script));
        for number in 0..5 {
            build(&mut client, &format!("quick-{round}-{number}"));
        }
        let building = client.start(&[&endless]);
        building.wait_for("begun\n");
        setup.daemon.signal(nix::sys::signal::Signal::SIGKILL);
        let _ = building.finish();
        let connection = Connection::open(file(&setup.site)).unwrap();
        let query = "pragma integrity_check";
        let whole: String = connection.query_row(query, [], |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
        drop(connection);
        setup = setup.restarted(&[]);
    }
    // Rows may be lost that were not written yet, and no others.
    let mut client = setup.client();
    build(&mut client, "after");
    let is_after = || rows_named(&setup, "after") == 1;
    setup.daemon.wait_until(is_after, "to write the history");
    assert!(
        !setup.daemon.messages().contains("history"),
        "{}",
        setup.daemon.messages()
    );
}

#[test]
fn a_damaged_history_is_begun_anew() {
    if !is_ours() {
        return;
    }
    let site = Site::new();
    fs::create_dir(site.state().join("offload")).unwrap();
    fs::write(file(&site), "no database".repeat(1000)).unwrap();
    let setup = Setup::at(site, &[]);
    builds_go_on(&setup, "begun anew");
    assert_eq!(rows(&setup.site, &[]).len(), 3);
    let aside = fs::read_to_string(setup.site.state().join("offload/history.sqlite.corrupt"));
    assert!(aside.unwrap().starts_with("no database"));
}

#[test]
fn a_history_of_a_newer_version_is_left_alone() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    build(&mut client, "old");
    wait_for_rows(&setup, 1);
    drop(client);
    let connection = Connection::open(file(&setup.site)).unwrap();
    connection
        .execute_batch("pragma user_version = 99")
        .unwrap();
    drop(connection);
    let before = fs::read(file(&setup.site)).unwrap();
    let setup = setup.restarted(&[]);
    builds_go_on(&setup, "has version 99, and this program knows version 1");
    assert!(fs::read(file(&setup.site)).unwrap() == before);
}

#[test]
fn a_link_in_its_place_is_not_followed() {
    if !is_ours() {
        return;
    }
    let site = Site::new();
    fs::create_dir(site.state().join("offload")).unwrap();
    let target = site.path("target");
    symlink(&target, file(&site)).unwrap();
    let setup = Setup::at(site, &[]);
    builds_go_on(&setup, "is not a regular file");
    assert!(!target.exists());
}

#[test]
fn a_lock_that_is_held_for_ever() {
    if !is_ours() {
        return;
    }
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    build(&mut client, "zeroth");
    wait_for_rows(&setup, 1);
    drop(client);
    let connection = Connection::open(file(&setup.site)).unwrap();
    connection.execute_batch("begin exclusive").unwrap();
    builds_go_on(&setup, "another process holds its lock");
}

/// Mounts a file system over the history's directory that is unmounted at the end. Does nothing where
/// tests may not mount one.
struct Mounted(Option<PathBuf>);

impl Mounted {
    fn over_history(site: &Site, options: &str) -> Mounted {
        if !nix::unistd::geteuid().is_root() {
            skip("needs root, for a file system of its own");
            return Mounted(None);
        }
        let directory = site.state().join("offload");
        fs::create_dir(&directory).unwrap();
        system::namespace::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        system::mount::make_private(Path::new("/")).unwrap();
        let (size, read_only) = options.split_once(' ').unwrap_or((options, ""));
        system::mount::mount_new("tmpfs", &directory, MsFlags::empty(), size).unwrap();
        if read_only == "ro" {
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            let none: Option<&str> = None;
            nix::mount::mount(none, &directory, none, flags, none).unwrap();
        }
        Mounted(Some(directory))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(directory) = &self.0 {
            let _ = system::mount::unmount(directory, MntFlags::MNT_DETACH);
        }
    }
}

#[test]
fn a_full_disk() {
    if !is_ours() {
        return;
    }
    let site = Site::new();
    let mounted = Mounted::over_history(&site, "size=16k");
    if mounted.0.is_none() {
        return;
    }
    let setup = Setup::at(site, &[]);
    builds_go_on(&setup, "database or disk is full");
    drop(mounted);
}

#[test]
fn a_directory_that_is_read_only() {
    if !is_ours() {
        return;
    }
    let site = Site::new();
    let mounted = Mounted::over_history(&site, "size=1m ro");
    if mounted.0.is_none() {
        return;
    }
    let setup = Setup::at(site, &[]);
    builds_go_on(&setup, "Read-only file system");
    drop(mounted);
}
