//! Hostile or careless builders.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use super::harness::derivations::{Built, Drv, processes_with};
use super::*;

/// Builds a script with a new daemon; no process or file may be left behind.
fn build(script: &str) -> (Setup, Client, Drv, Built) {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let drv = client.write(Script::new("hostile", script));
    let built = client.build(&[&drv]);
    let left = setup.store_names();
    assert!(
        !left.iter().any(|name| name.ends_with(".chroot")),
        "{script}: {left:?} {built:?}"
    );
    (setup, client, drv, built)
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn setuid_bits_are_cleared() {
    let script = "mkdir $out; chmod 2755 $out
                  cp $(readlink -f $PATH/busybox) $out/suid; chmod 6755 $out/suid
                  mkdir $out/dir; chmod 3755 $out/dir; echo >$out/plain; chmod 2600 $out/plain";
    let (_setup, mut client, drv, built) = build(script);
    built.succeeded();
    let out = drv.out().as_path();
    assert_eq!(
        ["suid", "dir", "plain"].map(|name| mode(out.join(name))),
        [0o555, 0o555, 0o444]
    );
    // Guix's daemon restores the mode of the top directory.
    assert!(!is_ours() || mode(out) == 0o555, "{:o}", mode(out));
    assert!(client.is_valid(drv.out()));
}

#[test]
fn permissions_are_made_those_of_store_items() {
    let script = "mkdir $out; echo >$out/none; chmod 0 $out/none
                  echo >$out/all; chmod 777 $out/all; mkdir $out/dir; chmod 700 $out/dir
                  echo >$out/others; chmod 011 $out/others";
    let (_setup, _client, drv, built) = build(script);
    built.succeeded();
    let out = drv.out().as_path();
    assert_eq!(
        ["none", "all", "dir", "others"].map(|name| mode(out.join(name))),
        [0o444, 0o555, 0o555, 0o444]
    );
}

#[test]
fn an_output_that_others_may_write_to_is_refused() {
    for mode in ["777", "775"] {
        let (_setup, mut client, drv, built) =
            build(&format!("mkdir $out; echo >$out/file; chmod {mode} $out"));
        built.failed(1, &format!("build of `{}' failed", drv.path));
        built.said("suspicious ownership or permission on `");
        built.said("; rejecting this build output");
        assert!(!client.is_valid(drv.out()));
    }
}

#[test]
fn what_is_no_file_is_refused() {
    for script in [
        "mkdir $out; mkfifo $out/pipe",
        "mkfifo $out",
        // A build user that isn't root may not even create it.
        "mknod $out c 1 3",
        "mkdir $out; mknod $out/sda b 8 0",
    ] {
        let (_setup, mut client, drv, built) = build(script);
        assert!(built.result.is_err(), "{script}: {built:?}");
        assert!(!client.is_valid(drv.out()), "{script}");
    }
}

#[test]
fn symbolic_links_that_lead_outside_are_kept_but_not_followed() {
    let victim = tempfile::NamedTempFile::new().unwrap();
    fs::set_permissions(victim.path(), fs::Permissions::from_mode(0o640)).unwrap();
    let before = fs::metadata(victim.path()).unwrap();
    let target = victim.path().to_str().unwrap();
    let script = format!(
        "mkdir $out; ln -s {target} $out/absolute; ln -s / $out/root
         ln -s ../../../../../../../..{target} $out/relative; ln -s $out/loop $out/loop"
    );
    let (_setup, mut client, drv, built) = build(&script);
    built.succeeded();
    let after = fs::metadata(victim.path()).unwrap();
    assert_eq!(
        (after.mode(), after.mtime()),
        (before.mode(), before.mtime())
    );
    let link = fs::read_link(drv.out().as_path().join("absolute")).unwrap();
    assert_eq!(link.to_str(), Some(target));

    // The same as the output itself.
    let drv = client.write(Script::new("link", &format!("ln -s {target} $out")));
    client.build(&[&drv]).succeeded();
    assert_eq!(
        fs::read_link(drv.out().as_path()).unwrap().to_str(),
        Some(target)
    );
    assert_eq!(fs::metadata(victim.path()).unwrap().mode(), before.mode());
}

#[test]
fn an_output_replaced_by_a_link_to_another_item_does_no_harm() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let good = client.text("good", "mine\n", &[]);
    let script = Script::new("link", "ln -s $good $out; echo evil >>$good || true");
    let drv = client.write(script.source(&good).variable("good", good.as_str()));
    client.build(&[&drv]).succeeded();
    assert_eq!(client.info(drv.out()).references, [good.clone()].into());
    assert_eq!(fs::read_to_string(good.as_path()).unwrap(), "mine\n");
    assert_eq!(mode(good.as_path()), 0o444);
}

#[test]
fn inputs_cannot_be_changed() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let script = "! touch $PATH/evil; ! rm $PATH/busybox; ! chmod 777 $PATH
                  ! mv $PATH $PATH.old; ! umount ${PATH%/bin}; ! mount -o remount,rw ${PATH%/bin}
                  ! ln $(readlink -f $PATH/busybox) $out; echo >$out";
    let drv = client.write(Script::new("evil", script));
    client.build(&[&drv]).succeeded();
    assert!(!client.busybox().as_path().join("bin/evil").exists());
}

#[test]
fn any_name_and_any_content_is_kept_as_it_is() {
    let long = "x".repeat(255);
    let script = format!(
        r#"mkdir $out; cd $out; echo >"$(printf 'a\nb')"; echo >"$(printf '\377\376')"
           echo >./-rf; echo >' '; echo >'*'; echo >{long}; echo >...; mkdir '$(exit)'
           ln -s "$(printf '\001 nowhere')" link"#
    );
    let (_setup, mut client, drv, built) = build(&script);
    built.succeeded();
    let mut found: Vec<Vec<u8>> = fs::read_dir(drv.out().as_path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    found.sort();
    let mut expected: Vec<&[u8]> = vec![
        b"a\nb",
        b"\xff\xfe",
        b"-rf",
        b" ",
        b"*",
        long.as_bytes(),
        b"...",
        b"$(exit)",
        b"link",
    ];
    expected.sort();
    assert_eq!(found, expected);
    assert!(
        client
            .connection
            .verify_store(true, false)
            .is_ok_and(|errors| !errors)
    );
}

#[test]
fn a_deep_tree_is_taken() {
    let depth = 300;
    let script =
        format!("mkdir $out; cd $out; for i in $(seq {depth}); do mkdir d; cd d; done; echo >f");
    let (_setup, mut client, drv, built) = build(&script);
    built.succeeded();
    let file = drv.out().as_path().join("d/".repeat(depth)).join("f");
    assert_eq!(fs::metadata(file).unwrap().len(), 1);
    let info = client.info(drv.out());
    assert!(info.nar_size > depth as u64 * 100);
}

#[test]
fn processes_left_behind_are_killed_and_not_waited_for() {
    // The last of them keeps the log open.
    let marker = format!("77777.{}", rand::random::<u32>());
    let script = format!(
        "setsid sleep {marker} >/dev/null 2>&1 &
         (trap '' HUP TERM; nohup sleep {marker} </dev/null >/dev/null 2>&1 &) &
         sleep {marker} &
         echo >$out"
    );
    for chroot in [true, false] {
        let options: &[&str] = if chroot { &[] } else { &["--disable-chroot"] };
        let setup = Setup::new(options);
        let mut client = setup.client();
        let script = if chroot {
            script.clone()
        } else {
            // Without a PID namespace the end of the builder does not end the others: these close
            // the log themselves.
            script.replace(" &\n         echo", " >/dev/null 2>&1 &\n         echo")
        };
        let drv = client.write(Script::new("leaver", &script));
        client.build(&[&drv]).succeeded();
        assert!(
            eventually(|| processes_with(&marker).is_empty()),
            "{:?}",
            processes_with(&marker)
        );
    }
}

#[test]
fn a_process_left_behind_that_stops_or_kills_all_others_of_its_user_is_killed_too() {
    if !is_ours() {
        return; // Guix's waits for ever, or fails
    }
    let marker = format!("leaver-{}", rand::random::<u32>());
    let setup = Setup::new(&["--disable-chroot"]);
    let mut client = setup.client();
    client.set_read_timeout(Duration::from_secs(60));
    for signal in ["STOP", "KILL", "STOP", "KILL"] {
        // Among its victims is the process that becomes this user to kill it.
        let script = format!(
            "setsid sh -c 'while kill -0 $0; do :; done; while :; do kill -{signal} -1; done' \
             $$ {marker} >/dev/null 2>&1 &
             echo >$out; sleep 0.1"
        );
        let name = format!("{signal}-{}", rand::random::<u32>());
        let drv = client.write(Script::new(&name, &script));
        client.build(&[&drv]).succeeded();
        let left = || processes_with(&marker);
        assert!(eventually(|| left().is_empty()), "{:?}", left());
    }
}

#[test]
fn a_builder_that_changes_its_output_afterwards_is_too_late() {
    let script = "mkdir $out; echo good >$out/file
                  setsid sh -c 'while :; do echo evil >>$0/file; done' $out 2>/dev/null >&2 &
                  exit 0";
    let (_setup, mut client, drv, built) = build(script);
    built.succeeded();
    let hash = client.info(drv.out()).hash;
    let nar = client.connection.query_path_hash(drv.out()).unwrap();
    assert_eq!(hash, nar);
    assert!(
        client
            .connection
            .verify_store(true, false)
            .is_ok_and(|errors| !errors)
    );
}

#[test]
fn a_build_directory_of_strange_modes_is_deleted() {
    let script =
        "mkdir -p a/b/c; echo >a/b/c/file; chmod 0 a/b/c/file a/b/c; chmod 500 a/b; chmod 0 a
                  ln -s / root; mkdir \"$(printf '\\377')\"; echo >$out";
    let (setup, _client, _drv, built) = build(script);
    built.succeeded();
    assert_eq!(names(&setup.site.path("tmp")), [""; 0]);
    assert!(Path::new("/etc").exists());
}
