//! The questions to a hook, and the meaning of its replies.

use super::super::harness::derivations::processes_with;
use super::super::harness::eventually;
use super::*;

#[test]
fn what_it_declines_is_built_here() {
    let setup = hooked("while ask; do echo '# decline'; done", &[]);
    let mut client = client(&setup);
    let drvs: Vec<_> = (0..3)
        .map(|number| client.write(local(&format!("d-{number}"))))
        .collect();
    client.build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    for drv in &drvs {
        assert_eq!(maker(drv.out()), "locally");
        assert!(setup.read("asked").contains(drv.path.as_str()));
    }
    // Those that had to wait for a slot were asked about again.
    assert!(setup.read("asked").lines().count() <= 6);
}

#[test]
fn one_hook_is_asked_about_one_derivation_after_the_other() {
    let setup = hooked("while ask; do echo '# decline'; done", &[]);
    let mut client = client(&setup);
    let first = client.write(local("first"));
    let second = client.write(local("second").input(&first, "out"));
    let third = client.write(local("third").input(&second, "out"));
    client.build(&[&third]).succeeded();
    assert_eq!(setup.read("asked").lines().count(), 3);
    assert_eq!(setup.read("started").lines().count(), 1);
    // Another request uses another hook.
    let fourth = client.write(local("fourth"));
    client.build(&[&fourth]).succeeded();
    assert_eq!(setup.read("started").lines().count(), 2);
}

#[test]
fn the_question_is_one_line_of_four_fields() {
    let setup = hooked("while ask; do echo '# decline'; done", &[]);
    let mut client = client(&setup);
    let plain = client.write(local("plain"));
    let special = local("special").variable("requiredSystemFeatures", " kvm\n big-parallel\t");
    let special = client.write(special);
    let foreign = client.write(local("foreign").system("riscv64-linux"));
    for drv in [&plain, &special, &foreign] {
        client.build(&[drv]);
    }
    let own = env!("GUIX_SYSTEM");
    let expected = [
        format!("1 {own} {} ", plain.path),
        format!("1 {own} {} kvm,big-parallel", special.path),
        format!("1 riscv64-linux {} ", foreign.path),
    ];
    assert_eq!(setup.read("asked").lines().collect::<Vec<_>>(), expected);
}

#[test]
fn it_is_told_whether_this_machine_could_build_now() {
    let setup = hooked("ask; accept; make", &["--max-jobs=0"]);
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    client.build(&[&drv]).succeeded();
    assert!(setup.read("asked").starts_with("0 "));
    assert_eq!(maker(drv.out()), "by the hook");
}

#[test]
fn what_it_postpones_it_is_asked_again() {
    let script = "while ask; do
                      test $(wc -l <$dir/asked) -gt 2 && break; echo '# postpone'; done
                  accept; make";
    let setup = hooked(script, &[]);
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("waiting for locks or build slots...\n");
    if is_ours() {
        built.said(&format!("no build machine is free for `{}'\n", drv.path));
    }
    assert_eq!(maker(drv.out()), "by the hook");
    assert_eq!(setup.read("asked").lines().count(), 3);
    assert_eq!(setup.read("started").lines().count(), 1);
}

/// Our hook prints the line only if it is asked for it.
#[test]
fn why_it_postpones_is_told_in_one_line() {
    let script = "while ask; do
                      test $(wc -l <$dir/asked) -gt 2 && break
                      test -z \"$GUIX_OFFLOAD_REASONS\" ||
                          printf '@ build-postponed %s one: \\033 busy\\n' $drv >&2
                      echo '# postpone'; done
                  accept; make";
    let setup = hooked(script, &[]);
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    let built = client.build(&[&drv]);
    built.succeeded();
    if is_ours() {
        built.said(&format!(
            "no build machine is free for `{}': one: \\u{{1b}} busy\n",
            drv.path
        ));
    }
    assert!(!built.log.contains("@ build-postponed"), "{}", built.log);
}

#[test]
fn while_it_chooses_the_client_is_told_what_takes_long() {
    let script = "ask; until test -e $dir/go; do sleep 0.02; done; accept; make";
    let setup = hooked(script, &[]);
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    let building = client.start(&[&drv]);
    if is_ours() {
        let path = &drv.path;
        building.wait_for(&format!(
            "waiting for the build hook to choose a machine for `{path}'...\n"
        ));
    }
    setup.open("go");
    let (_, built) = building.finish();
    built.succeeded();
    assert!(built.log.matches("waiting for the build hook").count() <= 1);
}

#[test]
fn what_is_postponed_holds_up_nothing_else() {
    let script = "while ask; do case $drv in
                      *-later.drv) test -e $dir/go && break; echo '# postpone';;
                      *) echo '# decline';; esac; done
                  accept; make";
    let setup = hooked(script, &[]);
    let mut client = client(&setup);
    // Of another kind, so that it has its own turn.
    let later = local("later").variable("requiredSystemFeatures", "big");
    let later = client.write(later);
    let open = format!("touch {}/go; echo locally >$out", setup.gate().display());
    let now = client.write(Script::new("now", &open));
    client.build(&[&later, &now]).succeeded();
    assert_eq!(
        (maker(later.out()).as_str(), maker(now.out()).as_str()),
        ("by the hook", "locally")
    );
}

#[test]
fn what_it_says_before_its_answer_is_for_the_client() {
    let setup = hooked(
        "ask; echo hello >&2; echo '#not an answer'; echo '# decline'; ask",
        &[],
    );
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("hello\n#not an answer\n");
    built.did_not_say("# decline");
    assert!(!super::super::kept_log(&setup.site, &drv.path).contains("hello"));
}

#[test]
fn nothing_but_the_question_is_there_to_read_before_the_answer() {
    // A helper of the hook that reads ahead, such as ssh, would find it.
    let script = "ask; timeout 0.3 cat >$dir/ahead; echo '# accept'; exec cat >$dir/lines";
    let setup = hooked(script, &[]);
    let mut client = client(&setup);
    let source = client.text("source", "source\n", &[]);
    let script = local("example").source(&source).output("lib");
    let drv = client.write(script);
    client.build(&[&drv]);
    assert_eq!(setup.read("ahead"), "");
    let line = |mut paths: Vec<&formats::StorePath>| {
        paths.sort();
        paths
            .iter()
            .map(|path| format!("{path} "))
            .collect::<String>()
            + "\n"
    };
    let inputs = line(vec![&source, client.busybox(), &drv.path]);
    let outputs = line(vec![drv.out(), drv.output("lib")]);
    assert_eq!(setup.read("lines"), inputs + &outputs);
}

#[test]
fn a_feature_that_is_no_name_is_an_error() {
    let setup = hooked("while ask; do echo '# decline'; done", &[]);
    let mut client = client(&setup);
    let script = local("bad").variable("requiredSystemFeatures", "kvm b/ad");
    let drv = client.write(script);
    client.build(&[&drv]).failed(1, "");
    assert_eq!(setup.read("asked"), "");
}

#[test]
fn a_hook_that_has_nothing_to_do_any_more_is_ended() {
    let marker = format!("22222.{}", rand::random::<u32>());
    let script = format!("ask; echo '# decline'; sleep {marker} & sleep {marker}");
    let setup = hooked(&script, &[]);
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    client.build(&[&drv]).succeeded();
    assert!(eventually(|| processes_with(&marker).is_empty()));
}

#[test]
fn a_system_with_blanks_is_no_further_question() {
    if !is_ours() {
        return;
    }
    let setup = hooked("while ask; do echo '# decline'; done", &[]);
    let mut client = client(&setup);
    let system = concat!(env!("GUIX_SYSTEM"), " /gnu/store/evil.drv \n/in \n/out \n");
    let drv = client.write(local("example").system(system));
    client.build(&[&drv]).failed(100, "failed");
    assert_eq!(setup.read("asked"), "");
}

#[test]
fn what_a_long_chain_waits_for_is_asked_about_before_many_short_builds() {
    // Whoever removes the file `one' answers, and so does everybody once there is `all'.
    let script = "while ask; do
        until test -e $dir/all || rm $dir/one 2>/dev/null; do sleep 0.02; done
        echo '# decline'
    done";
    let setup = hooked(script, &["--max-jobs=4"]);
    if !is_ours() {
        return; // Guix's daemon goes by name
    }
    let mut client = client(&setup);
    let mut drvs: Vec<_> = (0..40)
        .map(|number| client.write(local(&format!("short-{number}"))))
        .collect();
    let first = client.write(local("z-first"));
    drvs.push(client.write(local("z-second").input(&first, "out")));
    let building = client.start(&drvs.iter().collect::<Vec<_>>());
    let asked = || setup.read("asked");
    // As many as are asked at a time: those whose threads came first.
    assert!(eventually(|| asked().lines().count() == 16), "{}", asked());
    let waits = format!(r#""path":"{}","why":"hook-turn""#, first.path);
    let told = || setup.client().connection.query_farm_status().unwrap().0;
    let is_asked = || asked().contains(first.path.as_str());
    assert!(eventually(
        || is_asked() || told().to_string().contains(&waits)
    ));
    if !is_asked() {
        setup.open("one");
        assert!(eventually(|| asked().lines().count() == 17), "{}", asked());
        assert!(is_asked(), "{}", asked());
    }
    setup.open("all");
    building.finish().1.succeeded();
}

#[test]
fn a_hook_that_accepts_again_leaves_no_build_waiting_for_a_slot() {
    // All machines were away for a while.
    let script = r#"
        while ask; do
            if test -e $dir/back; then
                accept
                echo $drv >>$dir/accepted
                until test -e $dir/end; do sleep 0.02; done
                make
                exit 0
            fi
            echo '# decline'
        done"#;
    let setup = hooked(script, &["--max-jobs=1"]);
    let mut client = client(&setup);
    let wait = setup.await_gate("go");
    let names = ["a", "b", "c"];
    let scripts = names.map(|name| Script::new(name, &format!("{wait}; echo locally >$out")));
    let drvs = scripts.map(|script| client.write(script));
    let building = client.start(&drvs.each_ref());
    // One has the slot; no machine takes the others.
    assert!(eventually(|| setup.read("asked").lines().count() >= 3));
    setup.open("back");
    setup.open("go");
    // Neither waits for the end of the other.
    assert!(eventually(|| setup.read("accepted").lines().count() == 2));
    setup.open("end");
    building.finish().1.succeeded();
}
