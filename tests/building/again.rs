//! Rebuilding: `--check`, `--rounds`, and repair.

use protocol::operations::BuildMode;

use super::*;

/// A script with a different output each time.
fn changing(setup: &Setup, name: &str) -> Script {
    let gate = setup.gate();
    let script = format!(
        "echo x >>{0}/runs; grep -c x {0}/runs >$out",
        gate.display()
    );
    Script::new(name, &script)
}

#[test]
fn a_check_of_what_is_the_same_succeeds() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let script = format!("echo x >>{}/runs; echo same >$out", setup.gate().display());
    let drv = client.write(Script::new("same", &script));
    client.build(&[&drv]).succeeded();
    let before = client.info(drv.out());
    let built = client.build_in_mode(&[&drv], BuildMode::Check);
    built.succeeded();
    assert_eq!(setup.read("runs"), "x\nx\n");
    assert_eq!(client.info(drv.out()), before);
}

#[test]
fn a_check_of_what_differs_fails_and_leaves_the_first_result() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = client.write(changing(&setup, "changing"));
    client.build(&[&drv]).succeeded();
    let text = format!(
        "derivation `{}' may not be deterministic: output `{}' differs",
        drv.path,
        drv.out()
    );
    client
        .build_in_mode(&[&drv], BuildMode::Check)
        .failed(1, &text);
    assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), "1\n");
    let kept = PathBuf::from(format!("{}-check", drv.out()));
    assert!(!kept.exists());

    client.set(|options| options.keep_failed = true);
    let text = format!("{text} from `{}'", kept.display());
    client
        .build_in_mode(&[&drv], BuildMode::Check)
        .failed(1, &text);
    assert_eq!(fs::read_to_string(kept).unwrap(), "3\n");
    assert_eq!(fs::read_to_string(drv.out().as_path()).unwrap(), "1\n");
}

#[test]
fn what_was_not_built_cannot_be_checked() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = client.write(Script::new("new", "echo >$out"));
    let built = client.build_in_mode(&[&drv], BuildMode::Check);
    assert!(built.result.is_err(), "{built:?}");
    assert!(!client.is_valid(drv.out()));
}

#[test]
fn rounds_have_to_agree() {
    let setup = Setup::new(&["--rounds=3"]);
    let mut client = setup.client();
    let gate = setup.gate();
    let script = format!("echo x >>{}/same; echo same >$out", gate.display());
    let same = client.write(Script::new("same", &script));
    client.build(&[&same]).succeeded();
    assert_eq!(setup.read("same"), "x\nx\nx\n");

    let drv = client.write(changing(&setup, "changing"));
    let built = client.build(&[&drv]);
    built.failed(1, &format!("build of `{}' failed", drv.path));
    built.said(" differs from previous round");
    assert_eq!(setup.read("runs"), "x\nx\n");
    assert!(!client.is_valid(drv.out()));
}

#[test]
fn a_client_may_ask_for_rounds() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    client.set(|options| options.set("build-repeat", "1"));
    let drv = client.write(changing(&setup, "changing"));
    client.build(&[&drv]).failed(1, "failed");
}

#[test]
fn a_damaged_output_is_repaired() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = client.write(Script::new("fragile", "mkdir $out; echo good >$out/file"));
    client.build(&[&drv]).succeeded();
    let file = drv.out().as_path().join("file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "bad\n").unwrap();
    client.build(&[&drv]).succeeded();
    assert_eq!(fs::read_to_string(&file).unwrap(), "bad\n");
    if !is_ours() {
        // As long as the connection lasts, it remembers that what it built is intact.
        client = setup.client();
    }
    client.build_in_mode(&[&drv], BuildMode::Repair).succeeded();
    assert_eq!(fs::read_to_string(&file).unwrap(), "good\n");
}

#[test]
fn what_is_lost_of_several_outputs_is_built_anew_and_the_rest_stays() {
    let site = Site::new();
    if !is_ours() {
        // Its garbage collector runs `guix` to find items in use.
        let guix = site.path("no-guix-here");
        fs::write(&guix, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&guix, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let setup = Setup::at(site, &[]);
    let mut client = setup.client();
    let script = "echo o >$out; mkdir $lib; echo $out >$lib/self";
    let drv = client.write(Script::new("two", script).output("lib"));
    client.build(&[&drv]).succeeded();
    let before = client.info(drv.out());
    drop(client);
    setup.lose(drv.output("lib"));
    let mut client = setup.client();
    assert!(!client.is_valid(drv.output("lib")));
    client.build(&[&drv]).succeeded();
    assert!(client.is_valid(drv.output("lib")));
    assert_eq!(client.info(drv.out()), before);
    let text = fs::read_to_string(drv.output("lib").as_path().join("self")).unwrap();
    assert_eq!(text.trim(), drv.out().as_str());
}
