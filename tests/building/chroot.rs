//! A daemon that was started in a plain chroot: its root directory is not a mount point.

use std::process::Command;

use super::*;

/// Makes a root directory of this machine's programs, with the test's own directory at its usual
/// place, and executes a command there. The mounts are those of a machine that runs systemd: what is
/// mounted in another namespace appears here, unless it is prevented. They end with the command.
const ENTER: &str = r#"
    jail=$1; site=$2; shift 2
    mount --make-rshared /
    mkdir "$jail"
    for name in usr bin sbin lib lib32 lib64 libx32 etc dev proc; do
        if [ -L "/$name" ]; then cp -P "/$name" "$jail"
        elif [ -d "/$name" ]; then mkdir "$jail/$name"; mount --rbind "/$name" "$jail/$name"; fi
    done
    mkdir -p "$jail$site"
    mount --bind "$site" "$jail$site"
    cd "$jail"
    exec chroot . "$@"
"#;

/// A command that runs `program` in a chroot.
fn in_chroot(site: &Site, program: &Path) -> Command {
    let mut command = site.command("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-euc", ENTER])
        .arg("sh")
        .args([site.path("jail"), site.path("")])
        .arg(program);
    command
}

/// Whether what these tests need is there.
fn can_make_mounts() -> bool {
    let made = Command::new("unshare").args(["--mount", "true"]).status();
    let can = made.is_ok_and(|status| status.success());
    if !can {
        skip("cannot make mounts");
    }
    can
}

#[test]
fn builds_start_in_a_plain_chroot() {
    // Guix's daemon needs a root directory that is a mount point.
    if !is_ours() || !can_make_mounts() {
        return;
    }
    let users = BuildUsers::claim();
    let site = Site::new();
    let program = site.for_everybody(harness::program());
    let mut command = in_chroot(&site, &program);
    command.arg("--no-substitutes");
    if let Some(users) = &users {
        command.arg(format!("--build-users-group={}", users.group));
    }
    let daemon = site.launch_command(command);
    daemon.wait_to_serve();
    let about = |name: &str| PathBuf::from(format!("/proc/{}/{name}", daemon.pid()));
    let mounts = fs::read_to_string(about("mountinfo")).unwrap();
    assert!(
        !mounts
            .lines()
            .any(|line| line.split(' ').nth(4) == Some("/"))
    );

    let mut client = Client::connect(&daemon);
    let script = "echo $$; hostname; test -e /etc/shadow || echo no shadow
                  ls -d /usr /jail /real-root 2>/dev/null || echo nothing else
                  grep -c jail /proc/self/mountinfo || true";
    let drv = client.write(Script::new("probe", &format!("{{ {script}\n}} >$out")));
    client.build(&[&drv]).succeeded();
    let said = fs::read_to_string(drv.out().as_path()).unwrap();
    // The sources of its mounts are named as they are on the machine, in the jail or not.
    let expected = "1\nlocalhost\nno shadow\nnothing else\n";
    assert!(said.starts_with(expected), "{said}");
    // No mount of the build is seen by the daemon.
    assert_eq!(fs::read_to_string(about("mountinfo")).unwrap(), mounts);
    daemon.stop();
}

#[test]
fn the_check_of_the_setup_tries_a_build_in_the_chroot() {
    if !is_ours() || !can_make_mounts() {
        return;
    }
    let site = Site::new();
    let program = site.for_everybody(harness::program());
    let output = in_chroot(&site, &program)
        .arg("--check-setup")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("right  a build can start"), "{said}");

    // The kernel allows ordinary users no user namespaces there.
    let site = Site::new();
    fs::set_permissions(site.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(site.path("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let program = site.for_everybody(harness::program());
    let mut command = in_chroot(&site, Path::new("setpriv"));
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .arg("--check-setup");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = said
        .lines()
        .find(|line| line.contains("no build can start"));
    assert!(
        wrong.is_some_and(|line| line.contains("in phase clone")),
        "{said}"
    );
    assert!(
        said.contains("in a chroot, the kernel allows no user namespaces"),
        "{said}"
    );
}
