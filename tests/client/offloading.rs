//! `guix-client offload`, without build machines; `tests/offload` has some.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use crate::fixture::Fixture;
use crate::harness::{Site, skip};

/// An unreachable machine.
pub const NOWHERE: &str = r#"
[[machine]]
name = "nowhere.invalid"
systems = ["x86_64-linux"]
user = "nobody"
host-key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBGs6Yo9fJsGp7Jq3rZ1f0m3vJp7wD9m0Yx7pQ1kq3bK"
"#;

#[test]
fn a_file_without_machines_is_an_error() {
    let fixture = Fixture::new();
    let file = fixture.write("none.toml", "");
    let file = file.to_str().unwrap();
    let message = format!("no build machine is defined in '{file}'");
    for command in ["status", "test"] {
        fixture.run(&["offload", command, file]).fails(&message);
    }
}

#[test]
fn an_unreachable_machine_is_shown_and_fails_the_test() {
    let fixture = Fixture::new();
    let file = fixture.write("machines.toml", NOWHERE);
    let file = file.to_str().unwrap();
    let json = fixture.run(&["offload", "status", file, "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&json.succeeds().out).unwrap();
    assert_eq!(shown[0]["name"], "nowhere.invalid");
    assert_eq!(shown[0]["reachable"], false);
    let test = fixture.run(&["offload", "test", file]);
    test.fails("");
    assert!(test.text().contains("nowhere.invalid:22\n"), "{test:?}");
    fixture
        .run(&["offload", "status", file, "^other", "--json"])
        .fails("has a name that matches '^other'");
}

#[test]
fn what_root_tests_does_not_lock_out_the_hooks_of_another_user() {
    let account = system::ids::user_by_name("daemon").unwrap();
    let Some(account) = account.filter(|_| system::ids::effective_uid() == 0) else {
        return skip("needs root, and the user `daemon'");
    };
    let site = Site::new();
    chown(site.state(), Some(account.uid), Some(account.gid)).unwrap();
    // A command that prints nothing, and writes down what it finds.
    let who = site.path("who");
    fs::write(&who, "").unwrap();
    chown(&who, Some(account.uid), Some(account.gid)).unwrap();
    let script = format!("echo $HOME $USER $LOGNAME >{}", who.display());
    let generate = format!("{NOWHERE}\n[[generate]]\ncommand = [\"sh\", \"-c\", \"{script}\"]\n");
    fs::write(site.configuration().join("machines.toml"), generate).unwrap();
    let program = site.for_everybody(env!("CARGO_BIN_EXE_guix-client"));
    for command in ["test", "status"] {
        let output = site.command(&program).args(["offload", command]).output();
        let out = String::from_utf8(output.unwrap().stdout).unwrap();
        assert!(out.contains("nowhere.invalid:22"), "{out}");
        let made = fs::metadata(site.state().join("offload")).unwrap();
        assert_eq!((made.uid(), made.gid()), (account.uid, account.gid));
        assert_eq!(made.mode() & 0o7777, 0o700);
    }
    let home = account.home.display();
    let expected = format!("{home} daemon daemon\n");
    assert_eq!(fs::read_to_string(who).unwrap(), expected);
}

#[test]
fn wrong_arguments() {
    let fixture = Fixture::new();
    let missing = fixture.run(&["offload", "status", "/nowhere/machines.toml"]);
    missing.fails("/nowhere/machines.toml");
    let words = ["offload", "status", "--json", "--prometheus"];
    fixture.run(&words).fails("cannot be used with");
    fixture.run(&["offload"]).fails("Usage");
    fixture.run(&["offload", "test", "a", "b", "c"]).fails("");
}
