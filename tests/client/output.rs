//! Output that can't be written, for every command that prints.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::fixture::{Fixture, Run, wait};
use crate::harness::derivations::{Client, processes_with};
use crate::harness::{eventually, is_ours};
use crate::offloading::NOWHERE;

/// The words of a command, and its standard input.
type Command = (Vec<String>, Vec<u8>);

/// A daemon, and every command that prints something on standard output; `processes` does as long as
/// the client lives.
fn with_commands() -> (Fixture, Vec<Command>, Client) {
    let fixture = Fixture::with_options(&["--no-substitutes", "--cache-failures"]);
    let (client, built) = fixture.derivation("built", "echo >$out");
    let (_client, failing) = fixture.derivation("failing", "echo text; exit 1");
    fixture
        .run(&["build", built.path.as_str(), "-r", "root"])
        .succeeds();
    fixture
        .run(&["build", failing.path.as_str()])
        .fails("failed");
    fixture.run(&["archive", "--generate-key"]).succeeds();
    let file = fixture.write("file", "contents").display().to_string();
    let machines = fixture.write("machines.toml", NOWHERE);
    let machines = machines.display().to_string();
    let base = fixture.add_text("base", "", &[]);
    let top = fixture.add_text("top", &base, &[&base]);
    let nar = {
        use formats::nar::{Sink, Writer};
        let mut nar = Writer::new(Vec::new());
        nar.regular(false, 1, &mut &b"x"[..]).unwrap();
        nar.into_inner()
    };
    let missing = format!("{}\n", fixture.no_item("missing"));
    let (built, out) = (built.path.as_str(), built.out().as_str());
    let commands: &[(&[&str], &[u8])] = &[
        (&["--help"], b""),
        (&["--version"], b""),
        (&["gc", "--help"], b""),
        (&["build", built], b""),
        (&["build", "-q", built], b""),
        (&["build", "-n", built], b""),
        (&["build", "-d", built], b""),
        (&["build", "--log-file", built], b""),
        (&["build", "--hello", "-q"], b""),
        (&["log", failing.path.as_str()], b""),
        (&["gc", "--list-live"], b""),
        (&["gc", "--list-dead"], b""),
        (&["gc", "--list-roots"], b""),
        (&["gc", "--list-busy"], b""),
        (&["gc", "--list-failures"], b""),
        (&["gc", "--references", &top], b""),
        (&["gc", "--referrers", &base], b""),
        (&["gc", "--requisites", &top], b""),
        (&["gc", "--derivers", out], b""),
        (&["add", &file], b""),
        (&["add-text", "name"], b"text"),
        (&["hash", &file], b""),
        (&["archive", "--export", &top], b""),
        (&["archive", "--export", "-r", &top], b""),
        (&["archive", "--missing"], missing.as_bytes()),
        (&["archive", "--list"], &nar),
        (&["processes"], b""),
        (&["offload", "status", &machines], b""),
        (&["offload", "status", "--json", &machines], b""),
        (&["offload", "status", "--prometheus", &machines], b""),
        (&["offload", "status", "--watch=1", &machines], b""),
        (&["offload", "test", &machines], b""),
    ];
    let commands = commands
        .iter()
        .map(|(words, input)| {
            let words = words.iter().map(|&word| word.to_owned()).collect();
            (words, input.to_vec())
        })
        .collect();
    (fixture, commands, client)
}

/// Runs the client with another standard output.
fn run_with_output(fixture: &Fixture, words: &[String], input: &[u8], out: Stdio) -> Run {
    let mut command = fixture.command(words);
    let name = fixture.site.path("input");
    fs::write(&name, input).unwrap();
    command.stdin(File::open(name).unwrap());
    fixture.finish_with_output(command, out)
}

/// A pipe without a reader.
fn closed_pipe() -> OwnedFd {
    let (reader, writer) = system::pipe::pipe().unwrap();
    drop(reader);
    writer
}

fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// `--list-busy` only prints what processes use, and some of the daemon's lists may be empty.
fn prints_something(fixture: &Fixture, words: &[String], input: &[u8]) -> bool {
    if words.iter().any(|word| word.starts_with("--watch")) {
        return true;
    }
    let name = fixture.site.path("printed");
    let out = File::create(&name).unwrap();
    run_with_output(fixture, words, input, out.into());
    fs::metadata(name).unwrap().len() > 0
}

#[test]
fn a_reader_that_is_gone_ends_every_command_as_it_ends_any_program() {
    let (fixture, commands, _client) = with_commands();
    let mut ended = 0;
    for (words, input) in &commands {
        if !prints_something(&fixture, words, input) {
            continue;
        }
        run_with_output(&fixture, words, input, closed_pipe().into())
            .is_killed_by(Signal::SIGPIPE)
            .does_not_say("panicked");
        ended += 1;
    }
    assert!(ended >= commands.len() - 3, "{ended} of {}", commands.len());
}

#[test]
fn a_full_disk_is_an_error_of_every_command() {
    let (fixture, commands, _client) = with_commands();
    for (words, input) in &commands {
        if !prints_something(&fixture, words, input) {
            continue;
        }
        run_with_output(&fixture, words, input, full_disk().into())
            .fails("standard output: No space left on device\n")
            .does_not_say("os error");
    }
}

#[test]
fn messages_that_cannot_be_written_change_nothing() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("hello", "echo from the builder; echo >$out");
    let mut command = fixture.command(&["build", drv.path.as_str()]);
    let out = fixture.file("printed");
    let child = command
        .stdout(File::create(&out).unwrap())
        .stderr(full_disk())
        .spawn()
        .unwrap();
    assert!(wait(child, "a build").success());
    assert_eq!(fs::read_to_string(out).unwrap(), format!("{}\n", drv.out()));
    let child = fixture
        .command(&["build", "/nowhere"])
        .stderr(full_disk())
        .spawn();
    assert_eq!(wait(child.unwrap(), "an error").code(), Some(1));
}

/// Starts a build as in `guix-client build … 2>&1 | head -2`, and expects it and the builder to end
/// with the reader.
fn assert_ends_with_its_reader(script: &str) {
    let fixture = Fixture::new();
    // It distinguishes the builder from those of other tests.
    let mark = fixture.gate("mark").display().to_string();
    let (_client, drv) = fixture.derivation("slow", &format!("{script} # {mark}"));
    let (reader, writer) = system::pipe::pipe().unwrap();
    let mut command = fixture.command(&["build", "-v", "3", drv.path.as_str()]);
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    let child = command.spawn().unwrap();
    // The command holds the write ends as long as it lives.
    drop(command);
    let mut lines = BufReader::new(File::from(reader)).lines();
    let seen = lines.any(|line| line.unwrap() == "started");
    assert!(seen, "the builder never started");
    assert!(!processes_with(&mark).is_empty());
    drop(lines);
    assert_eq!(wait(child, "a build without reader").signal(), Some(13));
    let no_builder = || processes_with(&mark).is_empty();
    assert!(eventually(no_builder), "the builder goes on");
    assert!(!fixture.has(drv.out()));
}

#[test]
fn a_build_ends_with_the_reader_of_its_log() {
    let talking = "echo started; while true; do echo more; sleep 0.1; done";
    assert_ends_with_its_reader(talking);
}

#[test]
fn a_silent_build_ends_with_the_reader_of_its_log() {
    assert_ends_with_its_reader("echo started; sleep 1000; false");
}

#[test]
fn a_build_goes_on_without_a_reader_of_its_result() {
    let fixture = Fixture::new();
    let (_client, drv) = fixture.derivation("built", "echo >$out");
    let command = fixture.command(&["build", drv.path.as_str()]);
    fixture
        .finish_with_output(command, closed_pipe().into())
        .is_killed_by(Signal::SIGPIPE);
    assert!(fixture.has(drv.out()));
}

#[test]
fn a_daemon_that_hangs_up_is_an_error_with_a_message() {
    if !is_ours() {
        return;
    }
    let fixture = Fixture::new();
    let script = format!("echo started; {}", fixture.await_gate("never"));
    let (_client, drv) = fixture.derivation("slow", &script);
    let (reader, writer) = system::pipe::pipe().unwrap();
    let mut command = fixture.command(&["build", drv.path.as_str()]);
    let child = command
        .stderr(writer)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    drop(command);
    let mut lines = BufReader::new(File::from(reader))
        .lines()
        .map(Result::unwrap);
    assert!(lines.any(|line| line == "started"));
    fixture.daemon.signal(Signal::SIGKILL);
    assert_eq!(wait(child, "a build without daemon").code(), Some(1));
    let last = lines.last().unwrap();
    assert!(last.starts_with("guix-client build: error: "), "{last}");
}

/// As a shell sees it.
#[test]
fn a_pipeline_sees_what_it_sees_of_other_programs() {
    let fixture = Fixture::new();
    let mut shell = fixture.site.command("bash");
    shell.args(["-c", "set -o pipefail; \"$0\" gc --help | :; echo $?"]);
    shell.arg(crate::fixture::GUIX_CLIENT);
    // The help may be written before `:' has ended.
    let status = fixture.finish(shell).succeeds().line();
    assert!(["0", "141"].contains(&status.as_str()), "{status}");
}
