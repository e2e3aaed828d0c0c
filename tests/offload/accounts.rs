//! SSH as people have it: few sessions, shells that greet or refuse, accounts that are mended, keys
//! that cannot be used.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::farm::{CLIENT, Farm, Kind, by_both_transports};
use crate::harness::derivations::Script;

/// Runs `offload test`. Returns whether everything is right, and what it prints.
fn test(farm: &Farm) -> (bool, String) {
    farm.try_run(CLIENT, &["offload", "test"])
}

/// The line about a check that failed, and the line with the remedy if there is one.
#[track_caller]
fn failure(farm: &Farm) -> (String, Option<String>) {
    let (all_right, text) = test(farm);
    assert!(!all_right, "{text}");
    let mut lines = text.lines().skip_while(|line| !line.starts_with("  wrong"));
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let wrong = squeezed(lines.next().unwrap_or_else(|| panic!("{text}")));
    let remedy = lines.next().map(squeezed);
    (wrong, remedy.filter(|line| line.starts_with("to fix it: ")))
}

#[track_caller]
fn all_right(farm: &Farm) {
    let (all_right, text) = test(farm);
    assert!(all_right, "{text}");
}

/// Builds something new there.
#[track_caller]
fn builds(farm: &Farm, name: &str) {
    farm.forget();
    let mut client = farm.client();
    let drv = client.write(Script::new(name, "echo >$out"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.did_not_say("lost ");
    built.said("done with offloaded ");
}

/// The first line of a file changes; its inode stays, because machines have it mounted.
fn change_first_line(file: &Path, change: impl Fn(&str) -> String) {
    let text = fs::read_to_string(file).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    fs::write(file, format!("{}\n{rest}", change(first))).unwrap();
}

/// Gives root this login shell on all machines.
pub fn set_shell(farm: &Farm, shell: &str) {
    change_first_line(&farm.site.path("passwd"), |line| {
        assert!(line.starts_with("root:"), "{line}");
        let (start, _) = line.rsplit_once(':').unwrap();
        format!("{start}:{shell}")
    });
}

/// An executable script that all machines see.
fn script(farm: &Farm, name: &str, text: &str) -> PathBuf {
    let file = farm.gate().join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file
}

#[test]
fn sshd_that_allows_few_sessions() {
    by_both_transports(|transport| {
        for sessions in [1, 2] {
            let mut farm = Farm::with(&[Kind {
                sshd: format!("MaxSessions {sessions}"),
                ..Kind::default()
            }]);
            farm.start(&["--max-jobs=0"]);
            let entry = farm.entry(0).text("transport", transport);
            farm.configure(&[entry.plain("parallel-builds", "4")]);
            let began = Instant::now();
            builds(&farm, "one");
            let mut clients = Vec::new();
            for number in 0..4 {
                let mut client = farm.client();
                let script = format!("{}; echo >$out", farm.await_gate(&format!("go-{number}")));
                let drv = client.write(Script::new(&format!("x-{number}"), &script));
                clients.push(client.start(&[&drv]));
            }
            // All run at the same time.
            for number in 0..4 {
                farm.wait_for_builder(&format!("go-{number}"));
            }
            (0..4).for_each(|number| farm.open(&format!("go-{number}")));
            for building in clients {
                let (_, built) = building.finish();
                built.succeeded();
                built.did_not_say("lost ");
            }
            assert_eq!(farm.health(0)["all_failures"], 0);
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{:?}",
                began.elapsed()
            );
            all_right(&farm);
            farm.assert_nothing_left();
        }
    });
}

#[test]
fn sshd_that_allows_no_session_is_said_to() {
    let mut farm = Farm::with(&[Kind {
        sshd: "MaxSessions 0".to_owned(),
        ..Kind::default()
    }]);
    farm.start(&["--max-jobs=0"]);
    let (wrong, remedy) = failure(&farm);
    assert!(
        wrong.contains("sshd on 'build-1' allows no sessions"),
        "{wrong}"
    );
    assert!(remedy.unwrap().contains("maxsessions"));
}

#[test]
fn a_shell_that_greets() {
    by_both_transports(|transport| {
        let farm = Farm::new(1);
        let mut client = farm.client();
        let data = client.text("data", "some data\n", &[]);
        for (name, greeting) in [
            ("line", "echo Welcome to build-1"),
            ("word", "printf Welcome"),
        ] {
            let text = format!("#!/bin/sh\n{greeting}\nexec /bin/sh \"$@\"\n");
            set_shell(&farm, script(&farm, name, &text).to_str().unwrap());
            farm.end_masters();
            farm.configure(&[farm.entry(0).text("transport", transport)]);
            all_right(&farm);
            let needs = Script::new(&format!("needs-{name}"), &format!("cat {data} >$out"));
            let drv = client.write(needs.source(&data));
            client.build(&[&drv]).succeeded();
        }
    });
}

#[test]
fn an_account_that_runs_no_commands_until_it_is_mended() {
    let farm = Farm::new(1);
    set_shell(&farm, "/usr/sbin/nologin");
    let (wrong, remedy) = failure(&farm);
    let words = "wrong commands the account on 'build-1' does not run commands: \
                 This account is currently not available.";
    assert_eq!(wrong, words);
    let expected = "to fix it: on 'build-1', as root: usermod --shell /bin/sh root";
    assert_eq!(remedy.as_deref(), Some(expected));
    set_shell(&farm, "/bin/sh");
    all_right(&farm);
    // The hook, too, logs in anew.
    for transport in ["socket", "commands"] {
        farm.configure(&[farm.entry(0).text("transport", transport)]);
        set_shell(&farm, "/usr/sbin/nologin");
        farm.end_masters();
        let mut client = farm.client();
        let drv = client.write(Script::new(&format!("x-{transport}"), "echo >$out"));
        let building = client.start(&[&drv]);
        building.wait_for("does not run commands");
        set_shell(&farm, "/bin/sh");
        farm.forget();
        building.finish().1.succeeded();
    }
}

#[test]
fn an_account_that_joins_the_group_of_the_socket() {
    let farm = Farm::new(1);
    let passwd = farm.site.path("passwd");
    let text = fs::read_to_string(&passwd).unwrap();
    fs::write(&passwd, format!("{text}friend:x:40100:40100::/:/bin/sh\n")).unwrap();
    let directory = farm.machines[0].files.join("state/daemon-socket");
    chown(&directory, None, Some(40_200)).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)).unwrap();
    let entry = farm.entry(0).text("user", "friend");
    farm.configure(&[entry.text("transport", "socket")]);
    let (wrong, _) = failure(&farm);
    assert!(wrong.starts_with("wrong forwarding"), "{wrong}");
    let group = farm.site.path("group");
    let text = fs::read_to_string(&group).unwrap();
    fs::write(&group, format!("{text}friends:x:40200:friend\n")).unwrap();
    all_right(&farm);
    builds(&farm, "x");
}

#[test]
fn keys_that_ssh_cannot_use() {
    let farm = Farm::new(1);
    let copy = |name: &str| {
        let file = farm.site.path("ssh").join(name);
        fs::copy(farm.site.path("ssh/login"), &file).unwrap();
        farm.configure(&[farm.entry(0).text("private-key", file.to_str().unwrap())]);
        file
    };
    let file = copy("readable");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let (wrong, remedy) = failure(&farm);
    let name = file.display();
    let words = format!("the private key '{name}' may be read by others, so ssh does not use it");
    assert!(wrong.contains(&words), "{wrong}");
    assert_eq!(remedy, Some(format!("to fix it: chmod 600 {name}")));

    let file = copy("locked");
    let words = ["-q", "-p", "-P", "", "-N", "secret", "-f"];
    let changed = Command::new("ssh-keygen").args(words).arg(&file).output();
    assert!(changed.unwrap().status.success());
    let (wrong, remedy) = failure(&farm);
    let name = file.display();
    let words = format!("the private key '{name}' has a passphrase");
    assert!(wrong.contains(&words), "{wrong}");
    assert_eq!(
        remedy,
        Some(format!("to fix it: ssh-keygen -p -N '' -f {name}"))
    );

    let file = copy("damaged");
    fs::write(&file, "no key\n").unwrap();
    let (wrong, remedy) = failure(&farm);
    let words = format!("the private key '{}' cannot be used: ", file.display());
    assert!(wrong.contains(&words), "{wrong}");
    assert!(remedy.unwrap().contains("ssh-keygen -y"));
}

#[test]
fn a_program_that_is_missing_is_named() {
    let farm = Farm::new(1);
    let entry = farm.entry(0).text("transport", "commands");
    farm.configure(&[entry.text("program", "/nonexistent/guix")]);
    let (wrong, remedy) = failure(&farm);
    assert!(wrong.contains("/nonexistent/guix"), "{wrong}");
    assert!(remedy.unwrap().ends_with("command -v /nonexistent/guix"));
}
