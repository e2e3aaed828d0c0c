//! `guix-offload worker`: what it serves, and what it refuses.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use gcrypt::keys::DEFAULT_PARAMETERS;
use gcrypt::{Acl, KeyPair, PublicKey};
use hook::frames::{Class, Compression, Kind, StoreIdentity, VERSION};

use crate::farm::SYSTEM;
use crate::harness::derivations::{Client, Script, processes_with};
use crate::harness::{Site, eventually, is_ours};
use crate::worker_job::{Job, NoJob, Node, STORE, executable, wishes};

/// A build that tells as whom it runs, in which sandbox.
const PROBE: &str =
    "{ id -u; echo $$; test -e /guix-worker || echo hidden; ls $NIX_STORE | wc -l; } >$out";

/// Builds something, and returns what the builder has seen.
fn build(client: &mut Client, name: &str) -> String {
    let drv = client.write(Script::new(name, PROBE));
    client.build(&[&drv]).succeeded();
    let mut nar = Vec::new();
    client
        .connection
        .export_path(drv.out(), true, &mut nar)
        .unwrap();
    String::from_utf8_lossy(&nar).into_owned()
}

fn serves(node: &Node) {
    let job = Job::start(node, &[]);
    let hello = &job.hello;
    assert_eq!(
        (hello.version, hello.store.as_str(), hello.system.as_str()),
        (VERSION, STORE, SYSTEM)
    );
    assert!(hello.cores > 0 && hello.memory > 0 && hello.status.free.is_some());
    let key = PublicKey::parse(hello.key.as_ref().unwrap()).unwrap();
    let mut client = job.client();
    let exported = build(&mut client, "probe");
    // The builder is nobody, in a chroot, and the export is signed by the worker's key.
    assert!(exported.contains("30001\n1\nhidden\n"), "{exported}");
    let key = String::from_utf8(key.as_sexp().to_advanced()).unwrap();
    let q = key.split('#').nth(1).unwrap();
    assert!(exported.contains(q), "{exported}");
    // Its directory isn't anybody else's.
    let left = node.left();
    assert_eq!(left.len(), 1);
    assert_eq!(fs::metadata(&left[0]).unwrap().uid(), node.uid());
    assert!(
        !std::path::Path::new(STORE).exists(),
        "nothing is seen outside"
    );
    drop(client);
    job.end();
    node.has_nothing_left();
}

#[test]
fn an_ordinary_user_builds_in_a_store_of_its_own() {
    if is_ours() {
        serves(&Node::new());
    }
}

#[test]
fn root_builds_there_as_somebody_who_is_nobody_else() {
    if !is_ours() {
        return;
    }
    let node = Node::of_this_user();
    serves(&node);
    if node.uid() != 0 {
        return;
    }
    let job = Job::start(&node, &[]);
    let store = node.left()[0].join("files/store");
    let owner = fs::metadata(&store).unwrap().uid();
    assert!(owner >= 0x7100_0000, "{owner}");
    job.end();
    node.has_nothing_left();
}

#[test]
fn what_a_head_signs_is_imported_and_what_others_sign_is_not() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let pair = KeyPair::generate(DEFAULT_PARAMETERS).unwrap();
    let public = |pair: &KeyPair| String::from_utf8(pair.public().as_sexp().to_advanced()).unwrap();
    let other = Job::start(&node, &[]);
    let mut source = other.client();
    let drv = source.write(Script::new("sent", "echo contents >$out"));
    source.build(&[&drv]).succeeded();
    let mut archive = Vec::new();
    source
        .connection
        .export_paths([drv.out()], true, &mut archive)
        .unwrap();
    let mut trusting = wishes();
    trusting.key = other.hello.key.clone();
    let job = Job::run(&node, node.command(&[]), &trusting);
    let mut client = job.client();
    let imported = client.connection.import_paths(&mut &archive[..]).unwrap();
    assert_eq!(imported, [drv.out().clone()]);
    let mut wary = wishes();
    wary.key = Some(public(&pair));
    let job = Job::run(&node, node.command(&[]), &wary);
    let mut client = job.client();
    let refused = client
        .connection
        .import_paths(&mut &archive[..])
        .unwrap_err();
    assert!(refused.to_string().contains("unauthorized"), "{refused}");
}

#[test]
fn a_pool_can_have_a_key_pair() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let keys = node.site.path("keys");
    KeyPair::generate(DEFAULT_PARAMETERS)
        .unwrap()
        .save(&keys)
        .unwrap();
    let prefix = keys.join("signing-key");
    for file in ["signing-key.sec", "signing-key.pub"] {
        chown(keys.join(file), Some(node.uid()), None).unwrap();
    }
    let option = format!("--key={}", prefix.display());
    let job = Job::start(&node, &[&option]);
    assert_eq!(job.hello.key, None);
    let exported = build(&mut job.client(), "signed");
    let key = fs::read_to_string(keys.join("signing-key.pub")).unwrap();
    assert!(
        exported.contains(key.split('#').nth(1).unwrap()),
        "{exported}"
    );
    job.end();

    let secret = keys.join("signing-key.sec");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o444)).unwrap();
    let (why, _) = Job::fails(&node, node.command(&[&option]), &wishes());
    let refused = matches!(&why, NoJob::Failure(failure)
        if failure.class == Class::Key && failure.text.contains("can be read by others"));
    assert!(refused, "{why:?}");
    node.has_nothing_left();
    assert!(Acl::load(&keys).unwrap().len() < 2);
}

#[test]
fn jobs_on_a_node_and_connections_of_a_job_do_not_disturb_one_another() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let jobs: Vec<Job> = (0..2).map(|_| Job::start(&node, &[])).collect();
    assert_eq!(node.left().len(), 2);
    for job in &jobs {
        let (mut first, mut second) = (job.client(), job.client());
        build(&mut first, "first");
        build(&mut second, "second");
    }
    let mut jobs = jobs.into_iter();
    jobs.next().unwrap().end();
    let job = jobs.next().unwrap();
    // The store is kept from one connection to the next.
    let mut client = job.client();
    let drv = client.write(Script::new("first", PROBE));
    assert!(client.is_valid(drv.out()));
    job.end();
    node.has_nothing_left();
}

#[test]
fn a_client_that_hangs_up_ends_its_build_and_not_the_worker() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let job = Job::start(&node, &[]);
    let mut client = job.client();
    let marker = format!("44444.{}", rand::random::<u32>());
    let drv = client.write(Script::new("long", &format!("echo begun; sleep {marker}")));
    let building = client.start(&[&drv]);
    building.wait_for("begun");
    building.hang_up();
    assert!(eventually(|| processes_with(&marker).is_empty()));
    build(&mut job.client(), "next");
    job.end();
    node.has_nothing_left();
}

#[test]
fn large_items_pass_with_and_without_compression() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    for compression in [Compression::Zstd, Compression::None] {
        let mut hello = wishes();
        hello.compression = compression;
        let job = Job::run(&node, node.command(&[]), &hello);
        let mut client = job.client();
        let text: String = (0..400_000u32)
            .map(|line| format!("{line} lines\n"))
            .collect();
        let item = client.text("large", &text, &[]);
        let mut nar = Vec::new();
        client
            .connection
            .export_path(&item, true, &mut nar)
            .unwrap();
        let found = nar
            .windows(text.len())
            .step_by(8)
            .any(|part| part == text.as_bytes());
        assert!(found, "{} bytes", nar.len());
        job.end();
    }
}

#[test]
fn launchers_print_what_they_like_before_the_greeting() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let script = "echo Welcome to node 7; printf 'loading modules: '; exec \"$@\"";
    let job = Job::run(&node, node.script(script), &wishes());
    assert_eq!(job.before, "Welcome to node 7\nloading modules:");
    build(&mut job.client(), "greeted");
    job.end();
    // A launcher that stays in between, and passes small pieces on.
    let script = "dd bs=7 2>/dev/null | \"$@\" | dd bs=13 2>/dev/null";
    let job = Job::run(&node, node.script(script), &wishes());
    build(&mut job.client(), "in-pieces");
    drop(job);
    node.has_nothing_left();
}

#[test]
fn what_launchers_break_is_noticed() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let fails = |script: &str| Job::fails(&node, node.script(script), &wishes());
    let text = |(why, _): (NoJob, String)| match why {
        NoJob::Stream(Some(error)) => error.to_string(),
        other => format!("{other:?}"),
    };
    let said = text(fails("echo srun: error: invalid partition; exit 1"));
    assert!(
        said.contains("ended before its greeting: srun: error: invalid partition"),
        "{said}"
    );
    let said = text(fails(
        "printf '\\nguix-offload worker 9\\n'; cat >/dev/null",
    ));
    assert!(
        said.contains("version 9") && said.contains("version 2"),
        "{said}"
    );
    // Half a frame.
    let said = text(fails(
        "printf '\\nguix-offload worker 2\\n\\001\\000\\000'; exit 0",
    ));
    assert!(said.contains("in the middle of a frame"), "{said}");
    // A head of another version.
    let mut later = wishes();
    later.version = 3;
    let (why, said) = Job::fails(&node, node.command(&[]), &later);
    let NoJob::Failure(failure) = why else {
        panic!("{why:?}");
    };
    assert_eq!(failure.class, Class::Version);
    assert!(
        failure.text.contains("version 3") && failure.text.contains("version 2"),
        "{failure}"
    );
    assert!(said.contains("version 3"), "{said}");
    node.has_nothing_left();
}

#[test]
fn a_node_that_lacks_something_says_what() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    let failure = |command| match Job::fails(&node, command, &wishes()) {
        (NoJob::Failure(failure), _) => failure,
        other => panic!("{other:?}"),
    };
    let none = failure(node.command(&["--daemon=/nonexistent/guix-daemon"]));
    assert_eq!(none.class, Class::Daemon);
    assert!(none.text.contains("/nonexistent/guix-daemon"), "{none}");
    // Without a daemon beside it.
    let alone = node.site.path("alone");
    fs::create_dir(&alone).unwrap();
    crate::harness::copy_program(node.worker(), &alone.join("guix-offload"));
    let mut command = node.as_user(alone.join("guix-offload"));
    command.args([
        "worker".to_owned(),
        format!("--directory={}", node.scratch().display()),
    ]);
    let none = failure(command);
    assert!(
        none.class == Class::Daemon && none.text.contains("--daemon=FILE"),
        "{none}"
    );
    // A daemon that ends.
    let daemon = node.site.path("programs/false");
    crate::harness::copy_program("/bin/false".as_ref(), &daemon);
    let ended = failure(node.command(&[&format!("--daemon={}", daemon.display())]));
    assert!(
        ended.class == Class::Daemon && ended.text.contains("exit code 1"),
        "{ended}"
    );
    let missing = failure(node.as_user_with(&["--directory=/nonexistent"]));
    assert_eq!(missing.class, Class::Other);
    // Programs can't be run in its directory.
    let script = format!(
        "exec unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o noexec none {} && exec \
         \"$@\"' sh \"$@\"",
        node.scratch().display()
    );
    let noexec = failure(node.script(&script));
    assert!(
        noexec.class == Class::Other && noexec.text.contains("is mounted with `noexec'"),
        "{noexec}"
    );
    // User namespaces are forbidden: here, by a limit that the namespace around has.
    let script = "exec unshare --user --map-root-user sh -c 'echo 0 \
                  >/proc/sys/user/max_user_namespaces && exec \"$@\"' sh \"$@\"";
    let forbidden = failure(node.script(script));
    assert_eq!(forbidden.class, Class::Namespaces);
    assert!(
        forbidden.text.contains("max_user_namespaces is 0"),
        "{forbidden}"
    );
    node.has_nothing_left();
}

#[test]
fn a_full_disk_is_named() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    // Too small for directories, for keys, and for a database.
    for size in ["4k", "20k", "120k", "300k"] {
        let script = format!(
            "exec unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o size={size} full {} && \
             exec \"$@\"' sh \"$@\"",
            node.scratch().display()
        );
        match Job::fails(&node, node.script(&script), &wishes()) {
            (NoJob::Failure(failure), _) => assert_eq!(failure.class, Class::Disk, "{failure}"),
            other => panic!("{other:?}"),
        }
    }
    node.has_nothing_left();
}

#[test]
fn a_daemon_that_runs_there_is_used_and_not_the_heads_own() {
    let node = Node::of_this_user();
    let site = Site::new();
    let daemon = site.start(&["--no-substitutes"]);
    let mut hello = wishes();
    hello.store = site.store().to_str().unwrap().to_owned();
    let option = format!("--socket={}", site.socket().display());
    let job = Job::run(&node, node.command(&[&option]), &hello);
    assert_eq!(job.hello.key, None);
    let mut client = job.client();
    let drv = client.write(Script::new("there", "echo >$out"));
    client.build(&[&drv]).succeeded();
    assert!(drv.out().as_path().exists());
    job.end();
    hello.store_identity = Some(StoreIdentity::of(&site.store()).unwrap());
    let (why, _) = Job::fails(&node, node.command(&[&option]), &hello);
    let refused = matches!(&why, NoJob::Failure(failure) if failure.class == Class::SameStore);
    assert!(refused, "{why:?}");
    drop(daemon);
    let (why, _) = Job::fails(&node, node.command(&[&option]), &wishes());
    let refused = matches!(&why, NoJob::Failure(failure) if failure.class == Class::Daemon);
    assert!(refused, "{why:?}");
}

#[test]
fn a_store_directory_that_exists_is_covered() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    // As on a node that mounts the head's store.
    let store = node.site.path("heads/store");
    fs::create_dir_all(store.join("item")).unwrap();
    for missing in [false, true] {
        let mut hello = wishes();
        let wanted = if missing {
            store.join("below/it")
        } else {
            store.clone()
        };
        hello.store = wanted.to_str().unwrap().to_owned();
        let job = Job::run(&node, node.command(&[]), &hello);
        let exported = build(&mut job.client(), "covered");
        assert!(exported.contains("30001\n1\nhidden\n"), "{exported}");
        job.end();
        assert_eq!(fs::read_dir(&store).unwrap().count(), 1);
    }
    node.has_nothing_left();
}

#[test]
fn daemons_are_executed_wherever_they_are() {
    if !is_ours() {
        return;
    }
    let node = Node::new();
    // The keeper's words are no file names of the worker.
    let mut hello = wishes();
    for bad in ["relative", "/", "/guix-worker/store", "/a/../b"] {
        hello.store = bad.to_owned();
        let (why, _) = Job::fails(&node, node.command(&[]), &hello);
        assert!(matches!(why, NoJob::Failure(_)), "{bad}: {why:?}");
    }
    let script = node.site.path("launch");
    executable(&script, "#!/bin/sh\nexec \"$@\"\n");
    let mut command = node.as_user(&script);
    command.arg(node.worker()).arg("worker");
    command.arg(format!("--directory={}", node.scratch().display()));
    let job = Job::run(&node, command, &wishes());
    assert!(job.link.send(Kind::Ping, 0, b"").is_ok());
    job.end();
    node.has_nothing_left();
}
