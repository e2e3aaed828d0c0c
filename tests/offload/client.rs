//! `guix-client offload status` and `offload test`, for users and for monitoring.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::farm::{CLIENT, Farm, HOOK, Kind, Process, SYSTEM, by_both_transports};
use crate::harness::derivations::Script;
use crate::harness::eventually;

fn status(farm: &Farm, words: &[&str]) -> String {
    farm.run(CLIENT, &[&["offload", "status"], words].concat())
}

/// The row of a machine in the table, and what follows it up to the next.
fn row<'a>(table: &'a str, machine: &str) -> &'a str {
    let start = table
        .find(&format!(" {machine}"))
        .unwrap_or_else(|| panic!("{table}"));
    let rest = &table[start..];
    let end = rest.find("\n─").unwrap_or(rest.len());
    &rest[..end]
}

#[test]
fn the_status_of_machines() {
    let loaded = Kind {
        load: 1.5,
        ..Kind::default()
    };
    let farm = {
        let mut farm = Farm::with(&[Kind::default(), loaded]);
        farm.start(&["--max-jobs=0"]);
        farm.configure(&[
            farm.entry(0)
                .plain("speed", "9.0")
                .list("features", &["kvm"]),
            farm.entry(1),
            farm.entry(0).text("name", "nowhere.invalid"),
        ]);
        farm
    };
    let mut client = farm.client();
    let script = format!("{}; echo >$out", farm.await_gate("go"));
    let quick =
        client.write(Script::new("quick", "echo >$out").variable("requiredSystemFeatures", "kvm"));
    client.build(&[&quick]).succeeded();
    let bad = Script::new("bad", "exit 1").variable("requiredSystemFeatures", "kvm");
    let bad = client.write(bad);
    client.build(&[&bad]).failed(100, "failed");
    let slow = client.write(Script::new("slow", &script).variable("requiredSystemFeatures", "kvm"));
    let building = client.start(&[&slow]);
    assert_eq!(farm.wait_for_builder("go"), "build-1");

    check_table(&status(&farm, &[]));
    check_json(&farm, slow.path.as_str());
    check_metrics(&status(&farm, &["--prometheus"]));
    farm.open("go");
    building.finish().1.succeeded();

    let chosen: Value =
        serde_json::from_str(&status(&farm, &["--json", &file(&farm), "build-2"])).unwrap();
    assert_eq!(chosen.as_array().unwrap().len(), 1);
    assert_eq!(chosen[0]["name"], "build-2");
    // The hook itself can tell, too.
    assert!(farm.run(HOOK, &["status"]).contains("build-1"));
    let (succeeded, _) = farm.try_run(CLIENT, &["offload", "status", "/nonexistent.toml"]);
    assert!(!succeeded);
}

/// The table of the machines of [`the_status_of_machines`].
fn check_table(table: &str) {
    for heading in [
        "machine",
        "systems",
        "slots",
        "load",
        "free",
        "round trip",
        "built/failed",
        "faults",
        "state",
    ] {
        assert!(
            table.lines().any(|line| line.contains(heading)),
            "{heading}: {table}"
        );
    }
    // The table is as wide as its reader's terminal: words may be on several lines.
    let squeezed: String = table.split_whitespace().collect();
    for text in [
        "build-1:22",
        "1/2",
        "1/1",
        "build-2:22",
        "0/2",
        "ready",
        "nowhere.invalid:22",
    ] {
        assert!(squeezed.contains(text), "{text}: {table}");
    }
}

/// The same as JSON, while `derivation` is built.
fn check_json(farm: &Farm, derivation: &str) {
    let json: Value = serde_json::from_str(&status(farm, &["--json"])).unwrap();
    let [one, two, nowhere] = &json.as_array().unwrap()[..] else {
        panic!("{json:#}")
    };
    assert_eq!(
        (&one["name"], &one["port"]),
        (&"build-1".into(), &22.into())
    );
    assert_eq!(one["systems"], Value::from(vec![SYSTEM]));
    assert_eq!(one["features"], Value::from(vec!["kvm"]));
    assert_eq!((&one["slots"], &one["slots_used"]), (&2.into(), &1.into()));
    assert_eq!(
        (&one["reachable"], &one["error"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!((&one["builds"], &one["failures"]), (&2.into(), &0.into()));
    assert_eq!(one["failed_builds"], 1);
    assert_eq!(one["host_name"], "build-1");
    assert_eq!(one["building"][0]["derivation"], derivation);
    let hook = farm.hooks()[0].pid;
    assert_eq!(one["building"][0]["pid"], hook);
    assert!(one["free_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(one["clock_offset_s"].as_f64().unwrap().abs() < 5.0);
    assert!(one["round_trip_ms"].as_f64().unwrap() < 5000.0);
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    assert!(
        (two["normalized_load"].as_f64().unwrap() - 1.5 / cores).abs() < 0.01,
        "{two:#}"
    );
    assert_eq!(two["slots_used"], 0);
    assert_eq!(nowhere["reachable"], false);
    assert!(
        nowhere["error"]
            .as_str()
            .unwrap()
            .contains("its name cannot be resolved")
    );
}

/// The same for Prometheus.
fn check_metrics(metrics: &str) {
    for line in [
        "# TYPE guix_offload_up gauge",
        "guix_offload_up{machine=\"build-1:22\"} 1",
        "guix_offload_up{machine=\"nowhere.invalid:22\"} 0",
        "guix_offload_slots{machine=\"build-2:22\"} 2",
        "guix_offload_slots_used{machine=\"build-1:22\"} 1",
        "# TYPE guix_offload_builds_total counter",
        "guix_offload_builds_total{machine=\"build-1:22\"} 2",
        "guix_offload_failed_builds_total{machine=\"build-1:22\"} 1",
        "guix_offload_failures_total{machine=\"build-1:22\"} 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}: {metrics}"
        );
    }
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(
            name.starts_with("guix_offload_") && name.ends_with("\"}"),
            "{line}"
        );
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
}

fn file(farm: &Farm) -> String {
    farm.site
        .configuration()
        .join("machines.toml")
        .to_str()
        .unwrap()
        .to_owned()
}

#[test]
fn a_machine_that_failed_is_shown_as_set_aside() {
    let farm = Farm::new(1);
    farm.machines[0]
        .processes("sshd")
        .iter()
        .for_each(Process::kill);
    let mut client = farm.client();
    let drv = client.write(Script::new("x", "echo >$out"));
    let mut hook = crate::hook_process::HookProcess::start(&farm);
    assert_eq!(hook.ask(&drv), "postpone");
    farm.machines[0].start_sshd(&farm.site);
    let table = status(&farm, &[]);
    assert!(row(&table, "build-1").contains("set aside"), "{table}");
    let json: Value = serde_json::from_str(&status(&farm, &["--json"])).unwrap();
    assert!(json[0]["set_aside_s"].as_u64().unwrap() > 0);
    assert_eq!(json[0]["failures"], 1);
    assert!(
        json[0]["last_error"]
            .as_str()
            .unwrap()
            .contains("cannot be reached")
    );
    // Until it is tested successfully.
    let (content, text) = test(&farm);
    assert!(content, "{text}");
    let words = "was set aside, and gets builds again: failed to connect to 'build-1'";
    found(&text, "note", "set aside", words);
    is_up(&farm);
    assert_eq!(hook.ask(&drv), "accept");
}

#[test]
fn a_machine_that_is_too_busy_passes_the_test_with_a_note() {
    let cores = std::thread::available_parallelism().unwrap().get() as f64;
    let mut farm = Farm::with(&[Kind {
        load: cores * 0.9,
        ..Kind::default()
    }]);
    farm.start(&["--max-jobs=0"]);
    let threshold = |value| farm.configure(&[farm.entry(0).plain("overload-threshold", value)]);
    threshold("0.8");
    let (content, text) = test(&farm);
    assert!(content, "{text}");
    let words = "gets nothing now: its load 0.90 is not below 0.80, its overload-threshold";
    found(&text, "note", "load", words);
    threshold("0.95");
    let (content, text) = test(&farm);
    assert!(content && !text.contains("  note "), "{text}");
    let words = "0.90, below its overload-threshold 0.95";
    found(&text, "right", "load", words);
}

/// Checks that the only machine is not shown as one that could do a build, and why.
#[track_caller]
fn is_down(farm: &Farm, why: &str) {
    let table = status(farm, &[]);
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    assert!(!table.contains("ready"), "{table}");
    assert!(squeezed(&table).contains(&squeezed(why)), "{why}: {table}");
    let json: Value = serde_json::from_str(&status(farm, &["--json"])).unwrap();
    assert_eq!(json[0]["up"], false, "{json:#}");
    let metrics = status(farm, &["--prometheus"]);
    let line = "guix_offload_up{machine=\"build-1:22\"} 0\n";
    assert!(metrics.contains(line), "{metrics}");
}

/// Checks that the only machine is shown as one that could do a build.
#[track_caller]
fn is_up(farm: &Farm) {
    let table = status(farm, &[]);
    assert!(table.contains("ready"), "{table}");
    let json: Value = serde_json::from_str(&status(farm, &["--json"])).unwrap();
    let one = &json[0];
    assert_eq!(
        (&one["up"], &one["reachable"]),
        (&true.into(), &true.into())
    );
    let metrics = status(farm, &["--prometheus"]);
    let line = "guix_offload_up{machine=\"build-1:22\"} 1\n";
    assert!(metrics.contains(line), "{metrics}");
}

#[test]
fn a_machine_is_up_if_its_daemon_is() {
    by_both_transports(|transport| {
        let farm = Farm::new(1);
        farm.configure(&[farm.entry(0).text("transport", transport)]);
        let machine = &farm.machines[0];
        is_up(&farm);
        let signal = |signal| {
            for process in machine.processes("guix-daemon") {
                kill(Pid::from_raw(process.pid), signal).unwrap();
            }
        };
        // It has stopped answering, and the connection to the machine still stands.
        signal(Signal::SIGSTOP);
        is_down(&farm, "no answer in time");
        signal(Signal::SIGCONT);
        is_up(&farm);
        signal(Signal::SIGKILL);
        assert!(eventually(|| machine.processes("guix-daemon").is_empty()));
        is_down(&farm, "build daemon of 'build-1'");
        let json: Value = serde_json::from_str(&status(&farm, &["--json"])).unwrap();
        assert_eq!(json[0]["reachable"], false);
        // What is known about the machine is still shown.
        assert_eq!(json[0]["host_name"], "build-1");
        machine.start_daemon(&farm.site);
        is_up(&farm);
        farm.assert_nothing_left();
    });
}

#[test]
fn a_machine_without_space_is_not_up() {
    let mut farm = Farm::with(&[Kind {
        store_mib: Some(60),
        ..Kind::default()
    }]);
    farm.start(&["--max-jobs=0"]);
    is_down(&farm, "gets nothing: it is low on disk space");
    let json: Value = serde_json::from_str(&status(&farm, &["--json"])).unwrap();
    assert_eq!(json[0]["reachable"], true);
}

#[test]
fn a_machine_that_is_set_aside_is_not_up() {
    let mut farm = Farm::with(&[Kind {
        strange_there: true,
        ..Kind::default()
    }]);
    farm.start(&["--max-jobs=0"]);
    is_up(&farm); // signatures are what `offload test' is for
    let mut client = farm.client();
    let drv = client.write(Script::new("x", "echo >$out"));
    let building = client.start(&[&drv]);
    building.wait_for("failed at sending store items");
    is_down(&farm, "set aside for");
    // The key in the message spans several lines.
    let json: Value = serde_json::from_str(&status(&farm, &["--json"])).unwrap();
    let error = json[0]["last_error"].as_str().unwrap();
    assert!(
        error.contains("(public-key (ecc (curve Ed25519)"),
        "{error}"
    );
    building.hang_up();
}

#[test]
fn a_first_build_says_which_machine_has_built_it() {
    by_both_transports(|transport| {
        let farm = Farm::new(1);
        farm.configure(&[farm.entry(0).text("transport", transport)]);
        // There is a busybox in the store, for other tests, which is not sent.
        let text = farm.run(CLIENT, &["build", "--hello"]);
        for words in [
            "sending 2 store items",
            "hello from the builder\n",
            " s by the build machine 'build-1'. Its output is right: Hello from guix-client ",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        farm.assert_nothing_left();
    });
}

#[test]
fn a_first_build_that_no_machine_could_do_was_done_here() {
    let mut farm = Farm::with(&[Kind {
        strange_there: true,
        ..Kind::default()
    }]);
    farm.start(&["--max-jobs=1"]);
    let text = std::thread::scope(|scope| {
        let build = scope.spawn(|| farm.run(CLIENT, &["build", "--hello"]));
        // It is retried, each time as if after a long time.
        assert!(eventually(|| {
            farm.forget();
            build.is_finished()
        }));
        build.join().unwrap()
    });
    // It was sent there, with the request to build it, and refused.
    assert!(
        text.contains("-guix-client-hello.drv to 'build-1'\n"),
        "{text}"
    );
    let report = " s by the daemon itself, not offloaded. Its output is right: Hello from ";
    assert!(text.contains(report), "{text}");
}

#[test]
fn the_log_of_a_running_build_can_be_read_here() {
    let farm = Farm::new(1);
    let mut client = farm.client();
    let script = format!(
        "echo said there; {}; echo the rest; echo >$out",
        farm.await_gate("go")
    );
    let drv = client.write(Script::new("talker", &script));
    let building = client.start(&[&drv]);
    building.wait_for("said there\n");
    let log = |options: &[&str]| farm.run(CLIENT, &[&["log", drv.path.as_str()], options].concat());
    assert!(eventually(|| log(&["--no-follow"]) == "said there\n"));
    farm.open("go");
    building.finish().1.succeeded();
    assert_eq!(log(&[]), "said there\nthe rest\n");
    farm.assert_nothing_left();
}

/// What `offload test` prints for the only machine; whether it is content.
fn test(farm: &Farm) -> (bool, String) {
    farm.try_run(CLIENT, &["offload", "test"])
}

/// A line of its.
#[track_caller]
fn found(text: &str, verdict: &str, what: &str, words: &str) {
    let line = text.lines().find(|line| {
        let mut fields = line.split_whitespace();
        fields.next() == Some(verdict)
            && line.trim_start()[verdict.len()..]
                .trim_start()
                .starts_with(what)
    });
    assert!(
        line.is_some_and(|line| line.contains(words)),
        "{verdict} {what} {words}: {text}"
    );
}

#[test]
fn a_machine_that_works() {
    by_both_transports(|transport| {
        let farm = Farm::new(1);
        farm.configure(&[farm.entry(0).text("transport", transport)]);
        let (content, text) = test(&farm);
        assert!(content, "{text}");
        assert!(
            text.starts_with(&format!(
                "testing 1 build machines defined in '{}'...\nbuild-1:22\n",
                file(&farm)
            )),
            "{text}"
        );
        for (what, words) in [
            ("name", "10.77.1.2"),
            ("connection", "port 22"),
            ("host key", "ssh-ed25519"),
            ("login", "as root"),
            ("disk", "MiB free"),
            ("clock", " s "),
            ("protocol", transport),
            ("signatures there", "our signature is accepted"),
            ("signatures here", "its signature is accepted"),
        ] {
            found(&text, "right", what, words);
        }
        assert!(
            !text.contains("wrong") && !text.contains("to fix it"),
            "{text}"
        );
        farm.assert_nothing_left();
    });
}

#[test]
fn a_name_that_has_come_to_lead_nowhere() {
    let farm = Farm::new(1);
    assert!(test(&farm).0);
    // The shared connection to the old address stands.
    assert!(!farm.ssh_masters().is_empty());
    let hosts = farm.site.path("hosts");
    let text = std::fs::read_to_string(&hosts).unwrap();
    // It is mounted: the file must stay the same.
    std::fs::write(&hosts, text.replace("10.77.1.2", "10.77.1.9")).unwrap();
    let (content, output) = test(&farm);
    assert!(!content, "{output}");
    found(&output, "right", "name", "10.77.1.9");
    found(
        &output,
        "wrong",
        "connection",
        "failed to connect to 'build-1'",
    );
    std::fs::write(&hosts, text).unwrap();
    let (content, output) = test(&farm);
    assert!(content, "{output}");
}

#[test]
fn without_a_daemon_here_signatures_cannot_be_right() {
    let farm = Farm::with(&[Kind::default()]);
    let (content, text) = test(&farm);
    assert!(!content, "{text}");
    found(&text, "right", "protocol", "the daemon answers");
    found(&text, "wrong", "signing", "failed to connect to");
}

#[test]
fn machines_of_which_one_works() {
    let mut farm = Farm::with(&[
        Kind::default(),
        Kind {
            no_daemon: true,
            ..Kind::default()
        },
        Kind {
            strange_there: true,
            ..Kind::default()
        },
        Kind {
            strange_here: true,
            ..Kind::default()
        },
    ]);
    farm.start(&["--max-jobs=0"]);
    let other = std::fs::read_to_string(farm.site.path("ssh/other.pub")).unwrap();
    let key = farm.site.path("ssh/other");
    let one = |entry| {
        farm.configure(&[entry]);
        let (content, text) = test(&farm);
        assert!(!content, "{text}");
        assert!(text.contains("to fix it:"), "{text}");
        text
    };

    let text = one(farm.entry(0).text("host-key", other.trim()));
    found(
        &text,
        "wrong",
        "host key",
        "its host key is not the one in the machine file: it has SHA256:",
    );
    assert!(
        text.contains("ssh-keyscan -p 22 -t ed25519 build-1"),
        "{text}"
    );

    let text = one(farm.entry(0).text("private-key", key.to_str().unwrap()));
    found(&text, "wrong", "login", "it does not accept the login");
    assert!(
        text.contains(&format!(
            "ssh-copy-id -i {}.pub -p 22 root@build-1",
            key.display()
        )),
        "{text}"
    );

    let text = one(farm.entry(0).text("private-key", "/nonexistent/key"));
    found(
        &text,
        "wrong",
        "login",
        "there is no private key '/nonexistent/key'",
    );

    let text = one(farm.entry(0).text("name", "nowhere.invalid"));
    found(&text, "wrong", "name", "");

    let text = one(farm.entry(0).plain("port", "2222"));
    found(&text, "wrong", "connection", "it cannot be reached");
    let remedy = "on 'build-1', as root: systemctl start ssh || systemctl start sshd; sshd -T";
    assert!(text.contains(remedy), "{text}");

    let text = one(farm.entry(1));
    found(&text, "right", "login", "as root");
    found(
        &text,
        "wrong",
        "forwarding",
        "no daemon listens there, or forwarding is forbidden",
    );

    let text = one(farm.entry(2));
    found(&text, "wrong", "signatures there", "");
    // Of the program that the machine file names.
    let command = format!("signing-key.pub: {CLIENT} archive --authorize");
    assert!(text.contains(&command), "{text}");

    let text = one(farm.entry(3));
    found(&text, "right", "signatures there", "");
    found(&text, "wrong", "signatures here", "");

    // All at once: each has its own verdict.
    farm.configure(&[0, 1, 2, 3].map(|index| farm.entry(index)));
    let (content, text) = test(&farm);
    assert!(!content);
    assert!(text.starts_with("testing 4 build machines"), "{text}");
    assert_eq!(text.matches("  wrong  ").count(), 3, "{text}");
    let (content, text) = farm.try_run(CLIENT, &["offload", "test", &file(&farm), "build-1"]);
    assert!(content, "{text}");
    farm.assert_nothing_left();
}

#[test]
fn a_mistake_in_the_file_is_a_failed_test() {
    let farm = Farm::new(1);
    farm.configure(&[farm.entry(0), farm.entry(0).text("name", "x y")]);
    let (content, text) = test(&farm);
    assert!(!content);
    assert!(
        text.contains("machines.toml:") && text.contains("`x y' is not a host name"),
        "{text}"
    );
}

#[test]
fn machines_are_selected_by_a_regular_expression() {
    let farm = Farm::new(2);
    let file = file(&farm);
    let tested = |program: &str, words: &[&str]| {
        let (succeeded, text) = farm.try_run(program, words);
        (succeeded, text.matches("login ").count(), text)
    };
    for program in [CLIENT, HOOK] {
        let (succeeded, machines, text) = tested(program, &["offload", "test", &file, "ild-[12]"]);
        assert!(succeeded && machines == 2, "{text}");
        let (succeeded, machines, text) = tested(program, &["offload", "test", &file, "^build.2$"]);
        assert!(succeeded && machines == 1, "{text}");
        let table = farm.run(program, &["offload", "status", &file, "[13]$"]);
        assert!(
            table.contains("build-1") && !table.contains("build-2"),
            "{table}"
        );
        // Nothing would be tested, or shown: that is no success.
        for words in ["test", "status"] {
            let (succeeded, text) = farm.try_run(program, &["offload", words, &file, "build[12]"]);
            assert!(!succeeded, "{text}");
            let message =
                format!("no build machine in '{file}' has a name that matches 'build[12]'");
            assert!(text.contains(&message), "{text}");
            let (succeeded, text) = farm.try_run(program, &["offload", words, &file, "build[1"]);
            assert!(!succeeded, "{text}");
            assert!(
                text.contains("invalid regular expression 'build[1'"),
                "{text}"
            );
            let help = match program {
                CLIENT => farm.run(program, &["offload", words, "--help"]),
                _ => farm.run(program, &["--help"]),
            };
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(help.contains("extended regular expression"), "{help}");
        }
    }
}

#[test]
fn a_machine_file_that_cannot_be_read_is_reported_once() {
    let farm = Farm::with(&[]);
    let directory = farm.site.configuration();
    let message = format!(
        "failed to open machine file '{}': Is a directory\n",
        directory.display()
    );
    for program in [CLIENT, HOOK] {
        for word in ["test", "status"] {
            let words = ["offload", word, directory.to_str().unwrap()];
            let (succeeded, text) = farm.try_run(program, &words);
            assert!(!succeeded && text.ends_with(&message), "{text}");
        }
    }
}

#[test]
fn without_machines_neither_test_nor_status_succeeds() {
    let farm = Farm::with(&[]);
    for (configured, message) in [
        (
            true,
            format!("no build machine is defined in '{}'", file(&farm)),
        ),
        (false, "there is no machine file".to_owned()),
    ] {
        if !configured {
            std::fs::remove_file(file(&farm)).unwrap();
        }
        for program in [CLIENT, HOOK] {
            for word in ["test", "status"] {
                let (succeeded, text) = farm.try_run(program, &["offload", word]);
                assert!(!succeeded && text.contains(&message), "{text}");
            }
        }
    }
}

/// Runs a shell script on the head with the name of a program as `$1`. Returns its output.
fn shell(farm: &Farm, program: &str, script: &str) -> String {
    farm.run("sh", &["-c", script, "sh", program])
}

#[test]
fn a_closed_pipe_ends_the_program_and_a_full_disk_is_an_error() {
    let farm = Farm::new(1);
    for program in [CLIENT, HOOK] {
        for words in ["offload status", "offload test", "--help", "--version"] {
            // The reader is gone before anything is written; 141 is SIGPIPE.
            let closed =
                format!("exec 3>&1; {{ sleep 0.2; \"$1\" {words} 2>&3; echo $? >&3; }} | :");
            assert_eq!(shell(&farm, program, &closed), "141\n", "{program} {words}");
            let full = format!("\"$1\" {words} 2>&1 >/dev/full; echo $?");
            let text = shell(&farm, program, &full);
            assert!(text.ends_with("\n1\n"), "{program} {words}: {text}");
            assert!(
                text.contains("standard output"),
                "{program} {words}: {text}"
            );
            assert!(
                text.contains("No space left on device"),
                "{program} {words}: {text}"
            );
        }
    }
}
