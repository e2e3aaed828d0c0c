//! `guix-fetch substitute --query|--substitute`: stands in for `guix substitute` under Guix's own
//! daemon (`doc/spec/substitutes.md`, sections 1 and 2).
//!
//! The daemon believes whatever this process says, so this is the half that decides. It has the
//! daemon's privileges, and it touches no network: that is left to a confined `guix-fetch network`,
//! as our own daemon leaves it.
//!
//! ```text
//! Guix's daemon ══ requests, replies ══ this process ══ crates/substitutes ══ guix-fetch network
//!                                            └─▶ store: the item, if it is right
//! ```
//!
//! Requests are answered one after another, until there are no more. The daemon goes on with its
//! client's request after any reply. It may not if this process ends without one, so that is kept
//! for failures of this machine.

mod agent;
mod log;
mod options;
mod replies;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::bail;
use store::Directories;
use substitutes::agent_request::{self, Request, Requests};

use agent::Agent;
use log::Log;
use options::Options;
use replies::Replies;

/// Which of its two agents the daemon has started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Query,
    Substitute,
}

/// Runs the subcommand with these arguments.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let result = match words.as_slice() {
        ["--query"] => serve(Mode::Query),
        ["--substitute"] => serve(Mode::Substitute),
        ["-V" | "--version"] => {
            let version = env!("GUIX_VERSION");
            let shown = writeln!(io::stdout(), "guix substitute (GNU Guix) {version}");
            shown.map_err(anyhow::Error::from)
        }
        _ => Err(anyhow::anyhow!("{}: unrecognized options", words.join(" "))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The whole run.
fn serve(mode: Mode) -> anyhow::Result<()> {
    let mut replies = Replies::take()?;
    let log = Log::new(replies.reader()?)?;
    let directories = Directories::from_environment(&store::compiled_directories!())?;
    let mut agent = Agent::new(directories, Options::from_environment(), log)?;
    let mut requests = Requests::new(io::stdin().lock());
    while let Some(line) = requests.next_line()? {
        match (mode, Request::parse(&line, agent.store_dir())) {
            (Mode::Query, Some(Request::Have(paths))) => replies.have(&agent.look_up(paths)?)?,
            (Mode::Query, Some(Request::Info(paths))) => {
                let found = agent.look_up_closure(&paths)?;
                replies.info(&paths, &found)?;
            }
            (Mode::Substitute, Some(Request::Substitute { path, destination })) => {
                replies.status(&agent.substitute(&path, &destination)?)?;
            }
            _ => bail!("unknown request: {}", agent_request::shown(&line)),
        }
    }
    Ok(())
}
