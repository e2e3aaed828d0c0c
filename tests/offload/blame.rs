//! Whose fault a failure is: no user can make hooks avoid a machine, whatever a build prints or
//! creates.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use formats::export::{Fields, write_signature};
use formats::{Hash, StorePath};
use store::Authority;

use crate::farm::{CLIENT, Farm, Kind, by_both_transports};
use crate::harness::Bytes;
use crate::harness::derivations::Script;

/// Messages of daemons about a full disk, and of failing systems.
const WORDS: &str = "note: build failure may have been caused by lack of free disk space";

/// Builds something that has to fail by itself, and only once.
fn fails_once(farm: &Farm, name: &str, script: &str) {
    let mut client = farm.client();
    let drv = client.write(Script::new(name, script));
    let built = client.build(&[&drv]);
    built.failed(100, &format!("build of `{}' failed", drv.path));
    built.said(&format!(
        "derivation '{}' offloaded to 'build-1' failed",
        drv.path
    ));
    built.did_not_say("ran out of resources");
    assert_eq!(farm.health(0)["all_failures"], 0, "{built:#?}");
}

/// Scripts that print what only a daemon may print, or make it print that.
fn liars() -> Vec<(&'static str, String)> {
    let daemon = "builder for `$out' failed with exit code 1: No space left on device";
    vec![
        ("note", format!("echo '{WORDS}'; exit 1")),
        (
            "no-newline",
            format!("echo '{WORDS}'; printf '{WORDS}'; exit 1"),
        ),
        (
            "stderr",
            format!("echo '{WORDS}' >&2; echo 'No space left on device' >&2; exit 1"),
        ),
        (
            "remark",
            format!("echo \"{daemon}\"; echo '{WORDS}'; exit 1"),
        ),
        (
            "frames",
            format!("echo '@ build-log 1 0'; echo '{WORDS}'; exit 1"),
        ),
        // Messages about an output quote the names in it.
        (
            "name",
            format!("mkdir $out; mkfifo \"$out/{WORDS}: No space left on device\""),
        ),
        ("lines", format!("mkdir $out; mkfifo \"$out/x\n{WORDS}\n\"")),
    ]
}

#[test]
fn a_builder_cannot_have_a_machine_set_aside_by_its_words() {
    by_both_transports(|transport| {
        let farm = Farm::new(1);
        farm.configure(&[farm.entry(0).text("transport", transport)]);
        for (name, script) in liars() {
            fails_once(&farm, name, &script);
        }
        farm.assert_nothing_left();
    });
}

#[test]
fn a_builder_cannot_do_so_where_its_output_is_not_marked() {
    let farm = Farm::new(1);
    // Like Guix's own program, which doesn't mark builder output.
    let program = farm.gate().join("guix");
    let text = format!("#!/bin/sh\nunset GUIX_OFFLOAD_FRAMES\nexec {CLIENT} \"$@\"\n");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let entry = farm.entry(0).text("transport", "commands");
    farm.configure(&[entry.text("program", program.to_str().unwrap())]);
    for (name, script) in liars() {
        fails_once(&farm, name, &script);
    }
}

#[test]
fn a_machine_cannot_send_what_nobody_asked_for() {
    let farm = Farm::new(2);
    let add = "echo bad | \"$1\" add-text evil";
    let evil = farm.machines[0].run(&farm.site, "sh", &["-c", add, "sh", CLIENT]);
    let evil = evil.trim().to_owned();
    let items = [
        ("after", "\"$@\" $evil"),
        ("before", "$evil \"$@\""),
        ("alone", "$evil"),
    ];
    for (name, items) in items {
        // Its key is authorised here: only its program is bad.
        let text = format!(
            "#!/bin/sh\nevil={evil}\ncase \"$1 $2\" in 'archive --export') shift 2; \
             exec {CLIENT} archive --export {items};; esac\nexec {CLIENT} \"$@\"\n"
        );
        let program = farm.gate().join(name);
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let entry = farm.entry(0).text("transport", "commands");
        let bad = entry.text("program", program.to_str().unwrap());
        farm.configure(&[bad.clone().plain("speed", "9.0"), farm.entry(1)]);
        farm.forget();
        let mut client = farm.client();
        let script = format!("{}; echo built on $me; echo >$out", farm.where_am_i());
        let drv = client.write(Script::new(name, &script));
        let built = client.build(&[&drv]);
        built.succeeded();
        let words = format!("what 'build-1' sent cannot be taken: it was not asked for `{evil}'");
        built.said(&words);
        built.said(
            "built on build-2
",
        );
        assert_eq!(farm.health(0)["failures"], 1);
        assert!(!std::path::Path::new(&evil).exists());
        farm.configure(&[bad]);
        let (all_right, text) = farm.try_run(CLIENT, &["offload", "test"]);
        assert!(
            !all_right && text.contains("it sent something else than"),
            "{text}"
        );
        assert!(!std::path::Path::new(&evil).exists());
    }
    farm.assert_nothing_left();
}

#[test]
fn a_machine_cannot_fill_our_store() {
    let mut farm = Farm::with(&[Kind::default(), Kind::default()]);
    let store = farm.site.store();
    fs::create_dir_all(&store).unwrap();
    let options = "size=150m,mode=1775";
    farm.run(
        "mount",
        &[
            "-t",
            "tmpfs",
            "-o",
            options,
            "store",
            store.to_str().unwrap(),
        ],
    );
    farm.start(&["--max-jobs=0"]);
    // The beginning of an archive, of one file of 2^62 bytes.
    let mut beginning = Bytes::new().word(1);
    for word in ["nix-archive-1", "(", "type", "regular", "contents"] {
        beginning = beginning.string(word);
    }
    let file = farm.gate().join("beginning");
    fs::write(&file, beginning.word(1 << 62).0).unwrap();
    let text = format!(
        "#!/bin/sh\ncase \"$1 $2\" in 'archive --export') cat {}; exec cat /dev/zero;; esac\n\
         exec {CLIENT} \"$@\"\n",
        file.display()
    );
    let program = farm.gate().join("endless");
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let entry = farm.entry(0).text("transport", "commands");
    let endless = entry.text("program", program.to_str().unwrap());
    farm.configure(&[endless.plain("speed", "9.0"), farm.entry(1)]);
    let mut client = farm.client();
    let script = format!("{}; echo built on $me; echo >$out", farm.where_am_i());
    let drv = client.write(Script::new("x", &script));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("'build-1' has sent more than ");
    built.said("built on build-2\n");
    assert_eq!(farm.health(0)["failures"], 1);
    // Nothing of it is left.
    let used = farm.run("du", &["-sm", store.to_str().unwrap()]);
    let used: u32 = used.split_whitespace().next().unwrap().parse().unwrap();
    assert!(used < 20, "{used} MiB");
    farm.assert_nothing_left();
}

/// The nar of a file.
fn nar(text: &str) -> Vec<u8> {
    let words = [
        "nix-archive-1",
        "(",
        "type",
        "regular",
        "contents",
        text,
        ")",
    ];
    words
        .iter()
        .fold(Bytes::new(), |nar, word| nar.string(word))
        .0
}

/// An archive of one file, with these contents, as if it were `path`: signed by the first machine.
fn forged(farm: &Farm, path: &StorePath, contents: &str) -> Vec<u8> {
    let mut item = nar(contents);
    let fields = Fields {
        path: path.clone(),
        references: BTreeSet::new(),
        deriver: None,
    };
    fields.write(&mut item).unwrap();
    let keys = authority::Keys::new(&farm.machines[0].files.join("etc"));
    let signature = keys.sign(&Hash::sha256(&item)).unwrap();
    write_signature(&mut item, Some(&signature)).unwrap();
    Bytes::new().word(1).raw(&item).word(0).0
}

#[test]
fn a_machine_cannot_send_something_else_than_a_fixed_output() {
    let farm = Farm::new(2);
    let mut client = farm.client();
    let right = "expected\n";
    for (name, recursive, contents) in [
        ("flat", false, "something else\n"),
        ("recursive", true, "something else\n"),
        ("right", false, right),
    ] {
        let hash = match recursive {
            false => Hash::sha256(right),
            true => Hash::sha256(nar(right)),
        };
        let script = format!(
            "{}; echo built on $me; echo expected >$out",
            farm.where_am_i()
        );
        let drv = client.write(Script::new(name, &script).fixed(recursive, hash));
        let archive = farm.gate().join(format!("archive-{name}"));
        fs::write(&archive, forged(&farm, drv.out(), contents)).unwrap();
        let text = format!(
            "#!/bin/sh\ncase \"$1 $2\" in 'archive --export') exec cat {};; esac\n\
             exec {CLIENT} \"$@\"\n",
            archive.display()
        );
        let program = farm.gate().join(name);
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let entry = farm.entry(0).text("transport", "commands");
        let bad = entry.text("program", program.to_str().unwrap());
        farm.configure(&[bad.plain("speed", "9.0"), farm.entry(1)]);
        farm.forget();
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said("built on build-1\n");
        assert_eq!(fs::read_to_string(drv.out().as_str()).unwrap(), right);
        if contents == right {
            // So it is the contents that are refused.
            built.did_not_say("built on build-2\n");
            continue;
        }
        built.said("what 'build-1' sent cannot be taken: hash mismatch for store item ");
        built.said("built on build-2\n");
        assert_eq!(farm.health(0)["failures"], 1);
    }
    drop(client);
    farm.assert_nothing_left();
}
