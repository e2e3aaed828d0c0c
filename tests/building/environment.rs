//! The environment of builders.

use std::collections::BTreeMap;

use formats::Hash;

use super::harness::derivations::Drv;
use super::*;

/// The lines that a build writes to its output.
fn lines(drv: &Drv) -> Vec<String> {
    let text = fs::read_to_string(drv.out().as_path()).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// Builds a derivation with this script; returns the lines it writes to standard output.
fn run(setup: &Setup, script: &str) -> Vec<String> {
    let mut client = setup.client();
    let drv = client.write(Script::new("probe", &format!("{{ {script}\n}} >$out")));
    client.build(&[&drv]).succeeded();
    lines(&drv)
}

#[test]
fn builders_run_on_the_daemons_processors_whatever_the_client_wishes() {
    let setup = Setup::new(&[]);
    let Some(mut client) = setup.client_of_another_processor() else {
        return;
    };
    let script = "grep Cpus_allowed_list /proc/self/status >$out";
    let drv = client.write(Script::new("processors", script));
    client.build(&[&drv]).succeeded();
    assert_eq!(lines(&drv), ["Cpus_allowed_list:\t0"]);
}

#[test]
fn a_daemon_whose_parent_ignored_signals_builds_all_the_same() {
    let users = BuildUsers::claim();
    let site = Site::new();
    let mut command = site.command("env");
    command
        .arg("--ignore-signal=CHLD")
        .arg(harness::program())
        .arg("--no-substitutes");
    if let Some(users) = &users {
        command.arg(format!("--build-users-group={}", users.group));
    }
    let daemon = site.launch_command(command);
    daemon.wait_to_serve();
    let mut client = Client::connect(&daemon);
    let good = client.write(Script::new("good", "echo >$out"));
    client.build(&[&good]).succeeded();
    let bad = client.write(Script::new("bad", "exit 7"));
    let built = client.build(&[&bad]);
    built.failed(100, "failed");
    built.said("failed with exit code 7");
}

#[test]
fn many_clients_are_served_and_builders_get_the_limit_that_the_daemon_had() {
    let site = Site::new();
    let mut command = site.command("sh");
    command
        .args(["-c", "ulimit -Sn 100; exec \"$0\" --no-substitutes"])
        .arg(harness::program());
    let daemon = site.launch_command(command);
    daemon.wait_to_serve();
    let idle: Vec<Client> = (0..60).map(|_| Client::connect(&daemon)).collect();
    let mut client = Client::connect(&daemon);
    let drv = client.write(Script::new("limit", "ulimit -Sn >$out"));
    client.build(&[&drv]).succeeded();
    assert_eq!(lines(&drv), ["100"]);
    drop(idle);
}

#[test]
fn the_variables_are_those_of_the_derivation_and_a_few_more() {
    let setup = Setup::at(Site::new().env("SECRET", "of the daemon"), &["--cores=7"]);
    let mut client = setup.client();
    let script = Script::new("variables", "env >$out")
        .variable("greeting", "hello world")
        .variable("HOME", "/of/its/own")
        .variable("TMPDIR", "/nowhere");
    let drv = client.write(script);
    client.build(&[&drv]).succeeded();
    let found: BTreeMap<String, String> = lines(&drv)
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        // Variables of the shell itself.
        .filter(|(name, _)| !["SHLVL", "_", "OLDPWD"].contains(&name.as_str()))
        .collect();
    let top = format!("/tmp/guix-build-{}-0", drv.path.name());
    let path = format!("{}/bin", client.busybox());
    let store = setup.site.store().display().to_string();
    let expected = [
        ("HOME", "/of/its/own"),
        ("NIX_BUILD_CORES", "7"),
        ("NIX_BUILD_TOP", &top),
        ("NIX_STORE", &store),
        ("PATH", &path),
        ("PWD", &top),
        ("TEMP", &top),
        ("TEMPDIR", &top),
        ("TMP", &top),
        ("TMPDIR", &top),
        ("greeting", "hello world"),
        ("out", drv.out().as_str()),
    ];
    let expected: BTreeMap<String, String> = expected
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    assert_eq!(found, expected);
}

#[test]
fn the_home_is_no_directory_and_the_path_is_empty_unless_set() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let bin = format!("{}/bin", client.busybox());
    let script = format!("echo $PATH $HOME >$out; ! {bin}/test -e $HOME");
    let script = Script::new("defaults", &script).variable("PATH", "/path-not-set");
    let drv = client.write(script);
    client.build(&[&drv]).succeeded();
    assert_eq!(lines(&drv), ["/path-not-set /homeless-shelter"]);
}

#[test]
fn the_builder_is_a_build_user_without_other_groups() {
    let setup = Setup::new(&[]);
    let Some(users) = &setup.users else { return };
    let found = run(&setup, "id -u; id -g; id -G; cat /etc/passwd /etc/group");
    let (uid, gid) = (users.uids[0], users.gid);
    let expected = [
        uid.to_string(),
        gid.to_string(),
        gid.to_string(),
        format!("nixbld:x:{uid}:{gid}:Nix build user:/:/noshell"),
        "nobody:x:65534:65534:Nobody:/:/noshell".to_owned(),
        format!("nixbld:!:{gid}:"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn processes_network_and_names_are_its_own() {
    let setup = Setup::new(&[]);
    let script = "echo $$; ps -o pid,comm | grep -c sshd || true; hostname
                  cat /proc/net/dev | grep -c : ; grep -o 'lo:' /proc/net/dev
                  cat /proc/sys/kernel/domainname; readlink /proc/1/exe";
    let mut found = run(&setup, script);
    let shell = found.pop().unwrap();
    assert!(shell.ends_with("/bin/busybox"), "{shell}");
    assert_eq!(found, ["1", "0", "localhost", "1", "lo:", "(none)"]);
}

#[test]
fn the_loopback_network_works_and_leads_nowhere() {
    let setup = Setup::new(&[]);
    // A server of the host.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let script = format!(
        "nc -l -p 7777 -e echo hello &
         i=0; until nc -w 5 127.0.0.1 7777 </dev/null 2>/dev/null; do
             sleep 0.02; i=$((i+1)); test $i -lt 200; done
         nc -w 2 127.0.0.1 {port} </dev/null 2>/dev/null && echo reached || echo not reached"
    );
    assert_eq!(run(&setup, &script), ["hello", "not reached"]);
}

#[test]
fn of_the_hosts_files_nothing_is_seen() {
    let setup = Setup::new(&[]);
    let script = "ls -a / | sort; echo; ls /etc | sort; echo; ls /dev | sort; echo
                  ls -a . | sort; echo; cat /etc/hosts; umask
                  test -e /etc/shadow || echo none; echo >/new || echo read-only";
    let found = run(&setup, &format!("exec 2>/dev/null; {script}"));
    let text = found.join(" ");
    let mut parts = text.split("  ");
    let root = parts.next().unwrap();
    // This test's gate and store are below /tmp too.
    assert_eq!(root, ". .. dev etc proc tmp");
    assert_eq!(parts.next().unwrap(), "group hosts passwd");
    let devices: Vec<_> = parts.next().unwrap().split(' ').collect();
    for device in [
        "full", "null", "random", "tty", "urandom", "zero", "fd", "shm", "pts",
    ] {
        assert!(devices.contains(&device), "{device}: {devices:?}");
    }
    for device in &devices {
        let known = "fd full kvm null ptmx pts random shm stderr stdin stdout tty urandom zero";
        assert!(known.split(' ').any(|known| known == *device), "{device}");
    }
    let rest: Vec<_> = parts.collect();
    assert_eq!(
        rest,
        [
            ". ..",
            "127.0.0.1 localhost ::1 localhost 0022 none read-only"
        ]
    );
}

#[test]
fn the_builder_has_no_descriptors_capabilities_or_terminal() {
    let setup = Setup::new(&[]);
    // The shell has closed the directory that it reads for this by the time it is examined.
    let script = "sh -c 'for fd in /proc/$$/fd/*; do
                             readlink $fd >/dev/null && echo ${fd##*/} $(readlink $fd); done' | cat
                  echo; grep -E 'CapEff|CapPrm|CapAmb' /proc/self/status | cut -f 2
                  cat /proc/self/oom_score_adj
                  true 2>/dev/null </dev/tty || echo no terminal";
    let found = run(&setup, script);
    let (open, found) = found.split_at(found.iter().position(|line| line.is_empty()).unwrap());
    assert!(open[0] == "0 /dev/null" || open[0] == "0 /null", "{open:?}");
    assert_eq!(open.len(), 3, "{open:?}");
    let none = "0000000000000000";
    assert_eq!(found, ["", none, none, none, "1000", "no terminal"]);
}

#[test]
fn standard_input_is_empty() {
    let setup = Setup::new(&[]);
    assert_eq!(run(&setup, "cat; echo end"), ["end"]);
}

#[test]
fn a_directory_that_the_administrator_names_is_seen_where_told() {
    let site = Site::new();
    let outside = site.path("shown");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "from the host\n").unwrap();
    let option = format!("--chroot-directory=/inside/there={}", outside.display());
    let setup = Setup::at(site, &[&option]);
    assert_eq!(run(&setup, "cat /inside/there/file"), ["from the host"]);
}

#[test]
fn a_fixed_output_build_sees_the_hosts_names_of_services() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let expected = if Path::new("/etc/services").exists() {
        "yes\n"
    } else {
        "no\n"
    };
    let script = "test -s /etc/services && echo yes >$out || echo no >$out; ! test -e /etc/shadow";
    let drv = client.write(Script::new("network", script).fixed(false, Hash::sha256(expected)));
    client.build(&[&drv]).succeeded();
}

#[test]
fn without_chroot_the_host_is_seen_but_the_user_is_still_another() {
    let setup = Setup::new(&["--disable-chroot"]);
    let mut client = setup.client();
    let script = "id -u; pwd; echo $TMPDIR; test -e /etc/passwd && echo seen
                  cat /etc/shadow 2>/dev/null || echo unreadable; echo $HOME";
    let drv = client.write(Script::new("bare", &format!("{{ {script}\n}} >$out")));
    client.build(&[&drv]).succeeded();
    let directory = setup
        .site
        .path("tmp")
        .join(format!("guix-build-{}-0", drv.path.name()));
    let directory = directory.to_str().unwrap();
    let uid = setup
        .users
        .as_ref()
        .map_or(nix::unistd::getuid().as_raw(), |users| users.uids[0]);
    let expected = [
        &uid.to_string(),
        directory,
        directory,
        "seen",
        "unreadable",
        "/homeless-shelter",
    ];
    assert_eq!(lines(&drv), expected);
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
    assert_eq!(client.info(drv.out()).deriver, Some(drv.path));
}

#[test]
fn without_chroot_failures_are_failures_too() {
    let setup = Setup::new(&["--disable-chroot"]);
    let mut client = setup.client();
    let bad = client.write(Script::new("bad", "echo half >$out; exit 4"));
    let built = client.build(&[&bad]);
    built.failed(100, "failed");
    assert!(!client.is_valid(bad.out()));
    let none = client.write(Script::new("none", "true"));
    client.build(&[&none]).failed(1, "failed");
    let suid = client.write(Script::new("suid", "echo >$out; chmod 4755 $out"));
    client.build(&[&suid]).succeeded();
    use std::os::unix::fs::MetadataExt;
    let mode = fs::metadata(suid.out().as_path()).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o555);
}

#[test]
fn a_client_that_is_root_may_turn_the_chroot_off() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    client.set(|options| options.set("build-use-chroot", "false"));
    let drv = client.write(Script::new("bare", "echo $$ >$out"));
    client.build(&[&drv]).succeeded();
    assert_ne!(lines(&drv), ["1"]);
}
