//! Builds that a hook has accepted and that succeed.

use std::collections::BTreeSet;

use super::super::kept_log;
use super::*;

#[test]
fn what_it_makes_is_registered_like_what_is_built_here() {
    let script = "ask; accept
                  for output in $outputs; do mkdir $output; echo $inputs >$output/inputs
                      chmod 777 $output/inputs; done";
    let setup = hooked(script, &[]);
    let mut client = client(&setup);
    let source = client.text("source", "source\n", &[]);
    let drv = client.write(local("example").source(&source).output("lib"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said(&format!("@ build-succeeded {} -\n", drv.path));
    for output in [drv.out(), drv.output("lib")] {
        let info = client.info(output);
        assert_eq!(info.deriver.as_ref(), Some(&drv.path));
        // The derivation's file is visible to the hook, but not to the reference scan of outputs.
        let expected = BTreeSet::from([source.clone(), client.busybox().clone()]);
        assert_eq!(info.references, expected);
        let mode = fs::metadata(output.as_path().join("inputs"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o555);
    }
    let left: Vec<_> = setup
        .store_names()
        .into_iter()
        .filter(|name| name.ends_with(".lock"))
        .collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn the_inputs_are_the_closure_of_what_is_needed_and_of_the_derivation() {
    let setup = hooked(
        "while ask; do case $drv in
                            *-top.drv) accept; echo \"$inputs\" >$dir/inputs; make; exit;;
                            *) echo '# decline';; esac; done",
        &[],
    );
    let mut client = client(&setup);
    let deep = client.text("deep", "deep\n", &[]);
    let source = client.text("source", &format!("{deep}\n"), &[&deep]);
    let unused = client.text("unused", "needed to build it, not to use it\n", &[]);
    let below = client.write(
        Script::new("below", "echo >$out; echo >$lib")
            .source(&unused)
            .output("lib"),
    );
    let top = client.write(local("top").input(&below, "lib").source(&source));
    client.build(&[&top]).succeeded();
    let inputs = setup.read("inputs");
    let found: Vec<&str> = inputs.split_whitespace().collect();
    let expected: BTreeSet<&str> = [&deep, &source, &unused, &below.path, &top.path]
        .into_iter()
        .chain([below.output("lib"), client.busybox()])
        .map(|path| path.as_str())
        .collect();
    assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
}

#[test]
fn lines_longer_than_a_pipe_holds_arrive_whole() {
    // The hook prints meanwhile, more than a pipe's capacity; Guix's daemon would not read it.
    let talk = if is_ours() { "seq 20000" } else { "echo 1" };
    let script = format!("ask; echo '# accept'; {talk}; wc -c >$dir/count; exit 1");
    let setup = hooked(&script, &[]);
    let mut client = client(&setup);
    let long = "n".repeat(200);
    let mut script = local("many");
    let mut length = 0;
    for number in 0..350 {
        let item = client.text(&format!("{long}-{number}"), &number.to_string(), &[]);
        length += item.as_str().len() + 1;
        script = script.source(&item);
    }
    let drv = client.write(script);
    client.build(&[&drv]);
    assert!(length > 70_000);
    for path in [&drv.path, client.busybox(), drv.out()] {
        length += path.as_str().len() + 1;
    }
    assert_eq!(
        setup.read("count").lines().next(),
        Some((length + 2).to_string().as_str())
    );
}

#[test]
fn descriptor_4_is_the_builds_log_and_the_rest_is_talk() {
    let script = "ask; accept; echo a line of the log >&4; echo talk; echo more talk >&2; make";
    let setup = hooked(script, &[]);
    let mut client = client(&setup);
    client.set(|options| options.set("multiplexed-build-output", "true"));
    let drv = client.write(local("example"));
    let built = client.build(&[&drv]);
    built.succeeded();
    assert_eq!(kept_log(&setup.site, &drv.path), "a line of the log\n");
    let start = format!("@ build-started {} - {} ", drv.path, env!("GUIX_SYSTEM"));
    let line = built
        .log
        .lines()
        .find(|line| line.starts_with(&start))
        .expect("build-started");
    let (log, pid) = line[start.len()..].split_once(' ').unwrap();
    assert_eq!(fs::read_to_string(log).unwrap(), "a line of the log\n");
    built.said(&format!("@ build-log {pid} 18\na line of the log\n"));
    built.said("talk\n");
    built.said("more talk\n");
}

#[test]
fn of_the_log_nothing_is_lost_at_the_end() {
    let setup = hooked(
        "ask; accept; make; seq 8000 >&4; exec 1>&- 2>&-; echo last >&4",
        &[],
    );
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    let built = client.build(&[&drv]);
    built.succeeded();
    if is_ours() {
        let log = kept_log(&setup.site, &drv.path);
        assert!(log.starts_with("1\n2\n") && log.ends_with("7999\n8000\nlast\n"));
        built.said("7999\n8000\nlast\n");
    }
}

#[test]
fn it_takes_none_of_our_slots() {
    let meet = "ask; accept; name=${drv##*-}; touch $dir/${name%.drv}
                until test -e $dir/one -a -e $dir/two; do sleep 0.02; done; make";
    let setup = hooked(meet, &["--max-jobs=1"]);
    let mut client = client(&setup);
    let drvs = ["one", "two"].map(|name| client.write(local(name)));
    client.build(&[&drvs[0], &drvs[1]]).succeeded();
    assert_eq!(setup.read("started").lines().count(), 2);
}

#[test]
fn two_clients_share_what_a_hook_builds() {
    let script = "ask; accept; echo begun; until test -e $dir/go; do sleep 0.02; done; make";
    let setup = hooked(script, &[]);
    let mut first = client(&setup);
    let drv = first.write(local("shared"));
    let second = client(&setup);
    let first = first.start(&[&drv]);
    first.wait_for("begun");
    let second = second.start(&[&drv]);
    second.wait_for(if is_ours() {
        "begun"
    } else {
        "waiting for locks or build slots..."
    });
    setup.open("go");
    first.finish().1.succeeded();
    second.finish().1.succeeded();
    assert_eq!(setup.read("asked").lines().count(), 1);
}

#[test]
fn only_missing_outputs_are_asked_for() {
    let setup = hooked("ask; accept; echo \"$outputs\" >>$dir/outputs; make", &[]);
    let mut client = client(&setup);
    let drv = client.write(local("two").output("lib"));
    client.build(&[&drv]).succeeded();
    drop(client);
    setup.lose(drv.output("lib"));
    let mut client = super::client(&setup);
    client.build(&[&drv]).succeeded();
    let last = setup.read("outputs").lines().last().unwrap().to_owned();
    assert_eq!(last, format!("{} ", drv.output("lib")));
}

#[test]
fn a_user_who_keeps_failed_builds_is_told_that_nothing_is_offloaded() {
    if !is_ours() {
        return;
    }
    let setup = hooked("ask; accept; make", &[]);
    let note = "note: nothing is offloaded: directories of failed builds are kept on this machine";
    // What Guix's client and ours make of `--keep-failed'.
    let build = |name: &str, keep_failed, use_hook| {
        let mut client = setup.client();
        client.set(|options| {
            options.keep_failed = keep_failed;
            options.use_build_hook = Some(use_hook);
            options.verbosity = 0;
        });
        let drv = client.write(local(name));
        let built = client.build(&[&drv]);
        built.succeeded();
        (built, maker(drv.out()))
    };
    // Without build machines there is nothing to tell.
    build("a", true, false).0.did_not_say(note);
    fs::write(setup.site.configuration().join("machines.scm"), "(list)").unwrap();
    let (built, by) = build("b", true, false);
    built.said(note);
    assert_eq!(by, "locally");
    build("c", false, false).0.did_not_say(note);
    let (built, by) = build("d", true, true);
    built.did_not_say(note);
    assert_eq!(by, "by the hook");
}
