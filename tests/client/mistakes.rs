//! Arguments that make no sense: exit status 1 for all commands, and a message that says what is
//! wrong.

use crate::fixture::Fixture;

#[test]
fn mistakes_are_status_1_and_are_named() {
    let fixture = Fixture::new();
    let file = fixture.write("file", "contents").display().to_string();
    let file = file.as_str();
    let no_machines = fixture.write("machines.toml", "").display().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&["nonsense"], "nonsense"),
        (&["build", "--nonsense"], "--nonsense"),
        (&["build", ""], "not an item of "),
        (&["build", file], "not an item of "),
        (&["build", "--cores=many"], "many"),
        (&["build", "--rounds=0"], "--rounds"),
        (&["build", "--max-jobs=-1"], "--max-jobs"),
        (&["build", "--timeout=99999999999"], "--timeout"),
        (&["build", "-v", "loud"], "loud"),
        (&["build", "--hello=there"], "--hello"),
        (&["log", "--folow"], "--folow"),
        (&["log"], "ITEM"),
        (&["log", ""], "not in the store"),
        (&["log", file], "not in the store"),
        (&["archive"], "'--export' or '--import'"),
        (&["archive", "--export", "nothing"], "`nothing'"),
        (&["archive", "--import", "x"], "extraneous arguments: x"),
        (&["archive", "--export", "--import"], "--import"),
        (
            &["archive", "--authorize", "--generate-key"],
            "cannot be used with",
        ),
        (&["archive", "--list", "x"], "extraneous arguments: x"),
        (&["archive", "--missing", "x"], "extraneous arguments: x"),
        (&["archive", "--import"], "unexpected end"),
        (&["archive", "--list"], "unexpected end"),
        (&["archive", "--extract", "new"], "unexpected end"),
        (&["archive", "--extract"], "--extract"),
        (
            &["archive", "--generate-key=nonsense"],
            "key generation failed",
        ),
        (&["archive", "--authorize"], "failed to read public key"),
        (&["authorize"], "failed to read public key"),
        (&["authorize", "extra"], "extra"),
        (&["gc", "-C", "lots"], "invalid amount of storage: lots"),
        (&["gc", "-C-1"], "invalid amount of storage: -1"),
        (&["gc", "-C", "99Y"], "amount of storage is too large: 99Y"),
        (
            &["gc", "-F", "99999999999999999999"],
            "amount of storage is too large: 9",
        ),
        (&["gc", "-F", ""], "invalid amount of storage: "),
        (&["gc", "-F"], "--free-space"),
        (&["gc", "--verify=all"], "all: invalid '--verify' option"),
        (&["gc", "--verify", "extra"], "extraneous arguments: extra"),
        (&["gc", "--delete", ""], "`' is not in the store"),
        (
            &["gc", "--references", "relative"],
            "`relative' is not in the store",
        ),
        (&["processes", "--format=xml"], "xml"),
        (&["offload"], "Usage"),
        (&["offload", "nonsense"], "nonsense"),
        (&["offload", "status", "nowhere.toml"], "nowhere.toml"),
        (
            &["offload", "status", &no_machines],
            "no build machine is defined",
        ),
        (&["offload", "status", "--watch=0"], "--watch"),
        (
            &["offload", "test", &no_machines],
            "no build machine is defined",
        ),
        (
            &["offload", "test", file, "("],
            "invalid regular expression",
        ),
        (&["add"], "FILES"),
        (&["add", "nowhere"], "nowhere: No such file"),
        (&["add", "--name=", file], "--name"),
        (&["add", "--name=a/b", file], "a/b"),
        (&["add", "-H", "crc", file], "crc"),
        (&["add", "--flat", "."], "'--flat' needs a regular file"),
        (&["add-text"], "NAME"),
        (&["add-text", ""], "NAME"),
        (&["add-text", ".hidden"], ".hidden"),
        (&["add-text", "-r", "nothing", "name"], "`nothing'"),
        (&["hash"], "FILES"),
        (&["hash", "."], "Is a directory"),
        (&["hash", "-r", "-"], "standard input"),
        (&["hash", "-r", "nowhere"], "nowhere"),
        (&["hash", "--format=roman", file], "roman"),
        (&["manual"], "DIRECTORY"),
        (&["manual", file], file),
    ];
    for (words, text) in cases {
        let run = fixture.run(words);
        run.fails(text)
            .prints_nothing()
            // Words of Rust, not of people.
            .does_not_say("os error")
            .does_not_say("as a value, use '--")
            .does_not_say("failed to fill whole buffer")
            .does_not_say("invalid digit");
    }
}

#[test]
fn without_a_daemon_every_command_that_needs_one_fails() {
    let fixture = Fixture::new();
    let file = fixture.write("file", "contents").display().to_string();
    let item = fixture.no_item("item");
    for words in [
        &["build", &item][..],
        &["build", "--hello"],
        &["build", "--log-file", &item],
        &["log", &item],
        &["archive", "--export", &item],
        &["archive", "--import"],
        &["archive", "--missing"],
        &["gc"],
        &["gc", "--delete", &item],
        &["gc", "--list-dead"],
        &["gc", "--list-failures"],
        &["gc", "--list-roots"],
        &["gc", "--optimize"],
        &["gc", "--references", &item],
        &["gc", "--verify"],
        &["add", &file],
        &["add-text", "name"],
    ] {
        let mut command = fixture.command(words);
        command.env("GUIX_DAEMON_SOCKET", "/nowhere/socket");
        fixture
            .finish(command)
            .fails("failed to connect to `/nowhere/socket': No such file or directory\n")
            .prints_nothing();
    }
    // These need none.
    fixture.run(&["hash", &file]).succeeds();
}

#[test]
fn what_does_nothing_says_so_and_succeeds() {
    let fixture = Fixture::new();
    for (words, text) in [
        (&["build"][..], "no arguments specified, nothing to do"),
        (
            &["archive", "--export"],
            "no arguments specified; creating an empty archive",
        ),
        (&["gc", "--delete"], "no arguments specified, nothing to do"),
    ] {
        fixture.run(words).succeeds().says(text);
    }
}
