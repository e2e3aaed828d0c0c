//! Guix's own program under our daemon (`--fetcher=guix`): whatever it does, it writes to nothing but
//! its cache and its destination, and what it leaves there becomes an item only if it is right.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use formats::{Hash, StoreDir, StorePath};

use crate::fixture::{Client, write_script};
use crate::harness::derivations::processes_with;
use crate::harness::substitutes::{Item, Tree};
use crate::harness::users::BuildUsers;
use crate::harness::{Daemon, Site, eventually, program};
use protocol::client::{Connection, Options};
use protocol::operations::GcAction;

/// A daemon whose `guix` behaves as it is told.
struct Setup {
    daemon: Daemon,
    site: Site,
    _users: Option<BuildUsers>,
}

/// Where the daemon runs.
#[derive(Clone, Copy, PartialEq)]
enum As {
    /// As the test's user.
    We,
    /// As an ordinary user.
    Somebody,
    /// Where there are no namespaces of mounts.
    Contained,
}

impl Setup {
    fn new(runs: As) -> Setup {
        Setup::with(runs, &[])
    }

    fn with(runs: As, options: &[&str]) -> Setup {
        let site = Site::new();
        let guix = site.path("guix");
        let site = site.env("GUIX", &guix);
        let mark = format!("child-of-{}", site.path("").display());
        let script = include_str!("guixs_program.sh")
            .replace(
                "@SITE@",
                site.path("").to_str().unwrap().trim_end_matches('/'),
            )
            .replace("@STORE@", site.store().to_str().unwrap())
            .replace("@SOCKET@", site.socket().to_str().unwrap())
            .replace("@CLIENT@", env!("CARGO_BIN_EXE_guix-client"))
            .replace("@MARK@", &mark);
        write_script(&guix, &script);
        fs::create_dir(site.path("items")).unwrap();
        fs::create_dir(site.store()).unwrap();
        fs::write(site.configuration().join("acl"), "(acl)").unwrap();
        fs::write(site.configuration().join("signing-key.sec"), "secret").unwrap();
        let users = match runs {
            As::Somebody => BuildUsers::claim(),
            _ => None,
        };
        let ours = program();
        let mut command = match runs {
            As::Contained => {
                let mut command = site.command("unshare");
                let script = "echo 0 >/proc/sys/user/max_mnt_namespaces && exec \"$@\"";
                command.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]);
                command.arg(ours);
                command
            }
            As::Somebody => site.command(site.for_everybody(ours)),
            As::We => site.command(ours),
        };
        command
            .args(["--fetcher=guix", "--substitute-urls=http://evil.example"])
            .args(options);
        if let Some(users) = &users {
            let owner = (Some(users.uids[0]), Some(users.gid));
            for file in [
                "state",
                "log",
                "etc",
                "etc/acl",
                "etc/signing-key.sec",
                "store",
            ] {
                chown(site.path(file), owner.0, owner.1).unwrap();
            }
            command.uid(users.uids[0]).gid(users.gid);
        }
        let daemon = site.launch_command(command);
        daemon.wait_to_serve();
        fs::write(site.path("daemon"), daemon.pid().to_string()).unwrap();
        let setup = Setup {
            daemon,
            site,
            _users: users,
        };
        setup.set("honest");
        setup
    }

    /// Has the program behave in this way from now on.
    fn set(&self, mode: &str) {
        fs::write(self.site.path("mode"), mode).unwrap();
    }

    fn store(&self) -> StoreDir {
        StoreDir::new(self.site.store().to_str().unwrap()).unwrap()
    }

    /// Offers a file with this text.
    fn offer(&self, name: &str, text: &str, references: &[&StorePath]) -> StorePath {
        let item = Item::new(name, Tree::file(text));
        let path = item.path(&self.store());
        let file = self.site.path("items").join(path.base_name());
        let write = |end: &str, text: String| fs::write(format!("{}{end}", file.display()), text);
        let (hash, size) = (Hash::sha256(item.nar()), item.nar().len());
        write("", text.to_owned()).unwrap();
        write(".is", format!("sha256:{} {size}", hash.hex())).unwrap();
        let references = references.iter().map(|path| format!("{path}\n"));
        write(".references", references.collect()).unwrap();
        path
    }

    fn client(&self) -> Client {
        let stream = self.daemon.connect();
        let connection = Connection::over_unix(stream, &self.store(), &Options::default());
        let mut client = Client(connection.unwrap());
        client.set(|_| ());
        client
    }

    /// What is in the store, besides links and locks.
    fn items(&self) -> Vec<String> {
        let names = fs::read_dir(self.site.store()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut items: Vec<String> = names
            .filter(|name| name != ".links" && !name.ends_with(".lock"))
            .collect();
        items.sort();
        items
    }

    /// Nothing is in the store but these items, and they are valid and whole.
    #[track_caller]
    fn assert_holds(&self, items: &[&StorePath]) {
        let mut expected: Vec<_> = items.iter().map(|path| path.base_name()).collect();
        expected.sort();
        assert_eq!(self.items(), expected);
        let mut client = self.client();
        for path in items {
            assert!(client.0.is_valid_path(path).unwrap(), "{path}");
        }
        assert!(!client.0.verify_store(true, false).unwrap());
    }
}

/// What an evil program could do that it must not.
fn deeds(log: &str) -> Vec<&str> {
    let lines = log.lines().filter(|line| {
        ["could ", "has capabilities", "may gain"]
            .iter()
            .any(|start| line.starts_with(start))
    });
    lines.collect()
}

#[test]
fn it_can_write_to_its_cache_and_its_destination_only() {
    for runs in [As::We, As::Somebody] {
        let setup = Setup::new(runs);
        let victim = setup.offer("victim-item", "somebody's item", &[]);
        let wanted = setup.offer("wanted", "the item", &[]);
        setup.client().ensure(&victim).succeeded();
        let acl = fs::read(setup.site.configuration().join("acl")).unwrap();
        setup.set("evil");
        let done = setup.client().ensure(&wanted);
        done.succeeded();
        assert_eq!(deeds(&done.log), [""; 0], "{done:#?}");
        done.said("\nevil has ended\n");
        done.said("\ncan write to its cache\n");
        let cache = setup.site.state().join("substitute/cache/mine");
        assert_eq!(fs::read_to_string(cache).unwrap(), "the cache\n");
        assert_eq!(
            fs::read(setup.site.configuration().join("acl")).unwrap(),
            acl
        );
        setup.assert_holds(&[&victim, &wanted]);
        // Clients see the item's name, not where it was put first.
        done.said(&format!(
            "\n@ download-started {wanted} http://evil.example/x 1\n"
        ));
        assert!(!setup.daemon.messages().contains("not confined"));
    }
}

#[test]
fn without_namespaces_it_is_kept_from_writing_all_the_same() {
    let setup = Setup::new(As::Contained);
    let victim = setup.offer("victim-item", "somebody's item", &[]);
    let wanted = setup.offer("wanted", "the item", &[]);
    setup.client().ensure(&victim).succeeded();
    setup.set("evil");
    let done = setup.client().ensure(&wanted);
    done.succeeded();
    let said = setup.daemon.messages();
    assert_eq!(
        said.matches("not confined as it should be").count(),
        1,
        "{said}"
    );
    if said.contains("Landlock keeps it from writing elsewhere") {
        // It has no say in these.
        let others = ["could open ", "could change the time of ", "could read "];
        let deeds: Vec<_> = deeds(&done.log)
            .into_iter()
            .filter(|deed| !others.iter().any(|other| deed.starts_with(other)))
            .collect();
        assert_eq!(deeds, [""; 0], "{done:#?}");
    } else {
        assert!(said.contains("no Landlock"), "{said}");
    }
}

#[test]
fn what_refers_to_more_than_was_announced_is_refused() {
    let setup = Setup::new(As::We);
    let one = setup.offer("one", "1", &[]);
    let two = setup.offer("two", "2", &[]);
    setup.client().build(&[&one, &two]).succeeded();
    let text = format!("see {one} and -{}-", two.hash_part());
    let user = setup.offer("user", &text, &[&one]);
    let done = setup.client().ensure(&user);
    done.failed();
    let reason = format!("`{user}' refers to `{two}', which its substitute does not announce");
    done.said(&reason);
    done.said(&format!("@ substituter-failed {user} success {reason}\n"));
    setup.assert_holds(&[&one, &two]);
    // Itself, and what isn't valid, doesn't count; nor what is announced and not mentioned.
    let own = setup.offer(
        "own",
        &format!("{}/{}-x", setup.store(), "0".repeat(32)),
        &[&one],
    );
    setup.client().ensure(&own).succeeded();
    setup.offer("user", &text, &[&one, &two]);
    setup.set("fewer");
    setup.client().ensure(&user).failed();
    setup.set("honest");
    setup.client().ensure(&user).succeeded();
    setup.assert_holds(&[&one, &two, &own, &user]);
}

#[test]
fn what_is_not_as_it_says_leaves_nothing() {
    let setup = Setup::new(As::We);
    let wanted = setup.offer("wanted", "the item", &[]);
    for (mode, reason) in [
        ("size", "bytes instead of "),
        ("announced", "bytes instead of "),
        ("hash", "hash mismatch for substituted item "),
        ("nothing", "substitute did not produce path "),
        ("through", ""),
        ("beside", "substitute did not produce path "),
        ("pipe", "has an unsupported type"),
        ("socket-like", ""),
        ("giant", ""),
        ("half", "died unexpectedly"),
    ] {
        setup.set(mode);
        let done = setup.client().ensure(&wanted);
        assert!(done.result.is_err(), "{mode}: {done:#?}");
        assert!(done.log.contains(reason), "{mode}: {done:#?}");
        setup.assert_holds(&[]);
        assert_eq!(
            fs::read_to_string(setup.site.configuration().join("acl")).unwrap(),
            "(acl)"
        );
    }
}

#[test]
fn the_daemon_deduplicates_if_that_is_wanted() {
    let text = "x".repeat(20_000);
    for deduplicate in [true, false] {
        let options: &[&str] = match deduplicate {
            true => &[],
            false => &["--disable-deduplication"],
        };
        let setup = Setup::with(As::We, options);
        let [one, two] = ["one", "two"].map(|name| setup.offer(name, &text, &[]));
        setup.set("options");
        let mut client = setup.client();
        let done = client.build(&[&one, &two]);
        done.succeeded();
        // To Guix's program, `deduplicate=no' means yes.
        done.did_not_say("deduplicate");
        let inode = |path: &StorePath| fs::metadata(path.as_path()).unwrap().ino();
        assert_eq!(inode(&one) == inode(&two), deduplicate);
        // And it is the daemon that sets modes.
        let mode = fs::metadata(one.as_path()).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o444);
    }
}

#[test]
fn processes_that_it_leaves_change_nothing_and_end_with_the_request() {
    for runs in [As::We, As::Somebody] {
        let setup = Setup::new(runs);
        setup.set("children");
        let text = "the item\n".repeat(100_000);
        let paths = ["one", "two", "three"].map(|name| setup.offer(name, &text, &[]));
        for path in &paths {
            // What they do to the file before it is copied costs the item.
            let done = setup.client().ensure(path);
            assert!(
                done.result.is_ok() || done.log.contains("substituter-failed"),
                "{done:#?}"
            );
        }
        let mark = format!("child-of-{}", setup.site.path("").display());
        assert!(eventually(|| processes_with(&mark).is_empty()));
        setup.set("honest");
        let all: Vec<&StorePath> = paths.iter().collect();
        setup.client().build(&all).succeeded();
        setup.assert_holds(&all);
        for path in &paths {
            assert_eq!(fs::read_to_string(path.as_path()).unwrap(), text);
        }
    }
}

#[test]
fn a_cache_that_is_a_link_leads_where_the_administrator_wants() {
    let setup = Setup::new(As::We);
    let elsewhere = setup.site.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir(setup.site.state().join("substitute")).unwrap();
    symlink(&elsewhere, setup.site.state().join("substitute/cache")).unwrap();
    let wanted = setup.offer("wanted", "the item", &[]);
    setup.set("evil");
    let done = setup.client().ensure(&wanted);
    done.succeeded();
    assert_eq!(deeds(&done.log), [""; 0], "{done:#?}");
    assert!(elsewhere.join("mine").exists());
}

#[test]
fn a_daemon_that_is_killed_leaves_garbage_only() {
    let setup = Setup::new(As::We);
    let wanted = setup.offer("wanted", "the item", &[]);
    let gate = setup.site.path("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let file: PathBuf = setup.site.path("items").join(wanted.base_name());
    fs::remove_file(&file).unwrap();
    symlink(&gate, &file).unwrap();
    let mut client = setup.client();
    let thread = std::thread::spawn(move || client.ensure(&wanted).result);
    // It is in the middle of copying.
    let _gate = fs::File::options().write(true).open(&gate).unwrap();
    assert_eq!(setup.items().len(), 1);
    let place = setup.site.store().join(&setup.items()[0]);
    assert_eq!(
        fs::metadata(&place).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let Setup { daemon, site, .. } = setup;
    daemon.kill();
    thread.join().unwrap().unwrap_err();
    let daemon = site.start(&["--fetcher=guix"]);
    let setup = Setup {
        daemon,
        site,
        _users: None,
    };
    let mut client = setup.client();
    let paths = std::collections::BTreeSet::new();
    let collected = client
        .0
        .collect_garbage(GcAction::DeleteDead, paths, u64::MAX, &mut |_| {});
    collected.unwrap();
    setup.assert_holds(&[]);
}
