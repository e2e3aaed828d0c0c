//! Fixed-output derivations.

use std::os::unix::fs::MetadataExt;

use formats::{Algorithm, Hash};

use super::*;

#[test]
fn the_right_contents_are_taken() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let flat = Hash::of(Algorithm::Sha512, "hello\n");
    let flat = client.write(Script::new("flat", "echo hello >$out").fixed(false, flat));
    let nar = Hash::sha256(formats::nar::of_file(true, b"hello\n"));
    let tree = Script::new("tree", "echo hello >$out; chmod +x $out").fixed(true, nar);
    let tree = client.write(tree);
    client.build(&[&flat, &tree]).succeeded();
    assert_eq!(fs::read_to_string(flat.out().as_path()).unwrap(), "hello\n");
    let metadata = fs::metadata(tree.out().as_path()).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o555, 1));
    assert_eq!(client.info(tree.out()).hash, nar);
    assert_eq!(client.info(flat.out()).deriver, Some(flat.path));
}

#[test]
fn other_contents_are_refused_and_nothing_is_left() {
    for recursive in [true, false] {
        let setup = Setup::new(&[]);
        let mut client = setup.client();
        let before = setup.store_names();
        let hash = Hash::sha256("what was promised");
        let drv = client.write(Script::new("wrong", "echo other >$out").fixed(recursive, hash));
        let built = client.build(&[&drv]);
        built.failed(1, &format!("build of `{}' failed", drv.path));
        built.said(&format!("hash mismatch for store item '{}'", drv.out()));
        let prefix = if recursive { "r:" } else { "" };
        let trace = format!(
            "@ hash-mismatch {} {prefix}sha256 {} ",
            drv.out(),
            hash.base32()
        );
        built.said(&trace);
        assert!(!client.is_valid(drv.out()));
        // The lock file stays, as after any failure.
        let mut after = setup.store_names();
        after.retain(|name| *name != drv.path.base_name() && !name.ends_with(".lock"));
        assert_eq!(after, before);
    }
}

#[test]
fn a_flat_hash_is_for_plain_files_only() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let hash = Hash::sha256("hello\n");
    for (name, script) in [
        ("executable", "echo hello >$out; chmod +x $out"),
        ("directory", "mkdir $out"),
        ("link", "echo hello >file; ln -s $PWD/file $out"),
    ] {
        let drv = client.write(Script::new(name, script).fixed(false, hash));
        let built = client.build(&[&drv]);
        built.failed(1, "failed");
        built.said(&format!("output path `{}", drv.out()));
        built.said(" should be a non-executable regular file");
        assert!(!client.is_valid(drv.out()));
    }
}

#[test]
fn a_failing_build_might_succeed_another_time() {
    let setup = Setup::new(&["--cache-failures"]);
    let mut client = setup.client();
    let drv = client.write(Script::new("bad", "exit 1").fixed(false, Hash::sha256("x")));
    // Not a permanent failure, so it isn't cached.
    client
        .build(&[&drv])
        .failed(1, &format!("build of `{}' failed", drv.path));
    assert!(client.connection.query_failed_paths().unwrap().is_empty());
}

#[test]
fn impure_variables_are_the_daemons_but_for_fixed_outputs_only() {
    let site = Site::new()
        .env("TEST_PROXY", "http://proxy")
        .env("TEST_SECRET", "hidden");
    let setup = Setup::at(site, &[]);
    let mut client = setup.client();
    let script = "echo \"$TEST_PROXY,${TEST_SECRET-unset},${TEST_NOTHING-unset}\" >$out";
    let impure = |script: Script| script.variable("impureEnvVars", "TEST_PROXY TEST_NOTHING");
    let fixed = Script::new("fixed", script).fixed(false, Hash::sha256("http://proxy,unset,\n"));
    let fixed = client.write(impure(fixed));
    client.build(&[&fixed]).succeeded();

    let plain = client.write(impure(Script::new("plain", &script.replace("Y,", "Y-,"))));
    client.build(&[&plain]).succeeded();
    assert_eq!(
        fs::read_to_string(plain.out().as_path()).unwrap(),
        "-,unset,unset\n"
    );
}

#[test]
fn the_output_is_not_the_file_that_the_builder_made() {
    // A process that got hold of a descriptor could change it afterwards.
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let script = format!(
        "echo hello >$out; stat -c %i $out >{}/inode",
        setup.gate().display()
    );
    let drv = client.write(Script::new("copied", &script).fixed(false, Hash::sha256("hello\n")));
    client.build(&[&drv]).succeeded();
    let inode = fs::metadata(drv.out().as_path()).unwrap().ino();
    assert_ne!(inode.to_string(), setup.read("inode").trim());
}

#[test]
fn two_ways_to_the_same_output_are_built_once() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let hash = Hash::sha256("hello\n");
    let script = |number: u32| {
        let script = format!(
            "echo {number} >>{}/built; echo hello >$out",
            setup.gate().display()
        );
        Script::new("same", &script).fixed(false, hash)
    };
    let (one, two) = (client.write(script(1)), client.write(script(2)));
    assert_eq!(one.out(), two.out());
    client.build(&[&one]).succeeded();
    client.build(&[&two]).succeeded();
    assert_eq!(setup.read("built"), "1\n");
}

#[test]
fn a_download_without_its_program_says_why() {
    if !is_ours() {
        return;
    }
    let gone = "/nonexistent/program";
    let setup = Setup::at(Site::new().env("GUIX_FETCH", gone), &[]);
    let mut client = setup.client();
    let hash = Hash::sha256("x");
    let script = Script::new("file", "")
        .builder("builtin:download")
        .fixed(false, hash);
    let drv = client.write(script.variable("url", "\"http://127.0.0.1:9/\""));
    let built = client.build(&[&drv]);
    built.failed(1, "failed");
    built.said(&format!(
        "warning: cannot use `{gone}' (GUIX_FETCH): No such file or directory; there are no downloads"
    ));
}
