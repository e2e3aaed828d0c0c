//! `guix-client offload`, without build machines; `tests/offload` has some.

use crate::fixture::Fixture;

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
fn wrong_arguments() {
    let fixture = Fixture::new();
    let missing = fixture.run(&["offload", "status", "/nowhere/machines.toml"]);
    missing.fails("/nowhere/machines.toml");
    let words = ["offload", "status", "--json", "--prometheus"];
    fixture.run(&words).fails("cannot be used with");
    fixture.run(&["offload"]).fails("Usage");
    fixture.run(&["offload", "test", "a", "b", "c"]).fails("");
}
