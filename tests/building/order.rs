//! The order in which a request's builds are begun.

use super::*;

/// The end of a chain of derivations called `NAME-0`, `NAME-1`, … of which each needs the one before.
/// Each writes its name to the file `order`.
fn chain(
    setup: &Setup,
    client: &mut Client,
    name: &str,
    length: usize,
) -> harness::derivations::Drv {
    let order = setup.gate().join("order");
    let mut last = None;
    for number in 0..length {
        let name = format!("{name}-{number}");
        let mut script = Script::new(
            &name,
            &format!("echo {name} >>{}; echo >$out", order.display()),
        );
        if let Some(before) = &last {
            script = script.input(before, "out");
        }
        last = Some(client.write(script));
    }
    last.unwrap()
}

/// A file that builders can write to.
fn make_order(setup: &Setup) {
    setup.open("order");
    let order = setup.gate().join("order");
    fs::set_permissions(order, fs::Permissions::from_mode(0o666)).unwrap();
}

#[test]
fn what_a_long_chain_waits_for_is_built_before_many_short_builds() {
    let setup = Setup::new(&["--max-jobs=1"]);
    if !is_ours() {
        return; // Guix's daemon goes by name
    }
    make_order(&setup);
    let mut client = setup.client();
    let mut drvs: Vec<_> = (0..20)
        .map(|number| chain(&setup, &mut client, &format!("short-{number}"), 1))
        .collect();
    drvs.push(chain(&setup, &mut client, "z-chain", 5));
    client.build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    let order = setup.read("order");
    let order: Vec<&str> = order.lines().collect();
    let chain = ["z-chain-0", "z-chain-1", "z-chain-2", "z-chain-3"];
    assert_eq!(order[..4], chain, "{order:?}");
    // It is as short as the others now, and the last by name.
    assert_eq!(order.last(), Some(&"z-chain-4"));
    assert_eq!(order.len(), 25);
}

/// With substitutes, each derivation is looked for first, and nobody has them.
#[test]
fn it_is_so_with_substitutes_that_nobody_has() {
    let setup = Setup::with_substitutes(Site::new(), &["--max-jobs=1"]);
    if !is_ours() {
        return;
    }
    make_order(&setup);
    let mut client = setup.client();
    client.set(|options| options.set("build-use-substitutes", "true"));
    let mut drvs: Vec<_> = (0..5)
        .map(|number| chain(&setup, &mut client, &format!("short-{number}"), 1))
        .collect();
    drvs.push(chain(&setup, &mut client, "z-chain", 4));
    client.build(&drvs.iter().collect::<Vec<_>>()).succeeded();
    let order = setup.read("order");
    let order: Vec<&str> = order.lines().collect();
    assert_eq!(
        order[..3],
        ["z-chain-0", "z-chain-1", "z-chain-2"],
        "{order:?}"
    );
}

#[test]
fn what_fails_and_what_is_given_up_does_not_disturb_the_others() {
    let setup = Setup::new(&["--max-jobs=1"]);
    make_order(&setup);
    let mut client = setup.client();
    client.set(|options| options.keep_going = true);
    let bad = client.write(Script::new("bad", "exit 3"));
    let order = setup.gate().join("order");
    let above = format!("echo never >>{}; echo >$out", order.display());
    let above = client.write(Script::new("above", &above).input(&bad, "out"));
    let other = chain(&setup, &mut client, "other", 3);
    let built = client.build(&[&above, &other]);
    built.failed(100, &format!("build of `{}' failed", above.path));
    assert_eq!(setup.read("order"), "other-0\nother-1\nother-2\n");
}
