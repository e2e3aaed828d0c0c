//! What `guix-client build` shows on a terminal of builds on other machines.

use crate::farm::{CLIENT, Farm, Kind};
use crate::harness::derivations::{Drv, Script};
use crate::harness::terminal::{Screen, Terminal};

#[test]
fn a_terminal_shows_which_machine_builds_what_and_how_long_its_like_takes() {
    let mut farm = Farm::with(&[Kind::default(), Kind::default()]);
    farm.start(&["--max-jobs=0"]);
    // The usual time of something is known once it has been built.
    let machines = [0, 1].map(|index| farm.entry(index).plain("parallel-builds", "1"));
    farm.configure(&machines);
    let mut client = farm.client();
    let known = Script::new("known-1.0", "sleep 1; echo >$out");
    let known = client.write(known);
    client.build(&[&known]).succeeded();
    // A daemon reads the history now and then, and at its start.
    drop(client);
    farm.daemon = None;
    farm.start(&["--max-jobs=0"]);
    let mut client = farm.client();

    let script = |name: &str, end: &str| {
        let script = format!("echo {name} says; {}; {end}", farm.await_gate("go"));
        Script::new(name, &script)
    };
    let drvs: Vec<Drv> = [
        ("known-1.1", "echo >$out"),
        ("failing", "exit 9"),
        ("waiting", "echo >$out"),
    ]
    .map(|(name, end)| client.write(script(name, end)))
    .into();
    let mut command = farm.site.command(CLIENT);
    command.args(["build", "-k"]).env("NO_COLOR", "1");
    command.args(drvs.iter().map(|drv| drv.path.as_str()));
    let mut terminal = Terminal::start(farm.on_head(&command), 200, 30);
    let row = |screen: &Screen, name: &str| {
        let start = format!("{name}  ");
        let row = screen.lines.iter().find(|line| line.starts_with(&start));
        row.map(|row| {
            row.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
    };
    let names = ["known-1.1", "failing", "waiting"];
    let screen = terminal.wait_for("two builds on two machines", |screen| {
        let rows: Vec<_> = names.iter().filter_map(|name| row(screen, name)).collect();
        rows.len() == 2 && rows.iter().all(|row| row[1].starts_with("build-"))
    });
    let machines: Vec<String> = names
        .iter()
        .filter_map(|name| Some(row(&screen, name)?[1].clone()))
        .collect();
    assert!(machines.contains(&"build-1".to_owned()), "{screen:#?}");
    assert!(machines.contains(&"build-2".to_owned()), "{screen:#?}");
    assert!(
        screen.last().contains("0 of 3 done, 2 building, 1 waiting"),
        "{screen:#?}"
    );
    terminal.wait_for("reasons", |screen| {
        screen.has_line("waiting: 1 for a machine")
    });
    terminal.wait_for("the usual time", |screen| {
        let row = screen
            .lines
            .iter()
            .find(|line| line.starts_with("known-1.1  "));
        row.is_none_or(|row| row.contains(" of ~0:0"))
    });
    farm.open("go");
    let (status, text) = terminal.end();
    assert_eq!(status.code(), Some(1), "{text:?}");
    let screen = Screen::showing(&text, (200, 1000));
    let end = screen
        .after(&format!("failed: {}", drvs[1].path))
        .join("\n");
    assert!(end.starts_with("  on 'build-"), "{end}");
    // That is the builder's exit code; the hook's is 100.
    let reason = end.lines().next().unwrap_or_default();
    assert!(
        reason.ends_with(": builder failed with exit code 9"),
        "{end}"
    );
    // (It is not told again if it is right above.)
    assert!(
        screen
            .after(&format!("building {}", drvs[1].path))
            .iter()
            .any(|line| line.ends_with("failing says")),
        "{screen:#?}"
    );
    assert!(end.contains("\n  whole log: "), "{end}");
    assert!(
        end.contains("2 of 3 derivations built, 1 failed in 0:"),
        "{end}"
    );
    assert!(end.contains(" on 'build-"), "{end}");
}
