//! `guix-offload`: the build hook.
//!
//! The daemon starts it with its standard input and output as pipes and the build's log on
//! descriptor 4. `guix-offload test` and `status` are for people.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;

use offload::remote::Limits;
use offload::request::Input;
use offload::{run, status};
use store::Directories;

const USAGE: &str = "\
Usage: guix-offload [offload] SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT
       guix-offload test [FILE [REGEXP]]
       guix-offload status [FILE [REGEXP]]

Process build offload requests written on the standard input, possibly offloading builds to the
machines listed in `machines.scm'.

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
            offload::say!("guix offload: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(words: &[&str]) -> anyhow::Result<u8> {
    system::signal::expect_children()?;
    match words {
        ["--help" | "-h"] | ["offload", "--help" | "-h"] => {
            write!(io::stdout(), "{USAGE}")?;
            Ok(0)
        }
        ["--version" | "-V"] => {
            writeln!(
                io::stdout(),
                "guix-offload (GNU Guix) {}",
                env!("GUIX_VERSION")
            )?;
            Ok(0)
        }
        ["test", rest @ ..] | ["offload", "test", rest @ ..] if rest.len() <= 2 => {
            let which = status::Which::new(rest)?;
            Ok(status::run_test(&directories()?, &which, &mut io::stdout())?.into())
        }
        ["status", rest @ ..] | ["offload", "status", rest @ ..] if rest.len() <= 2 => {
            status::run_status(
                &directories()?,
                &status::Which::new(rest)?,
                status::Form::Table,
                &mut io::stdout(),
            )?;
            Ok(0)
        }
        ["offload", system, silence, trace, timeout] | [system, silence, trace, timeout] => {
            match (silence.parse(), timeout.parse()) {
                (Ok(max_silent_time), Ok(timeout)) => {
                    let print_build_trace = *trace == "1";
                    let limits = Limits {
                        max_silent_time,
                        timeout,
                        print_build_trace,
                    };
                    hook(run::Arguments {
                        system: (*system).to_owned(),
                        limits,
                    })
                }
                _ => anyhow::bail!("invalid arguments: {}", words.join(" ")),
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

/// Serves the daemon.
fn hook(arguments: run::Arguments) -> anyhow::Result<u8> {
    // First of all, so that the numbers are what the daemon made them. What we start gets neither.
    let log = system::pipe::inherited(4)?.map(File::from);
    let input =
        system::pipe::inherited(0)?.ok_or_else(|| anyhow::anyhow!("standard input is closed"))?;
    let directories = directories()?;
    // Before there are threads: the store may be mounted read-only.
    store::writable::make_writable(&directories)?;
    run::run(&arguments, directories, Input::new(input), log)
}
