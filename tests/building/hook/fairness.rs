//! Clients share what the hook has.

use std::os::unix::process::CommandExt;

use super::super::harness::{eventually, skip};
use super::*;

/// A hook with one machine, which builds one derivation after the other, and writes down which.
const ONE_MACHINE: &str = r#"
while ask; do
    if mkdir $dir/machine 2>/dev/null; then
        accept
        echo $drv >>$dir/order
        case $drv in *-first.drv) until test -e $dir/end; do sleep 0.02; done;; esac
        make
        rmdir $dir/machine
        exit 0
    fi
    echo '# postpone'
done"#;

#[test]
fn who_wants_one_build_does_not_wait_for_all_that_another_client_has_asked_for() {
    if !is_ours() {
        return; // Guix's daemons know nothing of each other
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root, to be two users");
    }
    let setup = hooked(ONE_MACHINE, &["--max-jobs=0"]);
    let mut greedy = Vec::new();
    for number in 0..8 {
        let mut client = client(&setup);
        // They ask when a build has ended, and at no other time.
        client.set(|options| options.set("build-poll-interval", "3600"));
        let name = match number {
            0 => "first".to_owned(),
            _ => format!("greedy-{number}"),
        };
        let drvs: Vec<_> = (0..3)
            .map(|copy| match copy {
                0 => client.write(local(&name)),
                _ => client.write(local(&format!("{name}-more-{copy}"))),
            })
            .collect();
        let first = &drvs[0];
        let drvs: Vec<_> = match number {
            0 => vec![first],
            _ => drvs.iter().collect(),
        };
        let building = client.start(&drvs);
        match number {
            0 => assert!(eventually(|| setup.read("order").contains("-first.drv"))),
            _ => building.wait_for("waiting for locks or build slots"),
        }
        greedy.push(building);
    }
    let modest = client(&setup).write(local("modest"));
    let program = setup.site.for_everybody(env!("CARGO_BIN_EXE_guix-client"));
    let errors = setup.site.path("modest");
    let mut command = setup.site.command(program);
    command.args(["build", modest.path.as_str()]);
    command.stderr(fs::File::create(&errors).unwrap());
    let mut building = command.uid(4243).gid(4243).spawn().unwrap();
    let said = || fs::read_to_string(&errors).unwrap_or_default();
    assert!(
        eventually(|| said().contains("waiting for locks or build slots")),
        "{}",
        said()
    );
    let waits = || {
        setup
            .client()
            .connection
            .query_farm_status()
            .unwrap()
            .0
            .to_string()
    };
    assert!(waits().contains(r#""why":"machine""#), "{}", waits());
    setup.open("end");
    assert!(building.wait().unwrap().success(), "{}", said());
    let order = setup.read("order");
    let second = order.lines().nth(1);
    assert_eq!(second, Some(modest.path.as_str()), "{order}");
    for building in greedy {
        building.finish().1.succeeded();
    }
}
