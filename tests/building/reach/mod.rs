//! What builds must not be able to access: the machine, other users, other builds. Each test is an
//! attack, by a program that really tries it.

mod handed_on;
mod kept;
mod led_out;

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::harness::derivations::Built;
use super::*;
use formats::{Algorithm, StorePath};

/// Compiles the attacker, a static program, once for each test that needs it.
fn compile(site: &Site) -> PathBuf {
    let program = site.path("attack");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/building/reach/attack.c");
    let output = Command::new("cc")
        .args(["-static", "-O1", "-Wall", "-Werror", "-o"])
        .args([program.as_path(), Path::new(source)])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    program
}

/// A client whose builders have the attacker.
struct Attacker {
    client: Client,
    program: StorePath,
}

impl Attacker {
    fn new(setup: &Setup) -> Attacker {
        let program = fs::read(compile(&setup.site)).unwrap();
        let mut client = setup.client();
        let program = client
            .connection
            .add_to_store("attack", true, Algorithm::Sha256, |nar| {
                use formats::nar::Sink;
                nar.regular(true, program.len() as u64, &mut &program[..])
            })
            .unwrap();
        Attacker { client, program }
    }

    /// Runs a script in which `$attack` is the attacker.
    fn run(&mut self, name: &str, script: &str) -> Built {
        let script = format!("attack={}; {script}", self.program);
        let script = Script::new(name, &script).source(&self.program);
        let drv = self.client.write(script);
        self.client.build(&[&drv])
    }
}

/// A daemon that the attacker starts, in the way that `how` names.
fn started(how: &str) -> Setup {
    let site = Site::new();
    let users = BuildUsers::claim();
    let group = users
        .as_ref()
        .map(|users| format!("--build-users-group={}", users.group));
    let mut command = site.command(compile(&site));
    command.arg(how).arg(harness::program());
    command.args(["--no-substitutes"]).args(group);
    let daemon = site.launch_command(command);
    daemon.wait_to_serve();
    Setup {
        daemon,
        site,
        users,
    }
}

#[test]
fn keys_of_whoever_started_the_daemon_and_of_earlier_builds() {
    if !is_ours() {
        return; // Guix's hands them on
    }
    let setup = started("with-ticket");
    let mut attacker = Attacker::new(&setup);
    for name in ["first", "second"] {
        let built = attacker.run(name, "$attack keys; echo >$out");
        built.succeeded();
        built.said("ticket: none\n");
        built.said("left: none\n");
        built.said("add: Function not implemented\n");
    }
}

#[test]
fn calls_that_no_build_needs() {
    if !is_ours() {
        return; // Guix's has no such filter
    }
    for options in [&[][..], &["--disable-chroot"]] {
        let setup = Setup::new(options);
        let mut attacker = Attacker::new(&setup);
        let built = attacker.run("calls", "$attack calls; echo >$out");
        built.succeeded();
        for refused in [
            "io_uring: Function not implemented",
            "userfaultfd: Function not implemented",
            "vsock: Address family not supported by protocol",
            "alg: Address family not supported by protocol",
            "bpf: Operation not permitted",
            "module: Operation not permitted",
        ] {
            built.said(&format!("{refused}\n"));
        }
        for allowed in ["unix", "inet", "netlink"] {
            built.said(&format!("{allowed}: worked\n"));
        }
    }
}

#[test]
fn the_machines_settings_and_devices() {
    if !is_ours() {
        return; // With Guix's, devices have new times
    }
    let (daemon, site) = start(Site::new(), None, &[]);
    let without_users = Setup {
        daemon,
        site,
        users: None,
    };
    // As with a kernel before Linux 5.2, or in a container that refuses what it doesn't know.
    let with_old_calls = started("without-open-tree");
    for setup in [Setup::new(&[]), without_users, with_old_calls] {
        let mut attacker = Attacker::new(&setup);
        let built = attacker.run("host", "$attack host; echo >$out");
        built.succeeded();
        for name in [
            "core_pattern",
            "drop_caches",
            "hostname",
            "sysrq",
            "null",
            "zero",
        ] {
            built.did_not_say(&format!("{name}: worked"));
        }
        built.said("null: Read-only file system\n");
    }
}

#[test]
fn shared_memory_of_earlier_builds() {
    if !is_ours() {
        return; // Guix's leaves it
    }
    for options in [&[][..], &["--disable-chroot"]] {
        let setup = Setup::new(options);
        let mut attacker = Attacker::new(&setup);
        let key = rand::random::<u32>() >> 1;
        for name in ["first", "second"] {
            let script = format!("$attack shared-memory {key}; echo >$out");
            let built = attacker.run(name, &script);
            built.succeeded();
            built.said("memory: none\n");
            built.said("make: worked\n");
        }
    }
}

#[test]
fn files_of_earlier_builds_in_the_hosts_shared_memory() {
    if !is_ours() {
        return; // Guix's leaves them
    }
    let setup = Setup::new(&["--chroot-directory=/host-memory=/dev/shm"]);
    let mut client = setup.client();
    let file = format!("/host-memory/guix-test-{}", rand::random::<u64>());
    for name in ["first", "second"] {
        let script = format!("ls -d {file} 2>/dev/null || echo none; echo >{file}; echo >$out");
        let drv = client.write(Script::new(name, &script));
        let built = client.build(&[&drv]);
        built.succeeded();
        built.said("none\n");
        let outside = file.replace("/host-memory", "/dev/shm");
        assert!(!Path::new(&outside).exists());
    }
}

#[test]
fn access_lists_of_outputs() {
    if !is_ours() {
        return; // Guix's keeps them
    }
    let setup = Setup::new(&[]);
    let mut attacker = Attacker::new(&setup);
    let contents = "what somebody else will add";
    let script = format!(
        "mkdir -p $out/dir; echo -n '{contents}' >$out/dir/file
         for file in $out $out/dir $out/dir/file; do $attack access-list $file 65534; done"
    );
    let drv = attacker.client.write(
        Script::new("lists", &format!("attack={}; {script}", attacker.program))
            .source(&attacker.program),
    );
    let built = attacker.client.build(&[&drv]);
    built.succeeded();
    built.said("access: worked\n");
    built.said("default: worked\n");
    built.said("note: worked\n");
    let out = drv.out().as_path();
    for name in ["", "dir", "dir/file"] {
        let left = xattr::list(out.join(name)).unwrap();
        let left: Vec<_> = left
            .filter(|name| !name.to_string_lossy().starts_with("security."))
            .collect();
        assert!(left.is_empty(), "{name}: {left:?}");
    }
    assert_eq!(
        attacker.client.connection.verify_store(true, false).ok(),
        Some(false)
    );
}

#[test]
fn the_daemons_own_program_as_a_builder() {
    let setup = Setup::new(&[]);
    let mut client = setup.client();
    let link = client
        .connection
        .add_to_store("links", true, Algorithm::Sha256, |nar| {
            use formats::nar::Sink;
            nar.begin_directory()?;
            nar.entry("exe".into())?;
            nar.symlink("/proc/self/exe".into())?;
            nar.entry("root".into())?;
            nar.symlink("/proc/self/root/bin/sh".into())?;
            nar.end_directory()
        })
        .unwrap();
    for name in ["exe", "root"] {
        let script = Script::new(name, "--version")
            .source(&link)
            .builder(&format!("{link}/{name}"));
        let drv = client.write(script);
        let built = client.build(&[&drv]);
        assert!(built.result.is_err(), "{name}: {built:?}");
        built.did_not_say("guix-daemon (");
        if is_ours() {
            built.failed(100, &format!("build of `{}' failed", drv.path));
            built.said(&format!(
                "derivation builder `{link}/{name}' is outside the store"
            ));
        }
    }
}

#[test]
fn files_of_the_host_below_directories_that_are_shown() {
    if !is_ours() {
        return; // Guix's of June 2025 empties the file
    }
    let site = Site::new();
    let (shown, file) = (site.path("shown"), site.path("file"));
    let secret = site.path("secret");
    fs::create_dir_all(&shown).unwrap();
    fs::create_dir_all(&secret).unwrap();
    fs::set_permissions(&shown, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(shown.join("there"), "precious").unwrap();
    fs::write(&file, "shown instead").unwrap();
    fs::write(secret.join("file"), "untouched").unwrap();
    // As a user creates them who can write to the directory.
    symlink(&secret, shown.join("link")).unwrap();
    let options = [
        format!("--chroot-directory=/shown={}", shown.display()),
        format!("--chroot-directory=/shown/there={}", file.display()),
        format!("--chroot-directory=/shown/link/file={}", file.display()),
    ];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    // The link leads nowhere in the builder's root, and not out of it.
    let setup = Setup::at(site, &options);
    let mut client = setup.client();
    let drv = client.write(Script::new("out", "echo >$out"));
    client
        .build(&[&drv])
        .failed(1, "the symbolic link `/shown/link' leads nowhere inside");
    let setup = setup.restarted(&options[..2]);
    let mut client = setup.client();
    let drv = client.write(Script::new("shown", "cat /shown/there; echo; echo >$out"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("shown instead\n");
    assert_eq!(fs::read_to_string(shown.join("there")).unwrap(), "precious");
    assert_eq!(
        fs::read_to_string(secret.join("file")).unwrap(),
        "untouched"
    );
}

#[test]
fn what_is_at_the_place_of_a_file_that_is_shown_stays() {
    let site = Site::new();
    let (shown, file) = (site.path("shown"), site.path("file"));
    fs::create_dir_all(shown.join("directory")).unwrap();
    fs::write(shown.join("there"), "precious").unwrap();
    fs::write(&file, "shown instead").unwrap();
    let option = |name: &str| format!("--chroot-directory=/shown{name}={}", file.display());
    let whole = format!("--chroot-directory=/shown={}", shown.display());
    let (there, directory) = (option("/there"), option("/directory"));
    let setup = Setup::at(site, &[&whole, &there]);
    let mut client = setup.client();
    let drv = client.write(Script::new("shown", "cat /shown/there; echo; echo >$out"));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("shown instead\n");
    assert_eq!(fs::read_to_string(shown.join("there")).unwrap(), "precious");
    let setup = setup.restarted(&[&whole, &directory]);
    let mut client = setup.client();
    let drv = client.write(Script::new("refused", "echo >$out"));
    let built = client.build(&[&drv]);
    built.failed(1, "/shown/directory' exists but is not a regular file");
}

#[test]
fn links_of_the_host_lead_to_what_they_mean() {
    if !is_ours() {
        return; // Guix's copies them, and they dangle
    }
    let site = Site::new();
    fs::create_dir(site.path("real")).unwrap();
    fs::write(site.path("real/file"), "through the link\n").unwrap();
    symlink("real", site.path("directory")).unwrap();
    symlink("real/file", site.path("file")).unwrap();
    let options = ["directory", "file"].map(|name| {
        let path = site.path("").join(name);
        format!("--chroot-directory=/seen-{name}={}", path.display())
    });
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let setup = Setup::at(site, &options);
    let mut client = setup.client();
    let script = "cat /seen-file /seen-directory/file; echo >$out";
    let drv = client.write(Script::new("links", script));
    let built = client.build(&[&drv]);
    built.succeeded();
    assert_eq!(
        built.log.matches("through the link\n").count(),
        2,
        "{built:?}"
    );
}

#[test]
fn links_of_the_host_that_lead_nowhere_are_named() {
    if !is_ours() {
        return; // Guix's copies them
    }
    let site = Site::new();
    let link = site.path("").join("dangling");
    symlink("nowhere", &link).unwrap();
    let option = format!("--chroot-directory=/seen={}", link.display());
    let setup = Setup::at(site, &[&option]);
    let mut client = setup.client();
    let drv = client.write(Script::new("dangling", "echo >$out"));
    let built = client.build(&[&drv]);
    built.failed(1, &format!("follow the symbolic link `{}'", link.display()));
}

#[test]
fn root_without_build_users_builds_as_nobody_that_there_is() {
    if !is_ours() || !nix::unistd::geteuid().is_root() {
        return; // With Guix's, builders are root then
    }
    let (daemon, site) = start(Site::new(), None, &[]);
    let setup = Setup {
        daemon,
        site,
        users: None,
    };
    let gate = setup.gate();
    let mut client = setup.client();
    let script = format!("id -u; echo >{}/made; echo >$out", gate.display());
    let drv = client.write(Script::new("who", &script));
    let built = client.build(&[&drv]);
    built.succeeded();
    built.said("30001\n");
    let made = fs::metadata(gate.join("made")).unwrap();
    assert!(made.uid() >= 0x7000_0000, "{}", made.uid());
    assert_eq!(fs::metadata(drv.out().as_path()).unwrap().uid(), 0);
    drop(client);
    let Setup { daemon, site, .. } = setup;
    drop(daemon);
    fs::remove_dir_all(site.path("gate")).unwrap();
    let (daemon, site) = start(site, None, &["--disable-chroot"]);
    let mut client = Client::connect(&daemon);
    let drv = client.write(Script::new("bare", "echo >$out"));
    client.build(&[&drv]).failed(
        1,
        "no build can run safely as root: use `--build-users-group'",
    );
    drop((daemon, site));
}

#[test]
fn what_failed_builds_leave_is_harmless() {
    if !is_ours() {
        return; // Guix's leaves access lists, and set-id bits without a chroot
    }
    for options in [&[][..], &["--disable-chroot"]] {
        let setup = Setup::new(options);
        let mut attacker = Attacker::new(&setup);
        let script = "mkdir $out; echo >$out/program; chmod 6777 $out/program $out
                      $attack access-list $out/program 65534; $attack access-list $out 65534
                      exit 3";
        let script = format!("attack={}; {script}", attacker.program);
        let script = Script::new("failed", &script).source(&attacker.program);
        let drv = attacker.client.write(script);
        attacker.client.build(&[&drv]).failed(100, "failed");
        let out = drv.out().as_path();
        for file in [out.to_owned(), out.join("program")] {
            let metadata = fs::symlink_metadata(&file).unwrap();
            assert_eq!(
                metadata.mode() & 0o6022,
                0,
                "{options:?} {}",
                file.display()
            );
            let left = xattr::list(&file).unwrap().count();
            assert_eq!(left, 0, "{options:?} {}", file.display());
            assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
        }
    }
}

#[test]
fn descriptors_that_a_builder_handed_out_write_to_nothing() {
    if !is_ours() {
        return; // With Guix's, they write to other people's items
    }
    for options in [&[][..], &["--disable-chroot"]] {
        let setup = Setup::new(options);
        let mut attacker = Attacker::new(&setup);
        // A directory that the administrator shows to builds, or one that all can write to.
        let name = setup.gate().join("socket");
        let listener = UnixListener::bind(&name).unwrap();
        fs::set_permissions(&name, fs::Permissions::from_mode(0o777)).unwrap();
        let contents = "what somebody else adds later\n".repeat(1000);
        let precious = setup.gate().join("contents");
        fs::write(&precious, &contents).unwrap();
        let script = format!(
            "mkdir $out; cat {} >$out/file; $attack hand-out {} $out/file",
            precious.display(),
            name.display()
        );
        let script = format!("attack={}; {script}", attacker.program);
        let script = Script::new("hands-out", &script).source(&attacker.program);
        let drv = attacker.client.write(script);
        let built = attacker.client.build(&[&drv]);
        built.succeeded();
        built.said("send: worked\n");
        let (stream, _) = listener.accept().unwrap();
        let (_, fds) = system::socket::receive_with_fds(&stream, &mut [0; 4]).unwrap();
        let [fd] = <[_; 1]>::try_from(fds).unwrap();
        let other = attacker.client.text("other", &contents, &[]);
        // One file by deduplication.
        let file = drv.out().as_path().join("file");
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&file), inode(other.as_path()));
        fs::File::from(fd).write_all_at(b"evil", 0).unwrap();
        assert_eq!(fs::read_to_string(other.as_path()).unwrap(), contents);
        assert_eq!(fs::read_to_string(file).unwrap(), contents);
    }
}

#[test]
fn files_of_others_that_a_builder_linked_stay_theirs() {
    if !is_ours() || !nix::unistd::geteuid().is_root() {
        return; // Guix's gives them to the client, or to root
    }
    let setup = Setup::new(&["--disable-chroot"]);
    let mut client = setup.client();
    let (owner, asker) = (4242, 4243);
    let file = setup.gate().join("others");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    chown(&file, Some(owner), Some(owner)).unwrap();
    // As a builder may, whatever `protected_hardlinks' is.
    let link = |place: &str| format!("ln {} {place}; exit 1", file.display());
    let kept = client.write(Script::new("kept", &link("mine")));
    let program = setup.site.for_everybody(env!("CARGO_BIN_EXE_guix-client"));
    let mut command = setup.site.command(program);
    command.args(["build", "--keep-failed", "--no-offload", kept.path.as_str()]);
    let output = command.uid(asker).gid(asker).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("keeping build directory"), "{said}");
    let directory = setup.site.path("tmp/guix-build-kept.drv-0");
    assert_eq!(fs::metadata(&directory).unwrap().uid(), asker);
    assert_eq!(names(&directory), [""; 0]);
    let failed = client.write(Script::new("failed", &link("$out")));
    client.build(&[&failed]).failed(100, "failed");
    let rejected = client.write(Script::new(
        "rejected",
        &format!("mkdir $out; ln {} $out/mine", file.display()),
    ));
    let built = client.build(&[&rejected]);
    built.failed(1, "failed");
    built.said("invalid ownership on file");
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (owner, owner));
    assert_eq!(metadata.mode() & 0o7777, 0o666);
    assert_eq!(metadata.nlink(), 1);
}

#[test]
fn a_kept_directory_is_given_away_after_what_is_in_it() {
    if !is_ours() || !nix::unistd::geteuid().is_root() {
        return; // Guix's begins with the directory, where the client can then put links
    }
    let setup = Setup::new(&["--disable-chroot"]);
    let mut client = setup.client();
    let asker = 4243;
    let script =
        "mkdir a; i=0; while test $i -lt 20000; do : >a/$i; i=$((i+1)); done; : >z; exit 1";
    let kept = client.write(Script::new("kept", script));
    let program = setup.site.for_everybody(env!("CARGO_BIN_EXE_guix-client"));
    let mut command = setup.site.command(program);
    command.args(["build", "--keep-failed", "--no-offload", kept.path.as_str()]);
    command.stderr(Stdio::null()).uid(asker).gid(asker);
    let mut build = command.spawn().unwrap();
    let directory = setup.site.path("tmp/guix-build-kept.drv-0");
    let owner = |path: PathBuf| fs::metadata(path).map(|metadata| metadata.uid()).ok();
    // Directories first: what is inside of one that is the asker's must be so, too.
    let pairs = [("a", "a/9999"), ("", "z"), ("", "a")];
    while build.try_wait().unwrap().is_none() {
        for (outside, inside) in pairs {
            if owner(directory.join(outside)) == Some(asker) {
                assert_eq!(owner(directory.join(inside)), Some(asker), "{inside}");
            }
        }
    }
    for name in ["", "a", "a/0", "a/9999", "z"] {
        assert_eq!(owner(directory.join(name)), Some(asker), "{name}");
    }
}

/// A site whose `guix`, which creates the outputs of builtin builders, is a shell script; `$output`
/// is the output.
fn site_with_downloader(script: &str) -> Site {
    site_with(Site::new(), script)
}

fn site_with(site: Site, script: &str) -> Site {
    let guix = site.path("guix");
    let script = format!("#!/bin/sh\n[ $1 = perform-download ] || exit 1\noutput=$3\n{script}");
    fs::write(&guix, script).unwrap();
    fs::set_permissions(&guix, fs::Permissions::from_mode(0o755)).unwrap();
    site.env("GUIX", guix)
}

#[test]
fn rejected_downloads_are_never_seen() {
    if !is_ours() {
        return; // Guix's leaves them in the store, for anybody to write to
    }
    let site = site_with_downloader("echo evil >$output; chmod 666 $output");
    let setup = Setup::at(site, &[]);
    let mut client = setup.client();
    let hash = formats::Hash::sha256("good\n");
    let script = Script::new("file", "").builder("builtin:download");
    let drv = client.write(script.fixed(false, hash));
    let before = setup.store_names();
    client.build(&[&drv]).failed(1, "failed");
    let mut after = setup.store_names();
    after.retain(|name| !name.ends_with(".lock"));
    assert_eq!(after, before);
}

#[test]
fn downloads_are_taken_from_where_nobody_else_can_put_them() {
    if !is_ours() {
        return; // Guix's are made in the store itself
    }
    let site = site_with_downloader("echo good >$output; sleep 0.1");
    let setup = Setup::at(site, &[]);
    let mut client = setup.client();
    let hash = formats::Hash::sha256("good\n");
    let script = Script::new("file", "").builder("builtin:download");
    let drv = client.write(script.fixed(false, hash));
    client.build(&[&drv]).succeeded();
    let out = drv.out().as_path();
    assert_eq!(fs::read_to_string(out).unwrap(), "good\n");
    assert_eq!(fs::metadata(out).unwrap().mode() & 0o7777, 0o444);
    // Again, when the output exists.
    let again = client.build_in_mode(&[&drv], protocol::operations::BuildMode::Check);
    again.succeeded();
    let names = setup.store_names();
    assert!(
        !names.iter().any(|name| name.ends_with(".chroot")),
        "{names:?}"
    );
}

#[test]
fn a_download_writes_nowhere_else() {
    if !is_ours() {
        return; // Guix's may write to the store directory
    }
    let script = "echo evil >$NIX_STORE/evil; echo evil >GATE/evil; echo good >$output";
    let site = Site::new();
    let gate = site.path("gate");
    let site = site_with(site, &script.replace("GATE", gate.to_str().unwrap()));
    let setup = Setup::at(site, &[]);
    let mut client = setup.client();
    let hash = formats::Hash::sha256("good\n");
    let script = Script::new("file", "").builder("builtin:download");
    let drv = client.write(script.fixed(false, hash));
    client.build(&[&drv]).succeeded();
    assert_eq!(names(&setup.gate()), [""; 0]);
    assert!(!setup.store_names().contains(&"evil".to_owned()));
}
