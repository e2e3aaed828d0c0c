//! The program `guix-offload`: the build hook.
//!
//! The daemon starts it with pipes as its standard input and output and with the build's log on
//! descriptor 4. `guix-offload test` and `status` are for users.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use farm::history::Pipe;
use hook::directories::HookDirectories;
use hook::generated;
use hook::pool;
use hook::remote::BuildLimits;
use hook::request::Input;
use hook::selection::Selection;
use hook::status::{self, Format};
use hook::{check_machines, run, worker};
use store::Directories;

const USAGE: &str = "\
Usage: guix-offload [offload] SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT
       guix-offload test [FILE [REGEXP]]
       guix-offload status [FILE [REGEXP]]
       guix-offload worker [OPTION...]

Process build offload requests written on the standard input, possibly offloading builds to the
machines listed in `machines.scm'.

FILE is read instead of the usual machine files.  REGEXP, an extended regular expression (as of
`grep -E'), selects the machines in whose names it matches anywhere.

`worker' is what a scheduler or a container engine runs on a node: a build machine for as long as its
standard input stays open, with a store of its own that it removes at its end.

  --daemon=FILE     the daemon's program; by default `guix-daemon' beside this program
  --key=PREFIX      sign by the keys in PREFIX.sec and PREFIX.pub instead of new ones
  --directory=DIR   make the worker's directory in DIR instead of $TMPDIR or /tmp
  --socket=FILE     use the daemon that serves on this socket, and nothing of the above
  --patience=N      wait for the head's first words for N seconds instead of 60

This tool is meant to be used internally by `guix-daemon'.  People use `guix-client offload'.

Environment:
  GUIX_OFFLOAD_MACHINES=FILE  read this machine file instead of the usual ones
  GUIX_OFFLOAD_VERBOSE=1      say why machines are chosen or not

  -h, --help      display this help and exit
  -V, --version   display version information and exit
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match act(&words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            hook::stderr_line!("guix offload: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(words: &[&str]) -> anyhow::Result<u8> {
    system::signal::expect_children()?;
    match words {
        ["--help" | "-h"] | ["offload", "--help" | "-h"] => {
            print(USAGE.as_bytes())?;
            Ok(0)
        }
        ["--version" | "-V"] => {
            let version = env!("GUIX_VERSION");
            print(format!("guix-offload (GNU Guix) {version}\n").as_bytes())?;
            Ok(0)
        }
        ["keeper"] => pool::keep(),
        ["refresh"] => {
            generated::refresh_in_background(&HookDirectories::new(&directories()?)?)?;
            Ok(0)
        }
        ["test", rest @ ..] | ["offload", "test", rest @ ..] if rest.len() <= 2 => {
            let mut text = Vec::new();
            let all_right =
                check_machines::run(&directories()?, &Selection::new(rest)?, &mut text)?;
            print(&text)?;
            Ok(u8::from(!all_right))
        }
        ["status", rest @ ..] | ["offload", "status", rest @ ..] if rest.len() <= 2 => {
            let mut text = Vec::new();
            let selection = Selection::new(rest)?;
            status::write(&directories()?, &selection, Format::Table, &mut text)?;
            print(&text)?;
            Ok(0)
        }
        ["worker", rest @ ..] => worker::run(rest),
        ["offload", system, silence, trace, timeout] | [system, silence, trace, timeout] => {
            match BuildLimits::parse(silence, trace, timeout) {
                Some(limits) => serve(run::Arguments {
                    system: (*system).to_owned(),
                    limits,
                }),
                None => anyhow::bail!("invalid arguments: {}", words.join(" ")),
            }
        }
        _ => anyhow::bail!("invalid arguments: {}", words.join(" ")),
    }
}

fn directories() -> anyhow::Result<Directories> {
    Ok(Directories::from_environment(
        &store::compiled_directories!(),
    )?)
}

/// Writes the output of a command to standard output. If that is a closed pipe, the program ends by
/// `SIGPIPE`, like other Unix programs; the signal is ignored until then.
fn print(text: &[u8]) -> anyhow::Result<()> {
    system::signal::restore_broken_pipes()?;
    let mut out = io::stdout().lock();
    out.write_all(text)
        .and_then(|()| out.flush())
        .context("standard output")
}

/// Serves the daemon.
fn serve(arguments: run::Arguments) -> anyhow::Result<u8> {
    // This must be first, before anything opens descriptors with these numbers. Our own child
    // processes inherit none of them.
    let log = system::pipe::inherited(4)?.map(File::from);
    let rows = Pipe::from_environment();
    let input =
        system::pipe::inherited(0)?.ok_or_else(|| anyhow::anyhow!("standard input is closed"))?;
    let directories = directories()?;
    // Before there are threads: the store may be mounted read-only.
    store::writable::make_writable(&directories)?;
    run::run(&arguments, directories, Input::new(input), log, rows)
}
