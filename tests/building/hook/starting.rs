//! Which hook program is started, how, and when none is.

use super::*;

const DECLINE: &str = "while ask; do echo '# decline'; done";

#[test]
fn the_words_on_its_command_line() {
    let mut conventions = vec![("guix", "offload ")];
    if is_ours() {
        conventions.push(("hook", ""));
    }
    for (name, first) in conventions {
        let setup = {
            let site = site(name, DECLINE);
            // Before the prelude shifts the first argument away.
            let text = fs::read_to_string(site.path(name)).unwrap();
            let text = text.replace("\ntest", "\necho \"$0 $*\" >>$dir/command\ntest");
            executable(site.path(name), &text);
            Setup::at(site, &[])
        };
        let mut client = client(&setup);
        client.set(|options| {
            options.set("build-max-silent-time", "77");
            options.set("build-timeout", "88");
        });
        let drv = client.write(local("example"));
        client.build(&[&drv]).succeeded();
        let program = setup.site.path(name);
        let expected = format!(
            "{} {first}{} 77 1 88\n",
            program.display(),
            env!("GUIX_SYSTEM")
        );
        assert_eq!(setup.read("command"), expected);
    }
}

#[test]
fn it_runs_on_the_daemons_processors_whatever_the_client_wishes() {
    let script = format!("grep Cpus_allowed_list /proc/self/status >$dir/processors; {DECLINE}");
    let setup = hooked(&script, &[]);
    let Some(mut client) = setup.client_of_another_processor() else {
        return;
    };
    client.set(|options| options.use_build_hook = Some(true));
    let drv = client.write(local("example"));
    client.build(&[&drv]).succeeded();
    assert_eq!(setup.read("processors"), "Cpus_allowed_list:\t0\n");
}

#[test]
fn its_descriptors_directory_session_and_environment() {
    let script = "pwd >$dir/pwd; cut -d ' ' -f 1,5,6 /proc/$$/stat >$dir/session
                  for fd in /proc/$$/fd/*; do printf '%s ' ${fd##*/}; readlink $fd || echo closed; done >$dir/fds
                  grep SigIgn /proc/self/status >$dir/signals
                  env >$dir/environment
                  while ask; do echo '# decline'; done";
    let setup = Setup::at(site("hook", script).env("OF_THE_DAEMON", "inherited"), &[]);
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    client.build(&[&drv]).succeeded();
    assert_eq!(setup.read("pwd"), "/\n");
    let session = setup.read("session");
    let mut ids = session.split_whitespace();
    let pid = ids.next().unwrap();
    assert_eq!(ids.collect::<Vec<_>>(), [pid, pid]);
    assert!(
        setup
            .read("environment")
            .contains("OF_THE_DAEMON=inherited\n")
    );

    let fds = setup.read("fds");
    let target = |fd: &str| {
        let line = fds.lines().find(|line| line.split(' ').next() == Some(fd));
        line.unwrap_or_else(|| panic!("{fd}: {fds}"))
            .split_once(' ')
            .unwrap()
            .1
            .to_owned()
    };
    for fd in ["0", "2", "4"] {
        assert!(target(fd).starts_with("pipe:"), "{fds}");
    }
    assert_ne!(target("0"), target("2"));
    assert_ne!(target("2"), target("4"));
    // The rows of the history, of which Guix's daemon knows nothing.
    let inherited: &[&str] = match is_ours() {
        true => &["0", "1", "2", "4", "5"],
        false => &["0", "1", "2", "4"],
    };
    if is_ours() {
        assert!(target("5").starts_with("pipe:"), "{fds}");
        assert!(setup.read("environment").contains("GUIX_OFFLOAD_ROWS=5\n"));
    }
    // The shell's own copies are above 9; its output is redirected while it lists these, and the
    // directory that it reads for that is already closed.
    let others: Vec<_> = fds
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(fd, target)| *target != "closed" && fd.len() == 1 && !inherited.contains(fd))
        .collect();
    assert_eq!(others, [], "{fds}");
    // A daemon's ignored signals must not be inherited: a hook has to die of a broken pipe.
    let ignored = setup.read("signals");
    let ignored = u64::from_str_radix(ignored.split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert_eq!(ignored & (1 << (13 - 1)), 0, "{ignored:x}");
}

#[test]
fn no_hook_is_started_if_the_administrator_says_so_whatever_the_client_wants() {
    if !is_ours() {
        return; // every client's options turn hooks on again
    }
    for option in ["--no-offload", "--no-build-hook"] {
        let setup = hooked(DECLINE, &[option]);
        let mut client = client(&setup);
        let drv = client.write(local("example"));
        client.build(&[&drv]).succeeded();
        assert_eq!(setup.read("started"), "");
    }
}

#[test]
fn no_hook_is_started_for_a_client_who_wants_none() {
    let setup = hooked(DECLINE, &[]);
    let mut client = client(&setup);
    client.set(|options| options.use_build_hook = Some(false));
    let drv = client.write(local("example"));
    client.build(&[&drv]).succeeded();
    assert_eq!(setup.read("started"), "");
    // It may change its options.
    client.set(|options| options.use_build_hook = Some(true));
    let drv = client.write(local("another"));
    client.build(&[&drv]).succeeded();
    assert_eq!(setup.read("asked").lines().count(), 1);
}

#[test]
fn no_hook_is_asked_about_what_is_to_be_built_here() {
    let setup = hooked(DECLINE, &[]);
    let mut client = client(&setup);
    let drv = client.write(local("here").variable("preferLocalBuild", "1"));
    client.build(&[&drv]).succeeded();
    let mode = protocol::operations::BuildMode::Check;
    client.build_in_mode(&[&drv], mode).succeeded();
    assert_eq!(setup.read("started"), "");
    // Even a client's request doesn't make this machine another system.
    let foreign = local("there")
        .variable("preferLocalBuild", "1")
        .system("riscv64-linux");
    let foreign = client.write(foreign);
    client.build(&[&foreign]);
    assert_eq!(setup.read("asked").lines().count(), 1);
}

#[test]
fn a_hook_that_cannot_be_used_is_reported_once_and_builds_go_on() {
    if !is_ours() {
        return; // it fails the request
    }
    for (kind, reason) in [
        ("nothing", "No such file or directory"),
        ("file", "Permission denied"),
        ("directory", "Is a directory"),
    ] {
        let site = Site::new();
        match kind {
            "file" => fs::write(site.path("hook"), "#!/bin/sh\n").unwrap(),
            "directory" => fs::create_dir(site.path("hook")).unwrap(),
            _ => {}
        }
        let hook = site.path("hook");
        let setup = Setup::at(site.env("NIX_BUILD_HOOK", &hook), &[]);
        for name in ["one", "two"] {
            let mut client = client(&setup);
            let drv = client.write(local(name));
            client.build(&[&drv]).succeeded();
            assert_eq!(maker(drv.out()), "locally");
        }
        let messages = setup.daemon.messages();
        let text = format!("cannot use build hook `{}': {reason}", hook.display());
        assert_eq!(messages.matches(&text).count(), 1, "{messages}");
    }
}

#[test]
fn a_hook_that_is_installed_later_is_found() {
    if !is_ours() {
        return;
    }
    let site = Site::new();
    let hook = site.path("hook");
    let dir = site.path("gate");
    let setup = Setup::at(site.env("NIX_BUILD_HOOK", &hook), &[]);
    let mut client = client(&setup);
    let drv = client.write(local("before"));
    client.build(&[&drv]).succeeded();
    let text = format!("#!/bin/sh\ndir={}\n{PRELUDE}\n{DECLINE}\n", dir.display());
    executable(hook, &text);
    let drv = client.write(local("after"));
    client.build(&[&drv]).succeeded();
    assert_eq!(setup.read("asked").lines().count(), 1);
}

#[test]
fn a_hook_that_cannot_be_executed_is_reported_and_builds_go_on() {
    if !is_ours() {
        return;
    }
    let site = Site::new();
    let hook = executable(site.path("hook"), "#!/nonexistent/interpreter\n");
    let setup = Setup::at(site.env("NIX_BUILD_HOOK", &hook), &[]);
    let mut client = client(&setup);
    let one = client.write(local("one"));
    let two = client.write(local("two"));
    let built = client.build(&[&one, &two]);
    built.succeeded();
    let text = format!("cannot start build hook `{}': ", hook.display());
    assert_eq!(built.log.matches(&text).count(), 1, "{built:?}");
}

#[test]
fn an_empty_name_means_no_hook() {
    if !is_ours() {
        return;
    }
    let setup = Setup::at(Site::new().env("NIX_BUILD_HOOK", ""), &[]);
    let mut client = client(&setup);
    let drv = client.write(local("example"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.did_not_say("hook");
    assert!(!setup.daemon.messages().contains("hook"));
}
