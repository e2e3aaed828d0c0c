//! Machine files: formats, mistakes, and that they are read again for each request.

use std::fs;

use data_encoding::BASE64;

use crate::farm::{Farm, Kind, SYSTEM};
use crate::harness::derivations::Script;
use crate::harness::is_ours;
use crate::hook_process::HookProcess;

/// A farm without any configured machine.
fn unconfigured(machines: usize) -> Farm {
    let mut farm = Farm::with(&vec![Kind::default(); machines]);
    farm.start(&["--max-jobs=1"]);
    fs::remove_file(farm.site.configuration().join("machines.toml")).unwrap();
    farm
}

/// Writes one of the machine files.
fn write(farm: &Farm, name: &str, text: &str) {
    fs::write(farm.site.configuration().join(name), text).unwrap();
}

/// Builds something new; returns where it was built, and the log.
fn built_on(farm: &Farm, name: &str) -> (String, String) {
    let mut client = farm.client();
    let script = format!("{}; echo built on $me; echo >$out", farm.where_am_i());
    let drv = client.write(Script::new(name, &script));
    let built = client.build(&[&drv]);
    built.succeeded();
    let (_, rest) = built
        .log
        .split_once("\nbuilt on ")
        .unwrap_or_else(|| panic!("{built:#?}"));
    (rest.lines().next().unwrap().to_owned(), built.log)
}

#[test]
fn without_a_file_everything_is_built_here() {
    let farm = unconfigured(1);
    assert_eq!(built_on(&farm, "x").0, "head");
    assert!(!farm.offload_directory().exists() || farm.ssh_masters().is_empty());
}

#[test]
fn guix_machines_scm() {
    let farm = unconfigured(1);
    let text = format!(";; Our machines.\n(list\n {})\n", farm.entry(0).scheme());
    write(&farm, "machines.scm", &text);
    assert_eq!(built_on(&farm, "x").0, "build-1");
}

#[test]
fn the_lines_of_nix() {
    let farm = unconfigured(1);
    let entry = farm.entry(0);
    let key = BASE64.encode(entry.get("host-key").as_bytes());
    let login = entry.get("private-key");
    let line = format!("# ours\nssh://root@build-1 {SYSTEM},i686-linux {login} 2 1.5 - - {key}\n");
    write(&farm, "machines", &line);
    assert_eq!(built_on(&farm, "x").0, "build-1");
}

#[test]
fn the_lines_of_nix_as_people_have_them() {
    let farm = unconfigured(1);
    let entry = farm.entry(0);
    let key = BASE64.encode(entry.get("host-key").as_bytes());
    let login = entry.get("private-key");
    let key_in_address = format!("base64-ssh-public-host-key={}", key.replace('=', "%3D"));
    for (number, line) in [
        format!("ssh://root@build-1?ssh-key={login} {SYSTEM} - - - - - {key}"),
        format!("ssh://root@build-1?ssh-key={login}&{key_in_address} {SYSTEM}"),
        format!("ssh://[::ffff:10.77.1.2]:22 {SYSTEM} {login} - - - - {key}"),
        format!("ssh://build-1 {SYSTEM} {login} - - - - {key}'"),
        format!(
            "nowhere.invalid mips64el-linux - - - - - {key};build-1 {SYSTEM} {login} - - - - {key}"
        ),
    ]
    .iter()
    .enumerate()
    {
        write(&farm, "machines", line);
        let (machine, log) = built_on(&farm, &format!("x-{number}"));
        assert_eq!(machine, "build-1", "{line}");
        assert_eq!(
            log.contains("ignoring the quotes"),
            line.ends_with('\''),
            "{log}"
        );
    }
    let line = format!("ssh://build-1?max-connections=4 {SYSTEM} {login} - - - - {key}\n");
    write(&farm, "machines", &line);
    let (machine, log) = built_on(&farm, "query");
    assert_eq!(machine, "build-1");
    let words = "field `name': `max-connections=4' after the address has no effect here";
    assert!(log.contains(words), "{log}");
}

#[test]
fn all_files_together() {
    let farm = unconfigured(3);
    let feature = |index: usize, name: &str| farm.entry(index).list("features", &[name]);
    write(
        &farm,
        "machines.scm",
        &format!("(list {})\n", feature(0, "one").scheme()),
    );
    write(&farm, "machines.toml", &feature(1, "two").toml());
    let entry = farm.entry(2);
    let key = BASE64.encode(entry.get("host-key").as_bytes());
    let login = entry.get("private-key");
    write(
        &farm,
        "machines",
        &format!("root@build-3 {SYSTEM} {login} 1 1 three - {key}\n"),
    );
    let mut client = farm.client();
    for (feature, machine) in [("one", "build-1"), ("two", "build-2"), ("three", "build-3")] {
        let script = format!("{}; echo built on $me; echo >$out", farm.where_am_i());
        let script = Script::new(feature, &script).variable("requiredSystemFeatures", feature);
        let drv = client.write(script);
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said(&format!("built on {machine}\n"));
    }
}

#[test]
fn a_mistake_is_shown_with_its_place_and_leaves_the_other_entries() {
    let farm = unconfigured(2);
    let directory = farm.site.configuration();
    let (good, bad) = (farm.entry(1), farm.entry(0).plain("port", "70000"));
    write(
        &farm,
        "machines.toml",
        &format!("{}{}", bad.toml(), good.toml()),
    );
    let (machine, log) = built_on(&farm, "toml");
    assert_eq!(machine, "build-2");
    let place = directory.join("machines.toml");
    let line = bad
        .toml()
        .lines()
        .position(|line| line.starts_with("port"))
        .unwrap()
        + 1;
    let words = "field `port': expected an integer from 1 to 65535, got 70000\n";
    assert!(
        log.contains(&format!("warning: {}:{line}:1: {words}", place.display())),
        "{log}"
    );

    fs::remove_file(&place).unwrap();
    let bad = bad.scheme();
    write(
        &farm,
        "machines.scm",
        &format!("(list {bad}\n  {})\n", good.scheme()),
    );
    let (machine, log) = built_on(&farm, "scheme");
    assert_eq!(machine, "build-2");
    let place = directory.join("machines.scm");
    let line = bad.lines().position(|line| line.contains("(port")).unwrap() + 1;
    let expected = format!("warning: {}:{line}:", place.display());
    let shown = log
        .lines()
        .find(|line| line.contains(&expected))
        .unwrap_or_else(|| panic!("{log}"));
    assert!(shown.contains(words.trim_end()), "{shown}");
    let column = shown
        .split(&expected)
        .nth(1)
        .unwrap()
        .split(':')
        .next()
        .unwrap();
    assert!(column.parse::<u32>().is_ok(), "{shown}");

    fs::remove_file(&place).unwrap();
    let key = BASE64.encode(good.get("host-key").as_bytes());
    let login = good.get("private-key");
    let line =
        |host: &str, jobs: &str| format!("root@{host} {SYSTEM} {login} {jobs} 1 - - {key}\n");
    let text = format!("\n{}{}", line("build-1", "many"), line("build-2", "1"));
    write(&farm, "machines", &text);
    let (machine, log) = built_on(&farm, "nix");
    assert_eq!(machine, "build-2");
    let column = text.lines().nth(1).unwrap().find("many").unwrap() + 1;
    let place = directory.join("machines");
    let expected = format!(
        "warning: {}:2:{column}: field `parallel-builds': `many' is not a number\n",
        place.display()
    );
    assert!(log.contains(&expected), "{log}");
}

#[test]
fn a_file_that_makes_no_sense_stops_no_build() {
    if !is_ours() {
        return; // a hook that dies is the end of the request
    }
    let farm = unconfigured(1);
    for (name, text, place) in [
        (
            "machines.toml",
            "[[machine]\nname = \"x\"\n",
            "machines.toml:1:",
        ),
        (
            "machines.scm",
            "(list\n  (build-machine\n    (name \"x\"\n",
            "machines.scm:",
        ),
    ] {
        write(&farm, name, text);
        let (machine, log) = built_on(&farm, name);
        assert_eq!(machine, "head");
        assert!(
            log.contains("guix offload: error: failed to load machine file"),
            "{log}"
        );
        assert!(log.contains(place), "{log}");
        fs::remove_file(farm.site.configuration().join(name)).unwrap();
    }
}

#[test]
fn a_changed_file_counts_from_the_next_request_on() {
    let farm = unconfigured(2);
    let mut client = farm.client();
    let drv = client.write(Script::new("x", "echo >$out"));
    let mut hook = HookProcess::start(&farm);
    assert_eq!(hook.ask(&drv), "decline");
    farm.configure(&[farm.entry(0).plain("parallel-builds", "0")]);
    assert_eq!(hook.ask(&drv), "postpone");
    farm.configure(&[farm.entry(0).list("systems", &["mips64el-linux"])]);
    assert_eq!(hook.ask(&drv), "decline");
    farm.configure(&[farm.entry(1)]);
    assert_eq!(hook.ask(&drv), "accept");
    let busybox = client.busybox().clone();
    hook.send_paths(&[&busybox], &[drv.out()]);
    hook.wait_for_line(&format!("offloading '{}' to 'build-2'...", drv.path));
    assert_eq!(hook.end(), Some(0), "{}", hook.output);
}

#[test]
fn another_key_needs_another_connection() {
    // Connections of an old entry are not used for the new one.
    let farm = Farm::new(1);
    built_on(&farm, "x");
    let key = fs::read_to_string(farm.site.path("ssh/other.pub")).unwrap();
    farm.configure(&[farm.entry(0).text("host-key", key.trim())]);
    farm.forget();
    let mut client = farm.client();
    let drv = client.write(Script::new("y", "echo >$out"));
    let mut hook = HookProcess::start(&farm);
    assert_eq!(hook.ask(&drv), "postpone");
    assert!(
        hook.output.contains("its host key is not the one"),
        "{}",
        hook.output
    );
}
