//! `guix-client status`.

use std::cell::RefCell;

use serde_json::Value;

use crate::fixture::Fixture;
use crate::harness::derivations::{Building, Client, Script};
use crate::harness::{eventually, is_ours};

/// What the daemon says. It says the same for a second.
fn status(fixture: &Fixture) -> Value {
    let run = fixture.run(&["status", "--format=json"]);
    serde_json::from_slice(&run.succeeds().out).unwrap()
}

/// Waits until `is_so` of what the daemon says.
#[track_caller]
fn wait_until(fixture: &Fixture, is_so: impl Fn(&Value) -> bool) -> Value {
    let last = RefCell::new(Value::Null);
    let so = eventually(|| {
        *last.borrow_mut() = status(fixture);
        is_so(&last.borrow())
    });
    let last = last.into_inner();
    assert!(so, "{last:#}");
    last
}

/// A build that runs until the gate `go` is opened: `top`, which needs `low`, and `zother`.
fn building(fixture: &Fixture) -> (Building, [String; 3]) {
    let mut client = Client::connect(&fixture.daemon);
    let wait = fixture.await_gate("go");
    let low = client.write(Script::new("low", &format!("{wait}; echo >$out")));
    let top = client.write(Script::new("top", "echo >$out").input(&low, "out"));
    let other = client.write(Script::new("zother", "echo >$out"));
    let paths = [&low, &top, &other].map(|drv| drv.path.to_string());
    (client.start(&[&top, &other]), paths)
}

#[test]
fn it_tells_what_runs_what_waits_and_why() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::with_options(&["--no-substitutes", "--max-jobs=1"]);
    let (building, [low, top, other]) = building(&fixture);
    let told = wait_until(&fixture, |told| told["requests"][0]["running"] == 1);
    let request = &told["requests"][0];
    let us = nix::unistd::geteuid().as_raw();
    assert_eq!(request["client"]["uid"], us, "{told:#}");
    assert_eq!(request["targets"].as_array().unwrap().len(), 2);
    assert_eq!(request["answered"], true);
    for (field, count) in [("done", 0), ("running", 1), ("waiting", 2), ("failed", 0)] {
        assert_eq!(request[field], count, "{field}: {told:#}");
    }
    let build = &request["builds"][0];
    assert_eq!(
        (&build["path"], &build["place"]),
        (&low.as_str().into(), &"here".into())
    );
    assert_eq!(build["usual_s"], Value::Null);
    let path = [low.as_str(), top.as_str()];
    assert_eq!(request["critical_path"], serde_json::json!(path));
    assert_eq!(request["end"], Value::Null);
    // Also when it has taken longer than is supposed of what nothing is known of.
    let late = wait_until(&fixture, |told| {
        told["requests"][0]["builds"][0]["elapsed_s"].as_u64() >= Some(2)
    });
    let request = &late["requests"][0];
    assert_eq!(request["critical_path"], serde_json::json!(path));
    // Those that wait for more than their inputs come first.
    let waits = request["waits"].as_array().unwrap();
    assert_eq!(waits.len(), 2);
    assert_eq!(
        (&waits[0]["path"], &waits[0]["why"]),
        (&other.as_str().into(), &"slot".into())
    );
    assert_eq!(
        (&waits[1]["path"], &waits[1]["why"]),
        (&top.as_str().into(), &"inputs".into())
    );
    assert_eq!(
        request["reasons"],
        serde_json::json!({"inputs": 1, "slot": 1})
    );

    let run = fixture.run(&["status"]);
    let table = run.succeeds().text();
    for text in [
        &format!("(uid {us}), for "),
        "0 done, 1 running, 2 waiting, 0 failed; it is unknown when it will end",
        "longest path: low → top",
        "all slots of the client who wants it are in use",
        "it waits for something else to be done",
    ] {
        assert!(table.contains(text), "`{text}' is not in:\n{table}");
    }
    // One can ask for single ones.
    let run = fixture.run(&["status", "zother"]);
    let text = run.succeeds().text();
    assert!(text.starts_with("zother (request 1 of "), "{text}");
    assert!(
        text.ends_with(") waits: all slots of the client who wants it are in use\n"),
        "{text}"
    );
    let run = fixture.run(&["status", "--format=json", &low, "top.drv"]);
    let found: Value = serde_json::from_slice(&run.succeeds().out).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 2, "{found:#}");
    assert_eq!(found[0]["build"]["path"], low.as_str());
    assert_eq!(found[1]["wait"]["why"], "inputs");
    assert_eq!(found[1]["is_on_critical_path"], true);
    let run = fixture.run(&["status", "nothing-like-it"]);
    run.fails("nothing called 'nothing-like-it' runs or waits");
    fixture.open("go");
    building.finish().1.succeeded();
    wait_until(&fixture, |told| told["requests"] == serde_json::json!([]));
    assert_eq!(
        fixture.run(&["status"]).succeeds().text(),
        "nothing is being built\n"
    );
}

#[test]
fn a_client_who_waits_for_anothers_build_is_told_of() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::with_options(&["--no-substitutes", "--max-jobs=1"]);
    let (first, [low, ..]) = building(&fixture);
    wait_until(&fixture, |told| told["requests"][0]["running"] == 1);
    let words = ["build", low.as_str()];
    let mut command = fixture.command(&words);
    let mut second = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let joined = |told: &Value| told["requests"][1]["reasons"]["other-client"] == 1;
    wait_until(&fixture, joined);
    // A client that is killed leaves nothing behind.
    second.kill().unwrap();
    second.wait().unwrap();
    wait_until(&fixture, |told| {
        told["requests"].as_array().unwrap().len() == 1
    });
    first.hang_up();
    wait_until(&fixture, |told| told["requests"] == serde_json::json!([]));
}

#[test]
fn a_daemon_that_cannot_tell_is_not_taken_for_an_idle_one() {
    if is_ours() {
        return;
    }
    let fixture = Fixture::new();
    let run = fixture.run(&["status"]);
    assert!(!run.status.success());
    assert!(
        run.err.contains("this daemon cannot tell what it does"),
        "{run:?}"
    );
}
