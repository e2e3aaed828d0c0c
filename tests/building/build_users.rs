//! All build users in use: builds wait for one, and the client with the fewest comes first.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};

use super::*;

/// The message to a client that has to wait.
const WAITING: &str = "waiting for a build user: all are in use...\n";

#[test]
fn builds_wait_for_build_users() {
    let setup = Setup::new(&["--max-jobs=8"]);
    let Some(users) = setup.users.as_ref().filter(|_| is_ours()) else {
        return;
    };
    let mut client = setup.client();
    let drvs: Vec<_> = (0..3 * users.uids.len())
        .map(|number| {
            client.write(Script::new(
                &format!("job-{number}"),
                "sleep 0.1; echo >$out",
            ))
        })
        .collect();
    let built = client.build(&drvs.iter().collect::<Vec<_>>());
    built.succeeded();
    // It is sent once.
    assert_eq!(built.log.matches(WAITING).count(), 1, "{}", built.log);
}

#[test]
fn clients_that_wait_for_build_users_are_served_in_turn() {
    let setup = Setup::new(&["--max-jobs=8"]);
    let Some(users) = setup.users.as_ref().filter(|_| is_ours()) else {
        return;
    };
    let mut greedy = setup.client();
    let gate = setup.gate();
    let gate = gate.display();
    let drvs: Vec<_> = (0..users.uids.len())
        .map(|number| {
            let wait = setup.await_gate(&format!("end-{number}"));
            let script = format!("touch {gate}/begun-{number}; {wait}; echo >$out");
            greedy.write(Script::new(&format!("first-{number}"), &script))
        })
        .collect();
    let greedy = greedy.start(&drvs.iter().collect::<Vec<_>>());
    let begun = || {
        let names = names(&setup.gate());
        names
            .iter()
            .filter(|name| name.starts_with("begun"))
            .count()
    };
    assert!(eventually(|| begun() == users.uids.len()));
    let waiting: Vec<_> = (0..4)
        .map(|number| {
            let mut client = setup.client();
            let script = format!("echo {number} >>{gate}/order; sleep 0.1; echo >$out");
            let drv = client.write(Script::new(&format!("second-{number}"), &script));
            let building = client.start(&[&drv]);
            building.wait_for(WAITING);
            building
        })
        .collect();
    assert_eq!(setup.read("order"), "");
    // One build user is free, for one build after another.
    setup.open("end-0");
    for building in waiting {
        building.finish().1.succeeded();
    }
    assert_eq!(setup.read("order"), "0\n1\n2\n3\n");
    for number in 1..users.uids.len() {
        setup.open(&format!("end-{number}"));
    }
    greedy.finish().1.succeeded();
}

#[test]
fn who_wants_one_build_user_does_not_wait_for_all_builds_of_others() {
    let setup = Setup::new(&[]);
    let Some(users) = setup.users.as_ref().filter(|_| is_ours()) else {
        return;
    };
    setup.open("order");
    let order = setup.gate().join("order");
    fs::set_permissions(&order, fs::Permissions::from_mode(0o666)).unwrap();
    let mut greedy = setup.client();
    greedy.set(|options| options.set("build-max-jobs", "100"));
    let begin = |name: &str| format!("echo {name} >>{}", order.display());
    let names: Vec<String> = (0..4 * users.uids.len())
        .map(|number| format!("greedy-{number}"))
        .collect();
    let drvs: Vec<_> = names
        .iter()
        .map(|name| {
            let script = format!("{}; {}; echo >$out", begin(name), setup.await_gate(name));
            greedy.write(Script::new(name, &script))
        })
        .collect();
    let modest = greedy.write(Script::new(
        "modest",
        &format!("{}; echo >$out", begin("modest")),
    ));
    let greedy = greedy.start(&drvs.iter().collect::<Vec<_>>());
    let begun = || setup.read("order").lines().count();
    assert!(eventually(|| begun() == users.uids.len()));
    greedy.wait_for(WAITING);
    let program = setup.site.for_everybody(env!("CARGO_BIN_EXE_guix-client"));
    let errors = setup.site.path("modest");
    let mut command = setup.site.command(program);
    command.args(["build", "--no-offload", modest.path.as_str()]);
    command.stderr(fs::File::create(&errors).unwrap());
    let mut modest = command.uid(4243).gid(4243).spawn().unwrap();
    let waits = || fs::read_to_string(&errors).is_ok_and(|text| text.contains(WAITING.trim_end()));
    assert!(eventually(waits));
    // One build user becomes free.
    let order = || setup.read("order");
    let first = order().lines().next().unwrap().to_owned();
    setup.open(&first);
    assert!(modest.wait().unwrap().success(), "{}", order());
    assert_eq!(order().lines().nth(users.uids.len()), Some("modest"));
    for name in names.iter().filter(|name| **name != first) {
        setup.open(name);
    }
    greedy.finish().1.succeeded();
}

#[test]
fn build_users_of_another_daemon_are_waited_for() {
    let setup = Setup::new(&["--max-jobs=8"]);
    let Some(users) = setup.users.as_ref().filter(|_| is_ours()) else {
        return;
    };
    let pool = setup.site.state().join("userpool");
    fs::create_dir_all(&pool).unwrap();
    let held: Vec<fs::File> = users
        .uids
        .iter()
        .map(|uid| {
            let file = fs::File::create(pool.join(uid.to_string())).unwrap();
            fcntl(&file, FcntlArg::F_SETLK(&whole_file())).unwrap();
            file
        })
        .collect();
    let mut client = setup.client();
    let drv = client.write(Script::new("patient", "echo >$out"));
    let building = client.start(&[&drv]);
    building.wait_for(WAITING);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!building.is_finished());
    drop(held);
    building.finish().1.succeeded();
}

/// A lock for writing on a whole file.
fn whole_file() -> nix::libc::flock {
    nix::libc::flock {
        l_type: nix::libc::F_WRLCK as nix::libc::c_short,
        l_whence: nix::libc::SEEK_SET as nix::libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[test]
fn clients_that_leave_leave_the_queue() {
    let setup = Setup::new(&["--max-jobs=8"]);
    let Some(users) = setup.users.as_ref().filter(|_| is_ours()) else {
        return;
    };
    let mut greedy = setup.client();
    let wait = setup.await_gate("end");
    let drvs: Vec<_> = (0..users.uids.len())
        .map(|number| {
            let script = format!("{wait}; echo >$out");
            greedy.write(Script::new(&format!("first-{number}"), &script))
        })
        .collect();
    let greedy = greedy.start(&drvs.iter().collect::<Vec<_>>());
    assert!(eventually(
        || names(&setup.site.path("tmp")).len() == users.uids.len()
    ));
    let mut leaving = setup.client();
    let drv = leaving.write(Script::new("never", "echo >$out"));
    let building = leaving.start(&[&drv]);
    building.wait_for(WAITING);
    building.hang_up();
    let mut next = setup.client();
    let drv = next.write(Script::new("next", "echo >$out"));
    let building = next.start(&[&drv]);
    building.wait_for(WAITING);
    setup.open("end");
    building.finish().1.succeeded();
    greedy.finish().1.succeeded();
}
